"""Finds where a large file of plain JSON lines can be cut, so that several tasks read it and each line keeps its number."""

from __future__ import annotations

from typing import Any

from pipeline import storage
from pipeline.task import Context
from stages.read.split import line_parts

VERSION = 1


def run(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Read the file once and report its ranges: [offset, length in bytes, ordinal of the first line] of each."""
    with storage.open_stream(spec["file"]["uri"]) as stream:
        parts = line_parts(stream, spec["split_bytes"])
        return {"ranges": [[part.offset, part.length, part.first_record] for part in parts]}
