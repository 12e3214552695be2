"""datatrove's side files."""

from __future__ import annotations

import humanize
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.tokens.formats.datatrove import metadata, read_metadata
from stages.tokens.shard_format import ShardError


@given(st.integers(0, 10**15))
def test_the_count_for_people_is_humanizes(tokens: int) -> None:
    assert metadata("t", np.dtype("<u2"), tokens).decode() == f"t|2\n{tokens}\n{humanize.metric(tokens, unit='T')}"


def test_bytes_of_a_token_are_read_back() -> None:
    assert read_metadata(metadata("a|b", np.dtype("<u4"), 5), "x") == 4
    assert read_metadata(b"Unknown Tokenizer|2|2\n7\n7 T", "x") == 2
    with pytest.raises(ShardError, match="must end in"):
        read_metadata(b"gpt2\n7", "x")
