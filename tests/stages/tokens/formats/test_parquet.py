"""Token lists in Parquet as others write them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.tokens.formats.parquet import PAGE_BUFFER, read_parquet
from stages.tokens.shard_format import ShardError


def read(table: pa.Table, **options: Any) -> list:
    file = io.BytesIO()
    pq.write_table(table, file)
    return list(read_parquet(file, "x/a.parquet", **options))


@pytest.mark.parametrize("kind", [pa.list_(pa.int64()), pa.large_list(pa.uint32()), pa.list_(pa.uint16())])
@pytest.mark.parametrize("max_tokens", [1, 3, 100])
def test_lists_of_any_width(kind: pa.DataType, max_tokens: int) -> None:
    lists = [[1, 2], None, [], [3, 4, 5, 6], [7]]
    found = read(pa.table({"tokens": pa.array(lists, kind), "id": [10, 11, None, 13, 14]}), max_tokens=max_tokens)
    rows = [b.tokens[a:e].tolist() for b in found for a, e in zip(b.starts, b.ends, strict=True)]
    assert rows == [[1, 2], [], [], [3, 4, 5, 6], [7]]
    assert all(len(b.tokens) <= max_tokens or len(b) == 1 for b in found)
    assert [name for b in found for name in b.ids.to_pylist()] == ["10", "11", "a.parquet:3", "13", "14"]
    assert [loc for b in found for loc in b.locs.tolist()] == [1, 2, 3, 4, 5]


def test_a_row_group_as_long_as_the_file_is_read_in_pieces() -> None:
    """Writers put up to a million documents into a row group: to hold it is to hold the file."""

    class Counted(io.BytesIO):
        most = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            Counted.most = max(Counted.most, len(data))
            return data

    tokens = np.random.default_rng(0).integers(0, 2**31, 4_000_000, np.int64)
    lists = pa.LargeListArray.from_arrays(np.arange(0, len(tokens) + 1, 1000), pa.array(tokens))
    file = Counted()
    pq.write_table(pa.table({"input_ids": lists}), file, use_dictionary=False, compression="none")
    assert pq.ParquetFile(file).num_row_groups == 1 and file.tell() > 8 * PAGE_BUFFER
    Counted.most = 0
    assert np.array_equal(np.concatenate([block.tokens for block in read_parquet(file, "a.parquet")]), tokens)
    assert 0 < Counted.most <= 4 * PAGE_BUFFER


def test_what_holds_no_tokens_is_named() -> None:
    with pytest.raises(ShardError, match="column tokens is string; a list of whole numbers was expected"):
        read(pa.table({"tokens": ["a"]}))
    with pytest.raises(ShardError, match="rows 1 to 1 has an empty place among its tokens"):
        read(pa.table({"tokens": [[1, None]]}))
    with pytest.raises(ShardError, match="has no column ids; its columns are tokens"):
        read(pa.table({"tokens": [[1]]}), tokens_field="ids")
    with pytest.raises(ShardError, match="cannot be read as Parquet"):
        list(read_parquet(io.BytesIO(b"no parquet at all"), "a.parquet"))
