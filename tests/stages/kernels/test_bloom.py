"""Token n-grams and the Bloom filter against sets of strings."""

from __future__ import annotations

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.dedup.bff import hash_texts
from stages.dedup.bloom import design, false_positive_rate, load_filter, make_filter, save_filter
from stages.dedup.spec import Bff
from stages.errors import InputError, UserError
from stages.kernels.bloom import bff, first_holders
from stages.kernels.cut import cut_spans
from stages.kernels.unicode_tables import code_points
from stages.kernels.words import word_ends


def tokens(text: str) -> list[str]:
    """The segments of UAX #29 that are not all White_Space."""
    raw = text.encode()
    ends = np.empty(len(raw), np.int64)
    count = word_ends(np.frombuffer(raw + b"\0", np.uint8), 0, len(raw), code_points(), ends)
    starts = [0, *ends[:count].tolist()]
    segments = [raw[a:b].decode() for a, b in itertools.pairwise(starts)]
    return [s for s in segments if s.strip("".join(c for c in WHITE if s))]


WHITE = [c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c <= "\x1f"]


def units(text: str, whole: bool) -> list[str]:
    """A text cut before every newline, without the empty piece before a newline at its very beginning."""
    cuts = [0, *(i for i, c in enumerate(text) if c == "\n" and i and not whole), len(text)]
    return [text[a:b] for a, b in itertools.pairwise(cuts) if a < b]


TEXT = st.text(st.sampled_from(list("ab9.,' \n\r\t\u00a0\u0301\u200dé日本\U0001f600\x1c-_")), max_size=30)


@settings(max_examples=300, deadline=None)
@given(st.lists(TEXT, max_size=4), st.integers(1, 3), st.booleans())
@example(["a\r\nb", "\n", "\r\n", " \u0301x", "a' \nb", "a'\nb", "\n\na b"], 1, False)
def test_ngrams_are_those_of_the_tokens_of_each_unit(texts, n, whole) -> None:
    spec = Bff(method="bff", ngram=n, mode="document" if whole else "old-both")
    found = hash_texts(pa.array(texts, pa.large_string()), spec)
    known: dict[int, tuple[str, ...]] = {}
    unit = at = 0
    offset = 0
    for text, reach in zip(texts, found.document_reaches, strict=True):
        expected = units(text, whole)
        assert reach - unit == len(expected)
        stops = offset + np.cumsum([len(u.encode()) for u in expected])
        assert found.unit_stops[unit:reach].tolist() == stops.tolist()
        for piece in expected:
            words = tokens(piece)
            ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
            assert found.unit_reaches[unit] - at == len(ngrams)
            for value, ngram in zip(found.hashes[at:], ngrams, strict=False):
                assert known.setdefault(int(value), ngram) == ngram
            at = found.unit_reaches[unit]
            unit += 1
        offset += len(text.encode())
    assert len(set(known.values())) == len(known)


def _share_held(filter, ngrams: np.ndarray) -> float:
    """The share of n-grams that a filter holds: each as one document, which (threshold 1) is inserted."""
    n = len(ngrams)
    one = np.arange(1, n + 1, dtype=np.int64)
    rows, starts, stops = (np.empty(2 * n, np.int64) for _ in range(3))
    probes, counts = np.empty(2 * n, np.uint64), np.empty((n, 2), np.int64)
    offsets = np.arange(n + 1, dtype=np.int64)
    by, none = np.zeros(2, np.uint16), np.zeros(0, np.uint16)
    out = (rows, starts, stops, probes, by, counts)
    _, fresh = bff(offsets, ngrams, one, one, one, 1.0, 0, filter.k, filter.bits, none, *out)
    filter.inserted += fresh
    return counts[:, 1].mean()


@pytest.mark.parametrize("fp_rate", [0.1, 0.01, 0.001])
def test_false_positive_rate_is_the_one_asked_for(fp_rate) -> None:
    rng = np.random.default_rng(1)
    ngrams = rng.integers(0, 1 << 64, 200_000, np.uint64)
    filter = make_filter(len(ngrams), fp_rate, 13, 0, 1 << 24, "test")
    _share_held(filter, ngrams)
    assert _share_held(make_copy(filter), ngrams) == 1.0
    others = rng.integers(0, 1 << 64, 400_000, np.uint64)
    measured = np.mean([_share_held(make_copy(filter), some) for some in np.split(others, 400)])
    assert abs(measured - fp_rate) < 4.5 * np.sqrt(fp_rate / len(others)) + 0.03 * fp_rate
    assert filter.inserted <= len(ngrams)


