"""Blocks hold the file's documents whole, in order, whatever the block's size; an index that does not fit is refused."""

from __future__ import annotations

import io
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.tokens.formats.block import blocks, numbered, rows_by_end_token
from stages.tokens.shard_format import ShardError

DOCUMENTS = st.lists(st.lists(st.integers(1, 65_535), max_size=9), max_size=20)


def split(found) -> list[list[int]]:
    return [b.tokens[start:end].tolist() for b in found for start, end in zip(b.starts, b.ends, strict=True)]


@given(DOCUMENTS, st.integers(1, 30), st.integers(1, 7), st.integers(0, 2**20))
def test_documents_come_out_as_they_went_in(documents, max_tokens, batch, mask) -> None:
    data = np.array(list(chain.from_iterable(documents)), "<u2").tobytes()
    ends = np.cumsum([len(d) for d in documents], dtype=np.int64)
    rows = [numbered(ends[i : i + batch], i, "a/b.ds") for i in range(0, len(ends), batch)]
    found = list(blocks(io.BytesIO(data), np.dtype("<u2"), rows, "b", max_tokens))
    assert split(found) == documents
    assert all(len(b.tokens) <= max_tokens or len(b) == 1 for b in found)
    assert [i for b in found for i in b.ids.to_pylist()] == [f"b.ds:{i + 1}" for i in range(len(documents))]
    chosen = [bool(mask >> i & 1) for i in range(len(documents))]
    masks = np.split(np.array(chosen, bool), np.cumsum([len(b) for b in found])[:-1]) if found else []
    kept = [b.where(m) for b, m in zip(found, masks, strict=True)]
    assert split(kept) == [d for d, keep in zip(documents, chosen, strict=True) if keep]
    assert [loc for b in kept for loc in b.locs.tolist()] == [i + 1 for i, keep in enumerate(chosen) if keep]


@given(st.lists(st.integers(0, 3), max_size=50))
def test_end_tokens_tell_documents(tokens) -> None:
    stream = np.array(tokens, "<u4").tobytes()
    found = split(
        blocks(io.BytesIO(stream), np.dtype("<u4"), rows_by_end_token(io.BytesIO(stream), np.dtype("<u4"), 0, "x"), "x")
    )
    assert list(chain.from_iterable(found)) == tokens
    assert all(d.index(0) == len(d) - 1 for d in found[:-1]) and all(d.count(0) <= 1 for d in found)


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ([3, 2], "end before they begin"),
        ([2, 5], "is cut off: 2 bytes"),
        ([2], "behind the last of its 2 indexed tokens"),
    ],
)
def test_an_index_that_does_not_fit_is_refused(ends, message) -> None:
    stream = io.BytesIO(np.arange(4, dtype="<u2").tobytes())
    with pytest.raises(ShardError, match=message):
        list(blocks(stream, np.dtype("<u2"), [numbered(np.array(ends), 0, "x")], "x"))
