"""Megatron's index: documents of several sequences, and what is refused."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest

from stages.tokens.formats import megatron
from stages.tokens.formats.block import Block, blocks, numbered
from stages.tokens.shard_format import ShardError


def index(lengths: list[int], documents: list[int], code: int = 8, size: int = 2, shift: int = 0) -> bytes:
    offsets = (np.cumsum([0, *lengths])[:-1] * size + shift).astype("<i8")
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, code, len(lengths), len(documents))
    return head + np.array(lengths, "<i4").tobytes() + offsets.tobytes() + np.array(documents, "<i8").tobytes()


def ends_of(data: bytes) -> list[int]:
    stream = io.BytesIO(data)
    head = megatron.read_head(stream, "x.idx")
    return [int(end) for rows in megatron.rows_of_index(stream, head, "x.idx", "x.bin") for end in rows.ends]


@pytest.mark.parametrize("at_once", [1, 2, 65_536])
def test_a_document_of_several_sequences_is_one(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(megatron, "ROWS_AT_ONCE", at_once)
    assert ends_of(index([3, 2, 4, 1, 5], [0, 2, 2, 3, 5])) == [5, 5, 9, 15]
    assert ends_of(index([7], [0, 1], code=5, size=8)) == [7]
    assert ends_of(index([], [0])) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"PK" * 30, "does not begin with MMIDIDX"),
        (index([3], [0, 1], code=7), "type 7"),
        (index([3, 4], [0, 1]), "1 of its sequences belong to no document"),
        (index([3, 4], [1, 2]), "do not cover its 2 sequences in order"),
        (index([3, 4], [0, 1, 2], shift=2), "do not follow one another"),
        (index([3, 4], [0, 1, 2])[:-3], "is cut off"),
    ],
)
def test_damage_is_named(data: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        ends_of(data)


def test_megatrons_own_builder_writes_what_is_read(tmp_path: Path) -> None:
    dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed")
    torch = pytest.importorskip("torch")
    builder = dataset.IndexedDatasetBuilder(str(tmp_path / "x.bin"), dtype=np.int32)
    builder.add_document(torch.tensor([5, 6, 70_000]), [1, 2])
    builder.add_document(torch.tensor([9]), [1])
    builder.finalize(str(tmp_path / "x.idx"))
    assert ends_of((tmp_path / "x.idx").read_bytes()) == [3, 4]
    assert np.fromfile(tmp_path / "x.bin", "<i4").tolist() == [5, 6, 70_000, 9]


def test_more_or_fewer_documents_than_the_index_is_for_are_refused(tmp_path: Path) -> None:
    rows = numbered(np.array([2, 3]), 0, "x")
    for count in (1, 3):
        found = blocks(io.BytesIO(bytes(6)), np.dtype("<u2"), [rows], "x")
        with pytest.raises(ShardError, match=f"for an index of {count}"):
            megatron.write_megatron(found, io.BytesIO(), io.BytesIO(), count, np.dtype("<u2"))
    large = Block(np.array([2**31], "<u4"), np.array([1]), rows.ids[:1], rows.srcs[:1], rows.locs[:1])
    with pytest.raises(ShardError, match="Megatron stores ids up to"):
        megatron.write_megatron([large], io.BytesIO(), io.BytesIO(), 1, np.dtype("<u4"))
