"""Who was dropped and why: one line a record, and the counts."""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from pipeline.pairs.make import Books


class DroppedRecord(msgspec.Struct, frozen=True):
    """A record that gave no pair, by which rule, and what of it."""

    id: str | None
    file: str
    record: int
    rule: str
    detail: str


class DroppedLog:
    """Writes `dropped.jsonl.gz` and keeps the books."""

    def __init__(self, path: Path, books: Books) -> None:
        self.path, self.books = path, books

    def __enter__(self) -> DroppedLog:
        self._stack = contextlib.ExitStack()
        raw = self._stack.enter_context(self.path.open("wb"))
        self._file = self._stack.enter_context(gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0))
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def drop(self, file: str, record: int, name: str | None, rule: str, detail: str) -> None:
        """Note one record."""
        self.books.dropped[rule] += 1
        self.books.first.setdefault(rule, f"{file}, record {record}: {detail}")
        self._file.write(msgspec.json.encode(DroppedRecord(name, file, record, rule, detail)) + b"\n")


def read_dropped(path: Path) -> Iterator[DroppedRecord]:
    """The lines of a log."""
    with gzip.open(path, "rb") as file:
        yield from map(msgspec.json.Decoder(DroppedRecord).decode, file)
