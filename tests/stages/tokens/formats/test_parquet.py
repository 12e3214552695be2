"""Token lists in Parquet as others write them."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.tokens.formats.parquet import read_parquet
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


def test_what_holds_no_tokens_is_named() -> None:
    with pytest.raises(ShardError, match="column tokens is string; a list of whole numbers was expected"):
        read(pa.table({"tokens": ["a"]}))
    with pytest.raises(ShardError, match="rows 1 to 1 has an empty place among its tokens"):
        read(pa.table({"tokens": [[1, None]]}))
    with pytest.raises(ShardError, match="has no column ids; its columns are tokens"):
        read(pa.table({"tokens": [[1]]}), tokens_field="ids")
    with pytest.raises(ShardError, match="cannot be read as Parquet"):
        list(read_parquet(io.BytesIO(b"no parquet at all"), "a.parquet"))
