"""Who was dropped and why: one line a record, and the counts."""

from __future__ import annotations

import contextlib
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.pairs.make import Books


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
        line = {"id": name, "file": file, "record": record, "rule": rule, "detail": detail}
        self._file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")


def read_dropped(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)
