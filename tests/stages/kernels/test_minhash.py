"""MinHash against the same scheme in plain NumPy, and against what theory says of it."""

from __future__ import annotations

import itertools
import math
import random

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.dedup.choose import sorted_sets
from stages.dedup.scatter import signatures
from stages.dedup.spec import MinHash
from stages.document import text_buffers
from stages.kernels.minhash import band_keys, choose_verified, ngram_hashes, row_constants


def _ngrams(texts: list[str], n: int) -> list[np.ndarray]:
    data, offsets = text_buffers(pa.array(texts, pa.large_string()))
    out, reaches = np.empty(len(data) // 2 + len(texts) + 1, np.uint64), np.empty(len(texts) + 1, np.int64)
    ngram_hashes(data, offsets, n, out, reaches)
    return [out[reaches[i] : reaches[i + 1]].copy() for i in range(len(texts))]


def _signatures(texts: list[str], **spec: int) -> tuple[np.ndarray, np.ndarray, MinHash]:
    settings = MinHash(method="minhash", normalize="whitespace", **spec)
    return *signatures(pa.array(texts, pa.large_string()), settings), settings


WORD = st.text("abcdefghijé", min_size=1, max_size=20)
TEXTS = st.lists(st.lists(WORD, max_size=12).map(" ".join), max_size=5)


@settings(max_examples=80, deadline=None)
@given(TEXTS, st.integers(1, 5))
def test_ngrams_are_equal_where_their_words_are(texts: list[str], n: int) -> None:
    known: dict[int, tuple[str, ...]] = {}
    for text, hashes in zip(texts, _ngrams(texts, n), strict=True):
        words = text.split()
        expected = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
        assert len(hashes) == len(expected)
        for value, ngram in zip(hashes, expected, strict=True):
            assert known.setdefault(int(value), ngram) == ngram
    assert len(set(known.values())) == len(known)


@settings(max_examples=50, deadline=None)
@given(TEXTS, st.integers(1, 3), st.integers(0, 5))
def test_signature_is_the_least_of_each_permutation(texts: list[str], n: int, seed: int) -> None:
    found, counts, spec = _signatures(texts, ngram=n, bands=3, rows=2, seed=seed)
    xors, multipliers = row_constants(6, seed)
    for i, ngrams in enumerate(_ngrams(texts, n)):
        assert counts[i] == len(ngrams)
        with np.errstate(over="ignore"):
            values = (ngrams[:, None] ^ xors) * multipliers
        expected = values.min(axis=0) if len(ngrams) else np.full(6, (1 << 64) - 1, np.uint64)
        assert found[i].tolist() == expected.tolist()
        assert spec.bands * spec.rows == found.shape[1]


def test_long_documents_cross_the_blocks() -> None:
    rng = random.Random(1)
    text = " ".join(f"w{rng.randrange(500)}" for _ in range(3000))
    found, counts, _ = _signatures([text], ngram=5, bands=14, rows=8)
    (ngrams,) = _ngrams([text], 5)
    xors, multipliers = row_constants(112, 1)
    with np.errstate(over="ignore"):
        assert (found[0] == ((ngrams[:, None] ^ xors) * multipliers).min(axis=0)).all()
    assert counts[0] == 2996


def _pairs(rng: random.Random, count: int, size: int, jaccard: float) -> tuple[list[str], float]:
    """Pairs of documents of `size` unlike words (the n-grams are single words) that share some; their similarity."""
    shared = round(2 * size * jaccard / (1 + jaccard))
    texts = []
    for _ in range(count):
        words = [f"{rng.randrange(1 << 60):x}" for _ in range(2 * size - shared)]
        texts += [" ".join(words[:size]), " ".join(words[size - shared :])]
    return texts, shared / (2 * size - shared)


def test_detection_follows_the_s_curve() -> None:
    rng = random.Random(7)
    for wanted in (0.5, 0.65, 0.72, 0.8, 0.9):
        texts, jaccard = _pairs(rng, 1500, 120, wanted)
        found, _, spec = _signatures(texts, ngram=1)
        keys = np.empty((len(texts), spec.bands), np.uint64)
        band_keys(found, spec.rows, keys)
        rate = (keys[0::2] == keys[1::2]).any(axis=1).mean()
        expected = 1 - (1 - jaccard**spec.rows) ** spec.bands
        assert abs(rate - expected) < 4.5 * math.sqrt(expected * (1 - expected) / 1500) + 1e-9


def test_rows_estimate_the_similarity_independently() -> None:
    texts, jaccard = _pairs(random.Random(3), 3000, 60, 0.6)
    found, _, _ = _signatures(texts, ngram=1)
    equal = found[0::2] == found[1::2]
    share = equal.mean(axis=1)
    assert abs(share.mean() - jaccard) < 0.003
    # The variance of a mean of 112 independent rows; rows that hang together would make it larger.
    assert 0.85 < share.var() / (jaccard * (1 - jaccard) / 112) < 1.15
    assert (abs(equal.mean(axis=0) - jaccard) < 5 * math.sqrt(jaccard * (1 - jaccard) / 3000)).all()


def test_band_keys_hang_on_the_band_and_all_its_rows() -> None:
    signature = np.arange(112, dtype=np.uint64).reshape(1, 112)
    keys = np.empty((1, 14), np.uint64)
    band_keys(signature, 8, keys)
    for row in range(112):
        other = signature.copy()
        other[0, row] += np.uint64(1)
        changed = np.empty((1, 14), np.uint64)
        band_keys(other, 8, changed)
        assert np.flatnonzero(changed[0] != keys[0]).tolist() == [row // 8]
    band_keys(np.zeros((1, 112), np.uint64), 8, keys)
    assert len(np.unique(keys)) == 14


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.lists(st.integers(0, 9), max_size=8), min_size=1, max_size=6), max_size=4),
    st.floats(0, 1),
    st.integers(1, 3),
)
def test_verified_choice_is_greedy(clusters: list[list[list[int]]], least: float, limit: int) -> None:
    members = [m for cluster in clusters for m in cluster]
    starts = np.cumsum([0, *(len(c) for c in clusters)]).astype(np.int64)
    values = np.array([v for m in members for v in m], np.uint64)
    offsets = np.cumsum([0, *(len(m) for m in members)]).astype(np.int64)
    out, values = sorted_sets(values, offsets)
    sets = [set(m) for m in members]
    assert [values[out[i] : out[i + 1]].tolist() for i in range(len(members))] == [sorted(s) for s in sets]

    kept = np.empty(len(members), np.int64)
    choose_verified(starts, values, out, least, limit, kept)
    expected = []
    for begin, end in itertools.pairwise(starts):
        heads: list[int] = []
        for i in range(begin, end):
            alike = [h for h in heads if _jaccard(sets[h], sets[i]) >= least]
            expected.append(alike[0] if alike else i)
            if not alike and len(heads) < limit:
                heads.append(i)
    assert kept.tolist() == expected


def _jaccard(a: set[int], b: set[int]) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0
