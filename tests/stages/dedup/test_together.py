"""A Bloom filter that threads share against one that a single thread takes documents through, to the bit."""

from __future__ import annotations

import random
import threading
from dataclasses import astuple
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dedup_corpus import prose, write_parts
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.dedup import together
from stages.dedup.bff import _pass, deduplicate
from stages.dedup.bloom import Filter, filter_bytes, make_filter
from stages.dedup.spec import SMALL_FILTER, Bff
from stages.dedup.together import read_ahead, start_threads
from stages.errors import UserError

SENTENCES = [f"{a} {b} {c}" for a in "abcd" for b in "efg" for c in ("x y", "z", "x y z w")]


def taken(batches: list[pa.Array], spec: Bff, ngrams: int, threads: int, of_round: int):
    """What goes, the counts, and the filter, of batches taken by so many threads."""
    filter = make_filter(ngrams, spec.fp_rate, spec.ngram, spec.seed, 1 << 30, "test")
    found = []

    def take(workers: together.Threads | None) -> None:
        for batch in batches:
            columns, counts = _pass(batch, np.arange(len(batch)), spec, filter, threads=workers)
            found.append(({name: values.tolist() for name, values in columns.items()}, counts.tolist()))

    if threads == 1:
        take(None)
    else:
        with start_threads(threads) as workers:
            workers.round = of_round
            take(workers)
    return found, filter.bits.tolist(), *astuple(filter)[1:]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.lists(st.sampled_from(SENTENCES), max_size=5), max_size=12), min_size=1, max_size=3),
    st.sampled_from(["old-both", "document", "paragraph"]),
    st.sampled_from([0.3, 0.8, 1.0]),
    st.integers(1, 3),
    st.sampled_from([1, 5, 1024]),
    st.sampled_from([30, 2000]),
)
def test_any_number_of_threads_gives_what_one_gives(batches, mode, threshold, ngram, of_round, ngrams) -> None:
    """Sentences repeat within a round; and a filter for 30 n-grams is so full that most share their blocks."""
    spec = Bff(method="bff", mode=mode, threshold=threshold, ngram=ngram)
    texts = [pa.array(["\n".join(lines) for lines in batch], pa.large_string()) for batch in batches]
    alone = taken(texts, spec, ngrams, 1, of_round)
    for threads in (2, 3, 8):
        assert taken(texts, spec, ngrams, threads, of_round) == alone


def corpus(rng: random.Random) -> list[dict[str, str]]:
    texts = [prose(rng, rng.randrange(5, 300), 30) for _ in range(120)]
    paragraphs = [line for text in texts for line in text.split("\n")]
    texts += ["\n".join([rng.choice(paragraphs) for _ in range(3)] + [prose(rng, 20, 99)]) for _ in range(120)]
    texts += ["", "\n\n", "word " * 5000]
    rng.shuffle(texts)
    return [{"text": text, "file": "f"} for text in texts]


def test_a_task_writes_the_same_bytes_with_threads(tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "in", corpus(random.Random(5)), 60)
    spec = Bff(method="bff", save=True)
    results = []
    for threads in (1, 2, 3, 8):
        out = tmp_path / f"{threads}"
        out.mkdir()
        told = deduplicate(spec, 0, 200_000, parts, [0], str(out / "spans"), str(out / "filter"), threads=threads)
        results.append((told, (out / "spans").read_bytes(), (out / "filter").read_bytes()))
    assert results[0][0]["held"] > 1000
    assert results[1:] == results[:1] * 3


def test_a_filter_that_is_too_small_is_an_error_with_threads_too(tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "in", corpus(random.Random(6)), 60)
    with pytest.raises(UserError, match="made for 100 n-grams and took"):
        deduplicate(Bff(method="bff"), 0, 100, parts, [0], str(tmp_path / "spans"), threads=3)


def test_a_batch_with_more_paragraphs_than_can_be_numbered_is_taken_by_one_thread(monkeypatch) -> None:
    spec = Bff(method="bff", ngram=1)
    texts = [pa.array(["a b\nc d\ne f", "a b\nx y"], pa.large_string())]
    alone = taken(texts, spec, 100, 1, 1)
    monkeypatch.setattr(together, "UNIT_BITS", 2)
    assert taken(texts, spec, 100, 3, 1) == alone


def test_threads_are_for_filters_that_no_cache_holds() -> None:
    spec = Bff(method="bff", threads=6)
    assert spec.cores(SMALL_FILTER) == 1
    assert spec.cores(SMALL_FILTER + 1) == 6
    assert spec.cores(filter_bytes(10**9, 0.01)) == 6


def test_threads_that_wait_for_one_that_failed_end(monkeypatch) -> None:
    real, begun = together.bff_thread, []

    def fails(thread: int, *arguments):
        begun.append(thread)
        if thread == 1:
            raise MemoryError
        return real(thread, *arguments)

    monkeypatch.setattr(together, "bff_thread", fails)
    filter: Filter = make_filter(1000, 0.01, 1, 0, 1 << 30, "test")
    with pytest.raises(MemoryError), start_threads(3) as workers:
        _pass(pa.array(["a b c"] * 9, pa.large_string()), np.arange(9), Bff(method="bff", ngram=1), filter, threads=workers)
    assert sorted(begun) == [0, 1, 2]


def test_what_is_read_ahead_is_the_same_and_errors_come_in_their_place() -> None:
    def items(last: int):
        yield from range(last)
        raise ValueError("no more")

    seen = []
    with pytest.raises(ValueError, match="no more"):
        for item in read_ahead(items(5)):
            seen.append(item)
    assert seen == [0, 1, 2, 3, 4]
    before = threading.active_count()
    for item in read_ahead(items(1000)):
        if item == 2:
            break
    assert threading.active_count() == before
