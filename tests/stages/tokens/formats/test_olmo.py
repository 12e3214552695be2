"""OLMo's form: indexes with two columns and five, and indexes and shards that do not fit."""

from __future__ import annotations

import gzip
import hashlib
import io
from typing import Any

import numpy as np
import pytest

from stages.tokens.formats.olmo import read_shard, rows_of_index
from stages.tokens.shard_format import ShardError

TOKENS = np.array([7, 8, 0, 9, 0], "<u2").tobytes()
SHARD = {
    "path": "a.npy",
    "index": "a.csv.gz",
    "tokens": 5,
    "documents": 2,
    "sha256": hashlib.sha256(TOKENS).hexdigest(),
}
INDEX = '0,3,x,"a,b",1\n3,5,"y\nz",c,2\n'


def read(index: str = INDEX, tokens: bytes = TOKENS, **changes: Any) -> list:
    packed = gzip.compress(index.encode())
    shard = SHARD | changes
    return list(read_shard(io.BytesIO(tokens), lambda: io.BytesIO(packed), shard, np.dtype("<u2"), 10))


def test_documents_with_their_names() -> None:
    (block,) = read()
    assert block.tokens.tolist() == [7, 8, 0, 9, 0] and block.ends.tolist() == [3, 5]
    assert (block.ids.to_pylist(), block.srcs.to_pylist(), block.locs.tolist()) == (["x", "y\nz"], ["a,b", "c"], [1, 2])


def test_start_and_end_alone_are_numbered() -> None:
    packed = gzip.compress(b"0,3\n3,5\n")
    (rows,) = rows_of_index(lambda: io.BytesIO(packed), "a.csv.gz", "s3://b/a.npy")
    assert rows.ids.to_pylist() == ["a.npy:1", "a.npy:2"] and rows.srcs.to_pylist() == ["s3://b/a.npy"] * 2
    named = gzip.compress(b"0,3,one,f,0\n")
    (rows,) = rows_of_index(lambda: io.BytesIO(named), "a.csv.gz", "a.npy")
    assert (rows.ids.to_pylist(), rows.locs.tolist()) == (["one"], [0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"index": "0,3,x,f,1\n4,5,y,f,2\n"}, "row 2: the document starts at token 4, the one before it ends at 3"),
        ({"index": "1,5,x,f,1\n"}, "row 1: the document starts at token 1"),
        ({"index": "0,3,x,f,1\n"}, "behind the last of its 3 indexed tokens"),
        ({"index": "0,5,x,f,1\n"}, "lists 1 documents of 5 tokens, the manifest says 2 of 5"),
        ({"tokens": TOKENS[:-1]}, "is cut off: 1 bytes are missing"),
        ({"tokens": TOKENS[:-2] + b"\1\0"}, "its sha256 is not the one in the manifest"),
        ({"tokens": b"\xff" + TOKENS[1:]}, "token 255 is beyond the vocabulary of 10: damaged"),
        ({"tokens": b"\x0a" + TOKENS[1:]}, "token 10 is beyond the vocabulary of 10: damaged"),  # the first that is
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        read(**changes)