def make_copy(filter):
    from dataclasses import replace

    return replace(filter, bits=filter.bits.copy())


def test_size_is_the_least_that_keeps_the_rate() -> None:
    for ngrams in (1, 1000, 10**9):
        for fp_rate in (0.2, 0.01, 1e-6):
            blocks, k = design(ngrams, fp_rate)
            assert false_positive_rate(ngrams / blocks, k) <= fp_rate
            if ngrams > 10**6:
                assert false_positive_rate(ngrams / blocks + 1 / 32, k) > fp_rate
    # Within 4% of a standard filter at 1%: 9.585 bits an n-gram.
    assert 9.585 < design(10**9, 0.01)[0] * 512 / 10**9 < 9.97


def test_filter_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match="more than the memory given"):
        make_filter(10**9, 0.01, 13, 0, 1 << 30, "dedup.bff")


def test_overfilled_filter_is_an_error() -> None:
    filter = make_filter(1000, 0.01, 13, 0, 1 << 20, "dedup.bff")
    _share_held(filter, np.random.default_rng(0).integers(0, 1 << 64, 900, np.uint64))
    filter.check("dedup.bff")
    _share_held(filter, np.random.default_rng(1).integers(0, 1 << 64, 900, np.uint64))
    with pytest.raises(UserError, match="made for 1,000 n-grams and took 1,"):
        filter.check("dedup.bff")


def test_saved_filter_is_the_same(tmp_path) -> None:
    filter = make_filter(1000, 0.01, 13, 3, 1 << 20, "dedup.bff")
    _share_held(filter, np.random.default_rng(0).integers(0, 1 << 64, 900, np.uint64))
    path = tmp_path / "filter"
    save_filter(filter, path)
    with path.open("rb") as file:
        loaded = load_filter(file, "filter", 1 << 20)
    assert (loaded.bits == filter.bits).all()
    assert {**vars(loaded), "bits": 0} == {**vars(filter), "bits": 0}
    for damaged in (b"", b"x" * 5000, path.read_bytes()[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(InputError), path.open("rb") as file:
            load_filter(file, "filter", 1 << 20)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("aé\n", max_size=8), max_size=5), st.data())
def test_spans_are_cut_out(texts, data) -> None:
    raw = [t.encode() for t in texts]
    spans = []
    for i, text in enumerate(raw):
        marks = sorted(data.draw(st.sets(st.integers(0, len(text)), max_size=4)))
        spans += [(i, a, b) for a, b in zip(marks[::2], marks[1::2], strict=False)]
    expected = [
        b"".join(bytes([c]) for k, c in enumerate(text) if not any(r == i and a <= k < b for r, a, b in spans))
        for i, text in enumerate(raw)
    ]
    offsets = np.cumsum([0, *map(len, raw)]).astype(np.int64)
    out, out_offsets = np.empty(int(offsets[-1]), np.uint8), np.empty_like(offsets)
    columns = [np.array([s[i] for s in spans], np.int64) for i in range(3)]
    size = cut_spans(np.frombuffer(b"".join(raw) + b"\0", np.uint8), offsets, *columns, out, out_offsets)
    assert size == out_offsets[-1]
    assert [bytes(out[a:b]) for a, b in itertools.pairwise(out_offsets)] == expected


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.lists(st.integers(0, 9), max_size=4), st.booleans()), max_size=3), max_size=4),
    st.sets(st.integers(0, 9)),
)
def test_first_holder_is_the_first_text_that_inserted(documents, wanted) -> None:
    flat = [u for d in documents for u in d]
    hashes = np.array([h for u, _ in flat for h in u], np.uint64)
    unit_reaches = np.cumsum([len(u) for u, _ in flat]).astype(np.int64)
    reaches = np.cumsum([len(d) for d in documents]).astype(np.int64)
    stays = np.array([s for _, s in flat], np.uint8)
    ordered = np.array(sorted(wanted), np.uint64)
    hints = np.zeros(4, np.uint8)
    hints[[w % 4 for w in wanted]] = 1
    holders = np.full(len(ordered), -1, np.int64)
    first_holders(hashes, unit_reaches, reaches, stays, ordered, hints, holders)
    for value, holder in zip(ordered, holders, strict=True):
        having = [i for i, d in enumerate(documents) if any(value in u and s for u, s in d)]
        assert holder == (having[0] if having else -1)
