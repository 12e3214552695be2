"""Repeats of token n-grams against counting them out at every place."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.filters.token_repeats import TokenRepeats, most_repeats
from stages.kernels import token_repeats as kernels
from stages.steps import STEPS


def reference(tokens: list[int], max_period: int) -> int:
    """At each place and for each period: how many times the n-gram that begins there stands in a row."""
    most = min(len(tokens), 1)
    for period in range(1, min(max_period, len(tokens) // 3) + 1):
        for at in range(len(tokens)):
            ngram, times = tokens[at : at + period], 1
            while len(ngram) == period and tokens[at + times * period :][:period] == ngram:
                times += 1
            most = max(most, times)
    return most


repeated = st.tuples(st.lists(st.integers(0, 2), min_size=1, max_size=5), st.integers(0, 40)).map(lambda x: x[0] * x[1])
sequences = st.lists(st.lists(st.integers(0, 2), max_size=6) | repeated, max_size=3).map(lambda x: list(chain.from_iterable(x)))


@settings(max_examples=150, deadline=None)
@given(st.lists(sequences, max_size=3), st.integers(1, 13))
@example([[], [7], [7, 7], [7, 7, 7], [1, 2] * 31 + [1], [3] * 31, [2**32 - 1] * 32], 13)
def test_both_functions_against_counting(documents: list[list[int]], max_period: int) -> None:
    want = [reference(tokens, max_period) for tokens in documents]
    flat = np.array([*chain.from_iterable(documents)], np.uint32)
    offsets = np.cumsum([0, *map(len, documents)], dtype=np.int64)
    out = np.empty(len(documents), np.int64)
    kernels.most_repeats(flat, offsets, max_period, out)
    assert out.tolist() == want
    assert [most_repeats(np.array(tokens, np.int64), max_period) for tokens in documents] == want


@pytest.fixture
def tokenizer(tmp_path: Path) -> str:
    """Words between white space are tokens; the file of a tokenizer that the reference engine loads."""
    words = {word: i for i, word in enumerate(["<|endoftext|>", "a", "b", "c", "d", "?"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="?"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "tokenizer.json"))
    return str(tmp_path / "tokenizer.json")


def test_the_step_drops_thirty_two_repeats(tokenizer: str) -> None:
    few = ["", " \n", "a b c d", "a b c a b c a b", "a b c a b c a b c"]
    texts = ["a " * 31, " a" * 32, "a b " * 31 + "a", "c a b c " + "d a b c " * 32, *few]
    step = STEPS["token_repeats"].model_validate({"tokenizer": tokenizer})
    measures = step.measure(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    assert measures["repeats"].tolist() == [31, 32, 31, 32, 0, 0, 1, 1, 3]
    assert (step.decide(measures) >= 0).tolist() == [False, True, False, True, False, False, False, False, False]
    assert step.reasons() == ["repeats.max"]
    assert TokenRepeats(tokenizer=tokenizer, max_period=3).measure(
        pa.record_batch({"text": pa.array(["a b c d " * 40], pa.large_string())})
    )["repeats"].tolist() == [1]


def test_an_empty_batch(tokenizer: str) -> None:
    docs = pa.record_batch({"text": pa.array([], pa.large_string())})
    assert len(TokenRepeats(tokenizer=tokenizer).measure(docs)["repeats"]) == 0


def test_real_documents_with_the_models_own_tokenizer(shared_data: Path) -> None:
    step = TokenRepeats(tokenizer=str(shared_data / "tokenizers" / "gpt-neox-olmo-dolma-v1_5.json"))
    with (shared_data / "arxiv.jsonl.zst").open("rb") as file:
        raw = zstandard.ZstdDecompressor().stream_reader(file).read(300_000).decode(errors="ignore")
    texts = [raw[:100_000], "-" * 50_000, "=-" * 3000, "no no no " * 40, "The rain in Spain stays mainly in the plain."]
    column = pa.array(texts, pa.large_string())
    found = step.measure(pa.record_batch({"text": column}))["repeats"]
    tokens, offsets = step._tokenizer.encode(column)
    assert found.tolist() == [most_repeats(tokens[offsets[i] : offsets[i + 1]]) for i in range(len(texts))]
    assert found[1] >= 32
    assert found[3] >= 39
    assert found[4] == 1
