"""Planning shards over many token files: the same plan with indexes read ahead, and never many of them at once."""

from __future__ import annotations

import io
import threading

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.jobs import shards
from pipeline.jobs.shards import AHEAD, document_ends, read_ahead
from pipeline.jobs.tokenize import StoredTokens
from pipeline.plan.node import Stored
from stages.tokens.shard import plan_shards
from stages.tokens.token_file import TokenFile


class Files:
    """Token files of documents of these lengths: as the run stores them, and as the plan of shards takes them."""

    def __init__(self, lengths: list[list[int]]) -> None:
        none = Stored("", "")
        self.stored = [
            StoredTokens(none, Stored(str(number), ""), sum(found), len(found), 0) for number, found in enumerate(lengths)
        ]
        self.described = [file.described("", file.index.path) for file in self.stored]
        self.ends = [np.cumsum(found, dtype=np.int64) for found in lengths]

    def read(self, file: StoredTokens) -> np.ndarray:
        return self.ends[int(file.index.path)]

    def of(self, file: TokenFile) -> StoredTokens:
        return self.stored[int(file.index_path)]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), max_size=8), max_size=30), st.integers(1, 90))
def test_reading_ahead_changes_no_plan(lengths: list[list[int]], size: int) -> None:
    files = Files(lengths)
    with read_ahead(files.stored, size, files.read) as ahead:
        plan = plan_shards(files.described, size, lambda file: ahead(files.of(file)))
    assert plan == plan_shards(files.described, size, lambda file: files.read(files.of(file)))


def test_indexes_with_many_documents_are_read_one_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "AHEAD_DOCUMENTS", 250)
    files = Files([[7] * 100] * 60)
    asked, read = [], []

    def one(file: StoredTokens) -> np.ndarray:
        read.append(int(file.index.path))
        return files.read(file)

    with read_ahead(files.stored, 1500, one) as ahead:

        def ask(file: TokenFile) -> np.ndarray:
            found = ahead(files.of(file))
            asked.append(int(file.index_path))
            return found

        plan_shards(files.described, 1500, ask)
        assert sum(number > asked[-1] for number in read) <= 2
    assert set(asked) <= set(read) and len(asked) >= 25
    assert len(read) <= len(asked) + 12


def test_indexes_are_read_ahead_once_and_let_go() -> None:
    files = Files([[7] * 100] * 3000)
    read: list[str] = []
    taken: list[int] = []
    lock = threading.Lock()

    def one(file: StoredTokens) -> np.ndarray:
        with lock:
            read.append(file.index.path)
        return files.read(file)

    with read_ahead(files.stored, 7_003, one) as ahead:

        def ask(file: TokenFile) -> np.ndarray:
            found = ahead(files.of(file))
            taken.append(int(file.index_path))
            with lock:
                assert sum(int(name) > taken[-1] for name in read) <= AHEAD
            return found

        plan = plan_shards(files.described, 7_003, ask)
    assert len(plan) == 300 and len(taken) >= 299
    assert len(read) == len(set(read)) < 1.3 * len(taken)  # a few guesses miss, the more the smaller the files


def test_the_ends_of_many_documents_lie_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """One imported file may hold as many documents as a corpus."""
    wanted = np.cumsum(np.random.default_rng(0).integers(1, 900, 50_000))
    index = io.BytesIO()
    pq.write_table(pa.table({"end": wanted, "id": [str(end) for end in wanted]}), index, row_group_size=7_000)
    held = document_ends(index, len(wanted))
    monkeypatch.setattr(shards, "AHEAD_DOCUMENTS", len(wanted) - 1)
    mapped = document_ends(index, len(wanted))
    assert isinstance(mapped, np.memmap) and not isinstance(held, np.memmap)
    assert np.array_equal(mapped, wanted) and np.array_equal(held, wanted)
    files = [TokenFile("", "0", int(wanted[-1]), len(wanted), 0)]
    plans = [plan_shards(files, 100_000, lambda _, ends=ends: ends) for ends in (held, mapped)]
    assert plans[0] == plans[1] and len(plans[0]) > 200
