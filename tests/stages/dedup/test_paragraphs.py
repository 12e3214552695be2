"""Dedup of whole paragraphs against a set of them, on generated and on real documents."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dedup_corpus import deduplicate, prose, shared_texts, write_parts

from stages.dedup.bff import _pass, most_items
from stages.dedup.bloom import filter_bytes, make_filter
from stages.dedup.spec import read_filtering, read_spec
from stages.errors import UserError

WHITE = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c <= "\x1f")
SURE = {"fp_rate": 1e-9}  # a false-positive rate at which none occurs here


def reference(texts: list[str], min_chars: int = 0) -> tuple[list[str | None], dict[int, set[int]]]:
    """What is left of each document (None: nothing), and of each document the ones that had its removed paragraphs first."""
    first: dict[str, int] = {}
    left: list[str | None] = []
    holders: dict[int, set[int]] = {}
    for number, text in enumerate(texts):
        stays = ""
        for line in text.split("\n"):
            if len(line) >= min_chars and line.strip(WHITE):
                if line in first:
                    holders.setdefault(number, set()).add(first[line])
                    continue
                first[line] = number
            stays += line + "\n"
        left.append(stays or None)
    return left, holders


def plain(text: str) -> list[str]:
    return [line for line in text.split("\n") if line.strip(WHITE)]


def corpus(rng: random.Random) -> list[str]:
    """Documents of shared and own paragraphs, short and empty ones, ones that repeat themselves, ones in other scripts."""
    shared = [prose(rng, rng.randrange(1, 30), 99) for _ in range(60)] + [
        "日本語の段落。",
        "é" * 9,
        "x",
        " \u3000",
        "a\r",
    ]
    texts = ["\n".join(rng.choices(shared, k=rng.randrange(1, 6))) + rng.choice(["", "\n", "\n\n"]) for _ in range(120)]
    texts += [prose(rng, 40, 8) for _ in range(20)] + ["", "\n", "x", "y\nz", "same\nsame\nsame\n"]
    rng.shuffle(texts)
    return texts


def left_over(summary: dict, parts: list[dict]) -> list[str]:
    return [
        text for part in parts for text in pq.read_table(summary["parts"][str(part["ordinal"])])["text"].to_pylist()
    ]


@pytest.mark.parametrize("settings", [{"exact": True}, SURE, {"exact": True, "min_chars": 8}, SURE | {"min_chars": 8}])
def test_equals_a_set_of_paragraphs_however_the_work_is_cut(tmp_path: Path, settings: dict) -> None:
    texts = corpus(random.Random(1))
    expected, holders = reference(texts, settings.get("min_chars", 0))
    spec = {"method": "paragraphs", **settings}
    for number, rows in enumerate((7, 1000)):
        parts = write_parts(tmp_path / f"parts{number}", [{"text": text} for text in texts], rows)
        summary, removed = deduplicate(tmp_path / f"out{number}", spec, parts)
        found = left_over(summary, parts)
        for i, (text, want) in enumerate(zip(texts, expected, strict=True)):
            gone = want is None or not want.strip(WHITE)
            assert (i in removed) == gone, text
            assert gone or plain(found[i]) == plain(want), text
            if removed.get(i) is not None:
                assert int(removed[i][1:]) in holders[i]
        cuts = pa.concat_tables([pq.read_table(path) for path in summary["cuts"].values()])
        assert cuts.num_rows == sum(report["paragraphs"] for report in summary["reports"].values()) > 50
        assert None not in cuts["representative"].to_pylist()


def test_what_stays_is_the_text_without_these_paragraphs_and_their_newlines(tmp_path: Path) -> None:
    texts = ["one\ntwo\n\nthree", "zero\ntwo\n\n  \nfour\n", "five\nthree", "three\nsix", "\ufefftwo\nTwo\ntwo "]
    parts = write_parts(tmp_path / "parts", [{"text": text} for text in texts], 2)
    summary, removed = deduplicate(tmp_path / "out", {"method": "paragraphs", "exact": True}, parts)
    assert left_over(summary, parts) == [
        "one\ntwo\n\nthree",
        "zero\n\n  \nfour\n",
        "five\n",
        "six",
        "\ufefftwo\nTwo\ntwo ",
    ]
    assert removed == {}


def test_real_documents(tmp_path: Path, shared_data: Path) -> None:
    texts = shared_texts(shared_data, "c4", 300_000) + shared_texts(shared_data, "code", 300_000)
    texts += texts[:20]
    expected, _ = reference(texts)
    parts = write_parts(tmp_path / "parts", [{"text": text} for text in texts], 100)
    for name, settings in (("bloom", SURE), ("exact", {"exact": True})):
        summary, removed = deduplicate(tmp_path / name, {"method": "paragraphs", **settings}, parts)
        for i, (found, want) in enumerate(zip(left_over(summary, parts), expected, strict=True)):
            assert i in removed or plain(found) == plain(want or "")
        assert set(range(len(texts) - 20, len(texts))) <= set(removed)


def test_the_share_of_false_positives_is_what_was_asked_for() -> None:
    rng = random.Random(3)
    texts = pa.array([f"{rng.random()}" for _ in range(20_000)], pa.large_string())
    spec = read_filtering({"method": "paragraphs", "fp_rate": 0.05})
    filter = make_filter(len(texts), spec.fp_rate, 0, 0, 1 << 30, "test")
    spans = sum(len(_pass(texts.slice(at, 1000), np.arange(1000), spec, filter)[0]["doc"]) for at in range(0, 20_000, 1000))
    assert 0.01 * len(texts) < spans < 0.05 * len(texts)  # while it fills, the rate rises to what was asked for


def test_memory_is_stated_and_kept_to(tmp_path: Path) -> None:
    parts = write_parts(tmp_path / "parts", [{"text": f"{i}\n{i}a\n"} for i in range(5000)], 1000)
    few = {"method": "paragraphs", "exact": True, "memory": 1 << 17}
    with pytest.raises(UserError, match=r"shard 0: a table of 15,000 paragraphs takes .* raise memory or shards"):
        deduplicate(tmp_path / "out", few, parts)
    assert filter_bytes(10_000, 0.01, exactly=True) <= 24.1 * 10_000
    with pytest.raises(UserError, match="made for 100 paragraphs and took 101"):
        deduplicate(tmp_path / "few", {"method": "paragraphs", "exact": True, "expected_paragraphs": 100}, parts)
    with pytest.raises(ValueError, match="load and save are for Bloom filters"):
        read_spec({"method": "paragraphs", "exact": True, "save": True})
    with pytest.raises(ValueError, match="ngram"):
        read_spec({"method": "paragraphs", "ngram": 13})
    assert most_items(pa.array(["a\nb", ""], pa.large_string()), read_filtering({"method": "paragraphs"})) == 3


def test_a_saved_filter_knows_the_old_paragraphs_and_no_other_method_takes_it(tmp_path: Path) -> None:
    old = write_parts(tmp_path / "old", [{"text": "a line\nanother line"}], 1)
    spec = {"method": "paragraphs", "save": True, "expected_paragraphs": 1000, **SURE}
    summary, _ = deduplicate(tmp_path / "first", spec, old)
    saved = summary["shards"][0]["filter"]
    new = write_parts(tmp_path / "new", [{"text": "another line\nfresh"}], 1)
    summary, _ = deduplicate(tmp_path / "second", {"method": "paragraphs", "load": saved, **SURE}, new)
    assert left_over(summary, new) == ["fresh"]
    with pytest.raises(UserError, match="holds whole paragraphs with seed 0, not 13-grams"):
        deduplicate(tmp_path / "third", {"method": "bff", "load": saved}, new)
