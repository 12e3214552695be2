"""Token lists in JSON lines as others write them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import zstandard

from stages.tokens.formats.jsonl import read_jsonl
from stages.tokens.shard_format import ShardError

LINES = (
    b'{"tokens":[1,2],"id":7,"metadata":{"file":"f","record":9}}\n\n{"input_ids":[3],"metadata":null}\n{"tokens":[]}'
)


@pytest.mark.parametrize("max_tokens", [1, 100])
@pytest.mark.parametrize("name", ["a/x.jsonl", "a/x.jsonl.zst"])
def test_lines_of_any_shape(name: str, max_tokens: int) -> None:
    data = zstandard.compress(LINES) if name.endswith("zst") else LINES
    found = list(read_jsonl(io.BytesIO(data), name, max_tokens=max_tokens))
    rows = [b.tokens[a:e].tolist() for b in found for a, e in zip(b.starts, b.ends, strict=True)]
    assert rows == [[1, 2], [3], []]
    short = name.partition("/")[2]
    assert [i for b in found for i in b.ids.to_pylist()] == ["7", f"{short}:3", f"{short}:4"]
    assert [(s, n) for b in found for s, n in zip(b.srcs.to_pylist(), b.locs.tolist(), strict=True)] == [
        ("f", 9),
        (name, 3),
        (name, 4),
    ]


def test_damage_is_named() -> None:
    with pytest.raises(ShardError, match=r"x.jsonl.zst: the file ends inside this zstd member"):
        list(read_jsonl(io.BytesIO(zstandard.compress(LINES * 99)[:-9]), "x.jsonl.zst"))
    with pytest.raises(ShardError, match=r"x.jsonl, line 2: is not JSON"):
        list(read_jsonl(io.BytesIO(b'{"tokens":[]}\n{"tok'), "x.jsonl"))
    with pytest.raises(
        ShardError, match=r"line 1: a token is beyond 64 bits|line 1: tokens are a list of whole numbers"
    ):
        list(read_jsonl(io.BytesIO(b'{"tokens":[18446744073709551615]}'), "x.jsonl"))
    with pytest.raises(ShardError, match="line 1: has no toks"):
        list(read_jsonl(io.BytesIO(b'["tokens"]'), "x.jsonl", tokens_field="toks"))


def test_a_line_longer_than_what_is_read_at_once_is_whole_and_one_without_end_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = b'{"tokens":[%s]}\n' % b",".join(b"%d" % token for token in range(300_000))
    found = list(read_jsonl(io.BytesIO(line + LINES), "x.jsonl"))
    assert np.array_equal(found[0].tokens[:300_000], np.arange(300_000)) and found[0].ends[0] == 300_000
    monkeypatch.setattr("stages.tokens.formats.jsonl.LINE_BYTES", 1 << 20)
    with pytest.raises(ShardError, match=r"x.jsonl, line 2: is longer than 1.05 MB"):
        list(read_jsonl(io.BytesIO(b'{"tokens":[]}\n' + b"1" * (4 << 20)), "x.jsonl"))
