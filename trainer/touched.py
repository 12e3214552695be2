"""Which items of tasks a corpus held: read from what `python -m pipeline contamination DIR --json` says of it.

It names each evaluation set by a digest of its file, and each item found by the record (line, from 1) at which it begins.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainer.errors import TrainerError

Touched = Mapping[str, frozenset[int]]
"""Digest of a request file -> the records at which items begin that were found in the corpus."""


def read_touched(path: Path) -> Touched:
    """The items that were found, of all steps. Raises TrainerError for a file that does not say so."""
    found: dict[str, set[int]] = {}
    try:
        steps = json.loads(path.read_text("utf-8"))["steps"]
        for step in steps.values():
            for one in step["sets"].values():
                found.setdefault(one["digest"], set()).update(map(int, one["by_item"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainerError(
            f"{path}: not what `contamination DIR --json` prints ({type(error).__name__}: {error})"
        ) from None
    return {digest: frozenset(records) for digest, records in found.items()}


def touched_documents(requests: Path, touched: Touched) -> set[int] | None:
    """The numbers (doc_id) of the task's documents that were found; None where the corpus was not searched for this file."""
    with requests.open("rb") as file:
        digest = hashlib.file_digest(file, "blake2b").hexdigest()[:40]
    if digest not in touched:
        return None
    with gzip.open(requests, "rt", encoding="utf-8") as lines:
        return set(_documents(lines, touched[digest]))


def _documents(lines: Iterable[str], records: frozenset[int]) -> Iterable[int]:
    for record, line in enumerate(lines, start=1):
        if record in records and line.strip():
            yield int(json.loads(line)["doc_id"])
