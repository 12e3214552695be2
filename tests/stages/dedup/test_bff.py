"""Bff dedup against a reference with an exact set of n-grams, on generated and on real documents."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dedup_corpus import altered, deduplicate, prose, shared_texts, write_parts
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.dedup.bff import _pass, hash_texts, most_items, with_shards
from stages.dedup.bloom import load_filter
from stages.dedup.spec import read_spec
from stages.errors import UserError
from stages.kernels.unicode_tables import ALETTER, CLASS, code_points
from stages.kernels.words import word_ends

EXACT = 1e-9  # a false-positive rate at which none occurs here
WHITE = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c <= "\x1f")


def tokens(text: str) -> list[str]:
    raw = text.encode()
    ends = np.empty(len(raw), np.int64)
    count = word_ends(np.frombuffer(raw + b"\0", np.uint8), 0, len(raw), code_points(), ends)
    starts = [0, *ends[:count].tolist()]
    return [s for a, b in itertools.pairwise(starts) if (s := raw[a:b].decode()).strip(WHITE)]


def reference(texts: list[str], mode: str = "old-both", n: int = 13, threshold: float = 0.8):
    """What is left of each document (or None), and for each piece removed the documents that held its n-grams first."""
    holders: dict[tuple[str, ...], int] = {}
    left: list[str | None] = []
    pieces: dict[tuple[int, int | None], set[int]] = {}  # (document, paragraph's first byte; None: whole) -> holders
    for number, text in enumerate(texts):
        cuts = [0, *(i for i, c in enumerate(text) if c == "\n" and mode != "document"), len(text)]
        total = contained = 0
        stays = ""
        mine: set[int] = set()
        for a, b in itertools.pairwise(cuts):
            words = tokens(text[a:b])
            ngrams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
            held = [holders[g] for g in ngrams if g in holders]
            total += len(ngrams)
            contained += len(held)
            mine |= set(held)
            if ngrams and len(held) / len(ngrams) > threshold:
                pieces[number, len(text[:a].encode()) if mode != "document" else None] = set(held)
            else:
                stays += text[a:b]
                for gram in ngrams:
                    holders.setdefault(gram, number)
        if mode == "old-both" and total and contained / total > threshold:
            stays = ""
            pieces[number, None] = mine
        left.append(stays if stays.strip(WHITE) else None)
    return left, pieces


def corpus(rng: random.Random, extra: list[str] = ()) -> list[dict[str, Any]]:  # type: ignore[assignment]
    """Documents made of shared and own paragraphs, near copies, documents that repeat themselves, empty ones."""
    base = [prose(rng, rng.randrange(20, 120), 30) for _ in range(40)] + list(extra)
    paragraphs = [p for text in base for p in text.split("\n")]
    texts = list(base)
    for _ in range(80):
        mixed = [rng.choice(paragraphs) for _ in range(rng.randrange(1, 5))]
        texts.append("\n".join([*mixed, prose(rng, rng.randrange(1, 40), 99)] if rng.random() < 0.6 else mixed))
    texts += [altered(rng, rng.choice(base), 2) for _ in range(20)]
    texts += [(p := prose(rng, 20, 99)) + "\n" + p + "\n" + p for _ in range(4)]
    texts += ["", " \n\u3000", "\n\n", "short", "short", "a\r\nb"]
    rng.shuffle(texts)
    return [{"text": t, "file": f"f{rng.randrange(6)}"} for t in texts]


def read_texts(summary: dict[str, Any], parts: list[dict[str, Any]]) -> list[str]:
    return [t for p in parts for t in pq.read_table(summary["parts"][str(p["ordinal"])])["text"].to_pylist()]


def check(folder: Path, documents: list[dict[str, Any]], spec: dict[str, Any], rows: int, group_bytes: int):
    """Run and compare everything to the reference; returns what must not hang on how the work is cut."""
    texts = [d["text"] for d in documents]
    left, pieces = reference(texts, spec.get("mode", "old-both"))
    parts = write_parts(folder / "in", documents, rows, ("a", "b"))
    summary, removed = deduplicate(folder / "out", {"method": "bff", "fp_rate": EXACT} | spec, parts, group_bytes)
    after = read_texts(summary, parts)
    assert set(removed) == {i for i, t in enumerate(left) if t is None}
    assert after == [old if new is None else new for old, new in zip(texts, left, strict=True)]
    for number, representative in removed.items():
        holders = pieces.get((number, None)) or {h for (i, _), s in pieces.items() if i == number for h in s}
        assert representative in {f"d{h}" for h in holders} if holders else representative is None
    cuts = []
    first = 0
    for part in parts:
        for cut in pq.read_table(summary["cuts"][str(part["ordinal"])]).to_pylist():
            number = first + cut["row"]
            assert cut["representative"] in {f"d{h}" for h in pieces[number, cut["start"]]}
            holder = parts[cut["representative_part"]]
            assert holder["source"] == cut["representative_source"]
            before = sum(p["documents"] for p in parts[: cut["representative_part"]])
            assert f"d{before + cut['representative_row']}" == cut["representative"]
            cuts.append((number, cut["start"], cut["stop"], cut["representative"]))
        first += part["documents"]
        report = summary["reports"][str(part["ordinal"])]
        mine = range(first - part["documents"], first)
        assert report["bytes"] == sum(len(texts[i].encode()) for i in mine)
        assert report["removed_bytes"] == sum(len(texts[i].encode()) for i in mine if i in removed)
        assert report["bytes"] - report["removed_bytes"] - report["cut_bytes"] == sum(
            len(after[i].encode()) for i in mine if i not in removed
        )
    assert len(cuts) == sum(report["paragraphs"] for report in summary["reports"].values())
    return [removed, after, cuts, summary["shards"]]


@pytest.mark.parametrize("mode", ["old-both", "document", "paragraph"])
def test_equals_the_reference_however_the_work_is_cut(tmp_path, mode) -> None:
    documents = corpus(random.Random(21))
    spec = {"mode": mode, "witness_memory": 1 << 16}
    one = check(tmp_path / "a", documents, spec, 11, 1)
    assert one == check(tmp_path / "b", documents, spec, 1000, 1)
    assert len(one[0]) > 5


def test_real_documents(tmp_path, shared_data) -> None:
    extra = [t for name in ("c4", "wiki-fr") for t in shared_texts(shared_data, name, 60_000)][:150]
    check(tmp_path, corpus(random.Random(22), extra), {}, 40, 1 << 20)


def test_shards_are_files_and_do_not_see_each_other(tmp_path) -> None:
    documents = corpus(random.Random(23))
    documents.sort(key=lambda d: d["file"])
    results = []
    for place, rows in (("here", 17), ("here", 1000), ("/there", 60)):
        moved = [{**d, "file": f"{place}/{d['file']}"} for d in documents]
        parts = write_parts(tmp_path / f"in{rows}", moved, rows)
        spec = {"method": "bff", "fp_rate": EXACT, "shards": 3}
        summary, removed = deduplicate(tmp_path / f"out{rows}", spec, parts)
        results.append((removed, read_texts(summary, parts)))
        assert [(s["shard"], s["documents"] > 10) for s in summary["shards"]] == [(0, True), (1, True), (2, True)]
    assert results[0] == results[1] == results[2]  # wherever the files lie, however they are cut
    for files in (("f0", "f1"), ("f2", "f3"), ("f4", "f5")):
        mine = [i for i, d in enumerate(documents) if d["file"] in files]
        left, _ = reference([documents[i]["text"] for i in mine])
        assert [None if i in results[0][0] else results[0][1][i] for i in mine] == left


def test_saved_filter_knows_the_old_documents(tmp_path) -> None:
    rng = random.Random(24)
    old, new = [prose(rng, 60, 99) for _ in range(5)], [prose(rng, 60, 99) for _ in range(5)]
    spec = {"method": "bff", "expected_ngrams": 10_000}
    parts = write_parts(tmp_path / "old", [{"text": t} for t in old], 3)
    summary, removed = deduplicate(tmp_path / "a", spec | {"save": True}, parts)
    assert not removed
    parts = write_parts(tmp_path / "new", [{"text": t} for t in [*new, *old[:2]]], 3)
    loaded = {"method": "bff", "load": summary["shards"][0]["filter"]}
    assert deduplicate(tmp_path / "b", loaded, parts)[1] == {5: None, 6: None}
    with pytest.raises(UserError, match="13-grams with seed 0, not 5-grams"):
        deduplicate(tmp_path / "c", loaded | {"ngram": 5}, parts)


def test_filters_that_cannot_keep_their_rate_are_errors(tmp_path) -> None:
    rng = random.Random(25)
    parts = write_parts(tmp_path / "in", [{"text": prose(rng, 2000, 99)} for _ in range(5)], 2)
    with pytest.raises(UserError, match="more than the memory given"):
        deduplicate(tmp_path / "a", {"method": "bff", "fp_rate": 1e-9, "memory": 1 << 16}, parts)
    with pytest.raises(UserError, match="raise expected_ngrams"):
        deduplicate(tmp_path / "b", {"method": "bff", "expected_ngrams": 1000}, parts)
    summary, _ = deduplicate(tmp_path / "c", {"method": "bff", "expected_ngrams": 10_000, "save": True}, parts)
    with pytest.raises(UserError, match="larger expected_ngrams"):
        deduplicate(tmp_path / "d", {"method": "bff", "load": summary["shards"][0]["filter"]}, parts)


def test_removals_of_an_earlier_dedup_stay_as_they_are(tmp_path) -> None:
    text = prose(random.Random(26), 40, 99)
    parts = write_parts(tmp_path / "in", [{"text": t} for t in (text, text, text + " end", "")], 4)
    first, removed = deduplicate(tmp_path / "a", {"method": "exact"}, parts)
    assert removed == {1: "d0"}
    parts[0]["removals"] = [first["removals"]["0"]]
    second, removed = deduplicate(tmp_path / "b", {"method": "bff"}, parts)
    assert removed == {2: "d0", 3: None}
    assert second["documents"] == 3
    assert read_texts(second, parts) == [text, text, text + " end", ""]
    assert read_spec({"method": "bff"}).reason == "dedup.bff"


def test_shards_are_runs_of_files_as_equal_as_can_be() -> None:
    parts = [{"source": "a", "files": [f"f{i}", f"f{i + 1}"]} for i in range(0, 8, 2)]  # of eight files
    parts += [{"source": "b", "files": ["f0"]}] * 2  # of one more, cut in two
    assert [part["shard"] for part in with_shards(parts, 3)] == [0, {"f2": 0, "f3": 1}, 1, 2, 2, 2]
    assert [part["shard"] for part in with_shards(parts[:1], 5)] == [{"f0": 0, "f1": 2}]  # more shards than files
    assert {part["shard"] for part in with_shards(parts, 1)} == {0}


LETTERS = "aBc9_ \n\r.'don't 3.14\x1c\x85\u00a0\u00e9\u0301\u00d7\u00f7\u027f\u0280"
LETTERS += "\u2019\u2014\u0416\u6f22\u30ab\U0001f44d\u200d\u05d0"


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(st.sampled_from(LETTERS), max_size=60), max_size=4), st.booleans())
def test_ngrams_are_never_counted_too_few(texts, whole) -> None:
    spec = read_spec({"method": "bff", "ngram": 3, "mode": "document" if whole else "old-both"})
    for text in texts:  # one by one: what is too many in one must not make up for another
        column = pa.array([text], pa.large_string())
        assert most_items(column, spec) >= len(hash_texts(column, spec).hashes)


def test_ngrams_are_counted_closely_in_real_text(shared_data) -> None:
    spec = read_spec({"method": "bff"})
    for name, most in (("c4", 1.08), ("wiki-fr", 1.15), ("wiki-es", 1.08)):
        column = pa.array(shared_texts(shared_data, name, 200_000), pa.large_string())
        exact = len(hash_texts(column, spec).hashes)
        assert exact <= most_items(column, spec) <= most * exact
    classes = code_points()[0xC0:0x280] & CLASS
    assert set(np.flatnonzero(classes != ALETTER) + 0xC0) == {0xD7, 0xF7}  # what the kernel takes for granted


def test_the_share_of_false_positives_is_what_was_asked_for(tmp_path) -> None:
    """Documents of words that occur once, so that whatever the filter holds of a paragraph is a false positive."""
    rng = np.random.default_rng(27)
    words = [np.base_repr(n, 36) for n in rng.choice(10**12, 60_000, replace=False)]
    texts = [" ".join(words[i : i + 600]) for i in range(0, len(words), 600)]
    for rate in (0.1, 0.01):
        spec = {"method": "bff", "fp_rate": rate, "save": True}
        parts = write_parts(tmp_path / f"a{rate}", [{"text": t} for t in texts], 50)
        filled, removed = deduplicate(tmp_path / f"fill-{rate}", spec, parts)
        assert not removed
        other = [{"text": " ".join(f"{word}x" for word in text.split())} for text in texts]
        loaded = {"method": "bff", "load": filled["shards"][0]["filter"], "threshold": 1}
        count = filled["shards"][0]["ngrams"]
        with pytest.raises(UserError, match="larger expected_ngrams"):  # it is full
            deduplicate(tmp_path / f"full-{rate}", loaded, write_parts(tmp_path / f"b{rate}", other, 50))
        held = probe(filled["shards"][0]["filter"], [d["text"] for d in other])
        spread = 4 * (rate / count) ** 0.5
        assert 0.7 * rate - spread < held < rate + spread


def probe(path: str, texts: list[str]) -> float:
    """The share of the texts' n-grams that a saved filter seems to hold, none taken in: a threshold of 0 lets none stay."""
    spec = read_spec({"method": "bff", "threshold": 0, "mode": "document", "ngram": 13})
    with Path(path).open("rb") as file:
        filter = load_filter(file, path, 1 << 30)
    held = total = 0
    for text in texts:  # each alone, against the filter as it was
        before = filter.bits.copy()
        _, counts = _pass(pa.array([text], pa.large_string()), np.zeros(1, np.int64), spec, filter)
        filter.bits = before
        total += int(counts[0, 0])
        held += int(counts[0, 1])
    return held / total
