"""Promises that one changed line would break, each tried by itself."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from pipeline import storage
from pipeline.engine.engine import Engine
from pipeline.engine.place import Placement
from pipeline.jobs.context import Context
from pipeline.jobs.documents import Documents
from pipeline.jobs.inputs import NamedStep
from pipeline.ledger import Ledger, Ref
from pipeline.plan.node import Job, Node, Report, Stage, key_of
from pipeline.progress import Progress
from pipeline.storage.stream import ResumingStream
from stages.dedup.removals import largest_clusters
from stages.dedup.shuffle import ShuffleWriter
from stages.errors import UserError
from stages.filters.repetition import Repetition
from stages.marks import Setting
from stages.read import ReadSpec
from stages.step import Bounds


def test_a_steps_version_is_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    def key() -> str:
        return key_of(Documents("web", (NamedStep("repetition", Repetition()),), "all", ReadSpec())).key

    before = key()
    assert key() == before
    monkeypatch.setattr(Repetition, "version", Repetition.version + 1)
    assert key() != before


def test_a_value_that_is_the_limit_passes() -> None:
    drops = Bounds(min=2, max=5).decide(np.array([1.9, 2.0, 5.0, 5.1, np.nan]))
    assert drops["min"].tolist() == [True, False, False, False, False]
    assert drops["max"].tolist() == [False, False, False, True, False]


def test_of_equal_clusters_the_first_in_canonical_order_is_shown() -> None:
    found = [{"size": size, "part": part, "row": row} for size, part, row in [(3, 1, 0), (3, 0, 9), (5, 2, 2), (3, 0, 1)]]
    shown = [(c["size"], c["part"], c["row"]) for c in largest_clusters(found, 3)]
    assert shown == [(5, 2, 2), (3, 0, 1), (3, 0, 9)]


def test_a_shuffle_sets_rows_aside_once_its_memory_is_full(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("key", pa.int64())])
    writer = ShuffleWriter(tmp_path / "file", 2, schema, ("key",), 4000)
    for begin in range(0, 1000, 100):
        keys = np.arange(begin, begin + 100)
        writer.add((keys % 2).astype(np.int32), {"key": keys})
        assert sum(table.nbytes for _, table in writer._held) < 4000
    assert list(tmp_path.glob("file.spill*"))
    assert writer.finish() == 1000 and [path.name for path in tmp_path.iterdir()] == ["file"]


class Breaking:
    """A storage whose connections break off after a byte; some before it."""

    def __init__(self, size: int, barren: int) -> None:
        self.size, self.barren, self.opened = size, barren, 0

    def open_range(self, uri: str, start: int, stop: int, stat: Any) -> Any:
        self.opened += 1
        data = b"" if (self.opened - 1) % (self.barren + 1) else b"x"
        body = io.BytesIO(data)
        body.start = start  # type: ignore[attr-defined]
        return _Body(body, start)

    def stat(self, uri: str) -> storage.Stat:
        return storage.Stat(self.size, "v")


class _Body:
    def __init__(self, data: io.BytesIO, start: int) -> None:
        self.data, self.start = data, start

    def read(self, size: int) -> bytes:
        return self.data.read(size)

    def close(self) -> None:
        pass


def test_a_transfer_is_given_up_after_failures_in_a_row_and_not_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.storage.retry.wait", lambda attempt: None)

    def read(barren: int) -> bytes:
        there = Breaking(40, barren)
        return ResumingStream(there, "http://a.example/x", storage.Stat(40, "v"), 0, 40).read()  # type: ignore[arg-type]

    assert read(4) == b"x" * 40  # 160 failures in all, never more than 5 in a row
    with pytest.raises(storage.StorageError, match="could not be continued"):
        read(20)


@dataclass(frozen=True)
class Work(Job):
    name: Setting[str]

    def run(self, context: Context) -> Report:
        with context.output(f"parts/{self.name}") as path:
            path.write_text("done")
        return Report()


def test_a_stage_does_not_begin_where_the_lock_was_lost(tmp_path: Path) -> None:
    with storage.RunLock(tmp_path) as lock, Ledger(str(tmp_path), writable=True) as ledger:
        engine = Engine(str(tmp_path), ledger, Placement(inline=True, progress=Progress(quiet=True)), lock)
        lost = mock.patch.object(engine, "still_ours", side_effect=UserError("another run has the folder"))
        with lost, pytest.raises(UserError, match="another run"):
            engine.run(Stage("p", [Node(Ref("work", "", "a", 0), Work("a"))]))
    assert not list(tmp_path.glob("parts/*"))
