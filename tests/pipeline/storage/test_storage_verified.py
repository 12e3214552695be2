"""Files that a run wrote: whatever bit of them is another one, it is noticed before they are read."""

from __future__ import annotations

import pickle
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from stages.parts import PartWriter

ROWS = [{"id": f"d{n}", "text": f"Document {n} says what it has to say. " * 20, "words": n / 7} for n in range(300)]


@pytest.fixture
def part(tmp_path: Path) -> Path:
    table = pa.Table.from_pylist(ROWS)
    with PartWriter(tmp_path / "x.parquet", table.schema) as writer:
        for batch in table.to_batches(100):
            writer.write(batch)
    return tmp_path / "x.parquet"


def flipped(data: bytes, bit: int) -> bytes:
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


@pytest.mark.parametrize("where", ["anywhere", "footer"])
def test_every_flipped_bit_is_noticed(part: Path, where: str) -> None:
    digest, whole = storage.file_digest(part), part.read_bytes()
    with storage.open_verified(part, digest) as file:
        assert pq.read_table(file).to_pylist() == ROWS
    first = 0 if where == "anywhere" else len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    for bit in random.Random(0).sample(range(8 * first, 8 * len(whole)), 300):
        part.write_bytes(flipped(whole, bit))
        with pytest.raises(
            storage.DamagedError, match=r"damaged since it was written: its xxh3 is .*; run again with --verify"
        ) as caught:
            storage.open_verified(part, digest)
        assert str(caught.value).startswith(str(part)) and caught.value.uri == str(part)
        with pytest.raises(storage.DamagedError):
            storage.verify_path(part, digest)
    for other in (b"", whole[:-1], whole + b"\0"):
        part.write_bytes(other)
        with pytest.raises(storage.DamagedError):
            storage.open_verified(part, digest)
    part.write_bytes(whole)
    storage.open_verified(part, digest).close()
    assert storage.digest_of(str(part)) == digest


def test_on_s3_too(part: Path, s3, tmp_path: Path) -> None:
    uri, digest, whole = s3.uri("x.parquet"), storage.file_digest(part), part.read_bytes()
    storage.write_bytes(uri, whole)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with storage.open_verified(uri, digest, scratch) as file:
        assert pq.read_table(file).to_pylist() == ROWS
    storage.write_bytes(uri, flipped(whole, 4321))
    with pytest.raises(storage.DamagedError, match=r"x\.parquet: damaged since it was written") as caught:
        storage.open_verified(uri, digest, scratch)
    assert caught.value.uri == uri and not list(scratch.iterdir())
    again = pickle.loads(pickle.dumps(caught.value))  # as it comes from a worker
    assert (str(again), again.uri) == (str(caught.value), uri)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(storage.MissingError, match="no such file"):
        storage.open_verified(tmp_path / "none", "xxh3:00")
