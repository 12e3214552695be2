"""What a file's name says of it: its suffixes, as other tools write them, in any case and before a web address's query."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

_ADDRESS = re.compile(r"(https?://[^?#]*)[?#].*", re.IGNORECASE | re.DOTALL)
_QUERY = re.compile(r"(.*\.[A-Za-z0-9]+)\?[A-Za-z0-9_-]+=.*", re.DOTALL)  # what a download's file name may have kept


def suffixes(name: str) -> list[str]:
    """The suffixes of the last name in a path or URI, in lower case: "x/A.JSONL.GZ?download=true" -> [".jsonl", ".gz"]."""
    if found := _ADDRESS.fullmatch(name) or _QUERY.fullmatch(name):
        name = found[1]
    return [suffix.lower() for suffix in PurePosixPath(name).suffixes]
