"""Substring dedup against an obvious, quadratic reference, on generated and on real documents."""

from __future__ import annotations

import collections
import functools
import itertools
import random
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pydivsufsort
import pytest
from dedup_corpus import altered, deduplicate, prose, shared_texts, write_parts
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from stages.dedup import sequence
from stages.dedup.spec import read_spec
from stages.errors import UserError
from stages.kernels.unicode_tables import code_points
from stages.kernels.words import word_ends
from stages.marks import in_key
from stages.tokens.tokenizer import load_tokenizer

WHITE = "".join(c for c in map(chr, range(0x3001)) if c.isspace() and not "\x1c" <= c <= "\x1f")
Unit = tuple[bytes, int, int]  # what is compared, and the bytes of the text that it stands for


def cut_into_units(text: str, unit: str, tokenizer: Tokenizer | None) -> list[Unit]:
    raw = text.encode()
    if unit == "bytes":
        return [(raw[i : i + 1], i, i + 1) for i in range(len(raw))]
    if unit == "tokens":
        assert tokenizer is not None
        ends = list(itertools.accumulate(len(tokenizer.id_to_token(i)) for i in tokenizer.encode(text).ids))
    else:
        found = np.empty(len(raw), np.int64)
        count = word_ends(np.frombuffer(raw + b"\0", np.uint8), 0, len(raw), code_points(), found)
        ends = found[:count].tolist()
    spans = list(itertools.pairwise([0, *ends]))
    return [(raw[a:b], a, b) for a, b in spans if unit == "tokens" or raw[a:b].decode().strip(WHITE)]


def reference(texts: list[str], length: int, unit: str, keep: str, min_left: int, tokenizer: Tokenizer | None = None):
    """What is left of each text (None: it goes), and of each its pieces: (start, stop, document that holds it first)."""
    units = [cut_into_units(text, unit, tokenizer) for text in texts]
    places = [(d, u) for d, mine in enumerate(units) for u in range(len(mine) - length + 1)]
    windows = [b"\xff".join(what for what, _, _ in units[d][u : u + length]) for d, u in places]
    counts = collections.Counter(windows)
    taken: list[list[int | None]] = [[-1] * len(mine) for mine in units]  # -1: stays; else its holder, None without one
    for number, (d, u) in enumerate(places):
        first = windows.index(windows[number])
        holder, at = places[first]
        apart = first < number and (holder < d or at + length <= u)
        goes = apart if keep == "first" else counts[windows[number]] > 1
        for i in range(u, u + length) if goes else ():
            if taken[d][i] == -1:
                taken[d][i] = None if first == number else holder
    keepers = {h for mine in taken for h in mine if h not in (-1, None)} if keep == "first" else set()
    left: list[str | None] = []
    pieces: list[list[tuple[int, int, int | None]]] = []
    for d, (text, mine) in enumerate(zip(texts, taken, strict=True)):
        runs = [(g, [i for i, _ in items]) for g, items in itertools.groupby(enumerate(mine), key=lambda item: item[1])]
        cuts = [(*spans_of(text.encode(), units[d], mine, run, unit), h) for h, run in runs if h != -1]
        cuts = [cut for cut in cuts if cut[0] < cut[1]]
        raw = bytearray(text.encode())
        for start, stop, _ in reversed(cuts):
            del raw[start:stop]
        short = any(h != -1 for h in mine) and mine.count(-1) < min_left and d not in keepers
        left.append(None if short or not raw.decode().strip(WHITE) else raw.decode())
        pieces.append(cuts)
    return left, pieces


def spans_of(raw: bytes, units: list[Unit], taken: list[int | None], run: list[int], unit: str) -> tuple[int, int]:
    """The bytes that go for a run of units: whole characters, or words with the white space on one side."""
    first, last = run[0], run[-1]
    start, stop = units[first][1], units[last][2]
    if unit != "words":
        whole = [i for i in range(len(raw) + 1) if i == len(raw) or raw[i] & 0xC0 != 0x80]
        up = min(i for i in whole if i >= start)
        down = max(i for i in whole if i <= stop)
        if first and taken[first - 1] != -1:
            up = max(i for i in whole if i <= start)  # the border of the piece before
            begin = first
            while begin and taken[begin - 1] != -1:
                begin -= 1
            up = max(up, min(i for i in whole if i >= units[begin][1]))
        return up, down
    begin, end = first, last
    while begin and taken[begin - 1] != -1:
        begin -= 1
    while end + 1 < len(units) and taken[end + 1] != -1:
        end += 1
    before = raw[units[begin - 1][2] if begin else 0 : units[begin][1]]
    after = raw[units[end][2] : units[end + 1][1] if end + 1 < len(units) else len(raw)]
    before_stays = (before.count(b"\n"), len(before)) >= (after.count(b"\n"), len(after))
    if first == begin and not before_stays:
        start -= len(before)
    stop = units[last + 1][1] if last < end else stop + len(after) * before_stays
    return start, stop


def check(
    folder: Path, texts: list[str], spec: dict[str, Any], rows: int, tokenizer: Tokenizer | None = None
) -> list[Any]:
    """Run, and compare everything to the reference; returns what must not hang on how the work is cut."""
    full = read_spec({"method": "substring"} | spec)
    left, pieces = reference(texts, full.length, full.unit, full.keep, full.min_left, tokenizer)
    parts = write_parts(folder / "in", [{"text": t} for t in texts], rows, ("a", "b"))
    summary, removed = deduplicate(folder / "out", {"method": "substring"} | spec, parts)
    after = [t for p in parts for t in pq.read_table(summary["parts"][str(p["ordinal"])])["text"].to_pylist()]
    assert after == [old if new is None else new for old, new in zip(texts, left, strict=True)]
    names = [f"d{i}" for i in range(len(texts))]
    heads = {d: cuts[0][2] if cuts else None for d, cuts in enumerate(pieces)}
    assert removed == {d: None if heads[d] is None else names[heads[d]] for d, t in enumerate(left) if t is None}
    cuts: list[list[tuple[Any, ...]]] = [[] for _ in texts]
    first = 0
    for part in parts:
        for cut in pq.read_table(summary["cuts"][str(part["ordinal"])]).to_pylist():
            cuts[first + cut["row"]].append((cut["start"], cut["stop"], cut["representative"]))
            if cut["representative"] is not None:
                holder = parts[cut["representative_part"]]
                assert holder["source"] == cut["representative_source"]
                before = sum(p["documents"] for p in parts[: cut["representative_part"]])
                assert names[before + cut["representative_row"]] == cut["representative"]
        report = summary["reports"][str(part["ordinal"])]
        mine = range(first, first + part["documents"])
        assert report["bytes"] == sum(len(texts[i].encode()) for i in mine)
        assert report["removed_bytes"] == sum(len(texts[i].encode()) for i in mine if i in removed)
        assert report["bytes"] - report["removed_bytes"] - report["cut_bytes"] == sum(
            len(after[i].encode()) for i in mine if i not in removed
        )
        first += part["documents"]
    named = [[(a, b, None if h is None else names[h]) for a, b, h in mine] for mine in pieces]
    assert cuts == [[] if d in removed else mine for d, mine in enumerate(named)]
    return [after, removed, cuts, summary["shards"]]


def corpus(rng: random.Random) -> list[str]:
    """Shared paragraphs, runs of words amid others, texts that repeat themselves, copies, none of it, other scripts."""
    base = [prose(rng, rng.randrange(20, 60), 15) for _ in range(10)]
    shared = [prose(rng, 25, 99) for _ in range(4)] + [
        "la même  chose, «ça» coûte 3,5 € à Łódź; это не то же самое 你好世界" * 2
    ]
    texts = list(base)
    for _ in range(14):
        own = prose(rng, rng.randrange(1, 30), 9).split(" ")
        at = rng.randrange(len(own) + 1)
        run = rng.choice(shared + base)
        if rng.random() < 0.5:
            words = run.split(" ")
            run = " ".join(words[rng.randrange(len(words) // 2) :])
        join = rng.choice([" ", "\n", "\n\n", "  "])
        texts.append(join.join([" ".join(own[:at]), run, " ".join(own[at:])]))
    texts += [rng.choice(base) for _ in range(2)] + [altered(rng, rng.choice(base), 1) for _ in range(3)]
    texts += [(p := prose(rng, 14, 99)) + "\n" + p + p, "so " * 70, "a b " * 30, "short", "short", "", " \n\u3000"]
    rng.shuffle(texts)
    return texts


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Tokenizer]:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<|endoftext|>"], show_progress=False
    )
    made.train_from_iterator(corpus(random.Random(1)), trainer)
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    made.save(str(path))
    return str(path), made


def load_as_if_large(*args: Any, **options: Any) -> Any:
    """A tokenizer whose tokens do not fit into two bytes, by what it says."""
    loaded = load_tokenizer(*args, **options)
    loaded.vocab_size = 1 << 16
    return loaded


@pytest.mark.parametrize("keep", ["first", "none"])
@pytest.mark.parametrize(("unit", "length"), [("words", 12), ("bytes", 60), ("tokens", 20)])
def test_equals_the_reference_however_the_work_is_cut(tmp_path, tokenizer, unit, length, keep, monkeypatch) -> None:
    texts = corpus(random.Random(31))[: 22 if unit == "bytes" else None]
    spec = {"unit": unit, "length": length, "keep": keep, "min_left": 8}
    if unit == "tokens":
        spec["tokenizer"] = tokenizer[0]
    one = check(tmp_path / "a", texts, spec, 5, tokenizer[1])
    assert len(one[1]) > 2 and sum(map(len, one[2])) > 5
    wide = functools.partial(pydivsufsort.divsufsort, force64=True)  # as from 2 GiB on
    monkeypatch.setattr(pydivsufsort, "divsufsort", wide)
    monkeypatch.setattr(sequence, "load_tokenizer", load_as_if_large)
    other = check(tmp_path / "b", texts, spec, 1000, tokenizer[1])
    assert other[:3] == one[:3]
    assert other[3][0]["sequence_bytes"] == one[3][0]["sequence_bytes"] * (2 if unit == "tokens" else 1)


WORDS = st.sampled_from(["a", "b", "ab", "é", "日", "本", "x.y", ",", "«", "\U0001f600", "e\u0301", "3,5", "", "\r\n"])
GAPS = st.sampled_from([" ", " ", "\n", "  ", " \n\n", "\u3000", ""])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.tuples(WORDS, GAPS), max_size=14).map(lambda ws: "".join(w + g for w, g in ws)), max_size=7),
    st.sampled_from(["words", "bytes"]),
    st.integers(2, 5),
    st.sampled_from(["first", "none"]),
    st.integers(0, 3),
    st.integers(1, 4),
)
def test_any_texts_equal_the_reference(texts, unit, length, keep, min_left, rows) -> None:
    with tempfile.TemporaryDirectory() as folder:
        check(Path(folder), texts or [""], {"unit": unit, "length": length, "keep": keep, "min_left": min_left}, rows)


def test_real_documents(tmp_path, shared_data) -> None:
    rng = random.Random(32)
    texts = [t[:1500] for name in ("c4", "wiki-fr", "code") for t in shared_texts(shared_data, name, 60_000)[:9]]
    long = [t for t in texts if len(t.split(" ")) > 100]
    for i in range(0, len(texts), 3):
        words = rng.choice(long).split(" ")
        at = rng.randrange(len(words) - 80)
        texts[i] = texts[i][:600] + " " + " ".join(words[at : at + 80]) + texts[i][600:]
    texts.append(texts[4])
    left, removed, cuts, _ = check(tmp_path, texts, {"min_left": 0}, 6)
    assert removed == {len(texts) - 1: "d4"}
    assert sum(map(len, cuts)) >= 5
    # What is left has each run of 50 words once, but where a cut brought words together.
    again, more, _, shards = check(tmp_path / "again", left[:-1], {"min_left": 0}, 6)
    assert (again, more, shards[0]["repeated"]) == (left[:-1], {}, 0)


def test_what_is_cut_stands_in_its_representative(tmp_path) -> None:
    """Windows of several documents run into one another: each piece names one that holds its words."""
    rng = random.Random(33)
    words = prose(rng, 60, 99).split(" ")
    texts = [" ".join(words[:35]), " ".join(words[25:]), " ".join(words)]
    after, removed, cuts, _ = check(tmp_path, texts, {"length": 10, "min_left": 0}, 2)
    assert removed == {2: "d0"} and not cuts[2]
    texts[2] = "before " + texts[2]
    after, removed, cuts, _ = check(tmp_path / "b", texts, {"length": 10, "min_left": 0}, 2)
    assert not removed and after[2].strip() == "before"
    assert [name for _, _, name in cuts[2]] == ["d0", "d1"]
    for start, stop, name in cuts[2]:
        assert texts[2].encode()[start:stop].decode().strip() in texts[int(name[1:])]


def test_a_document_that_becomes_too_short_goes_unless_others_need_it(tmp_path) -> None:
    rng = random.Random(34)
    head, middle, tail = (prose(rng, 30, 99) for _ in range(3))
    texts = [head, f"{head} {middle}", f"{middle} {tail}", f"{tail} one two three"]
    spec = {"length": 20, "min_left": 40}
    _, removed, cuts, _ = check(tmp_path / "a", texts, spec, 2)
    assert removed == {3: "d2"}  # others lost as much, but are kept for what stands in them alone
    assert [len(mine) for mine in cuts] == [0, 1, 1, 0]
    assert check(tmp_path / "b", texts, spec | {"min_left": 3}, 2)[1] == {}


def test_shards_do_not_see_each_other(tmp_path) -> None:
    rng = random.Random(35)
    texts = [prose(rng, 60, 99) for _ in range(4)]
    texts = [t for t in texts for _ in range(3)]
    documents = [{"text": t, "file": f"f{i // 4}"} for i, t in enumerate(texts)]
    results = []
    for rows in (1, 5, 100):
        parts = write_parts(tmp_path / f"in{rows}", documents, rows)
        results.append(deduplicate(tmp_path / f"out{rows}", {"method": "substring", "shards": 3}, parts)[1])
    expected = {}
    for shard in range(3):
        left, _ = reference(texts[4 * shard : 4 * shard + 4], 50, "words", "first", 50)
        expected |= {
            4 * shard + i: texts.index(texts[4 * shard + i], 4 * shard) for i, t in enumerate(left) if t is None
        }
    assert results == [{d: f"d{holder}" for d, holder in expected.items()}] * 3
    assert len(expected) == 6


def test_a_shard_larger_than_the_memory_is_refused_before_it_is_begun(tmp_path) -> None:
    parts = write_parts(tmp_path / "in", [{"text": prose(random.Random(36), 3000, 99)}] * 4, 2)
    with pytest.raises(UserError, match=r"dedup.substring, shard 0: .* kB of words take .* raise memory or shards"):
        deduplicate(tmp_path / "out", {"method": "substring", "memory": 1 << 16}, parts)
    assert not list((tmp_path / "out").iterdir())


def test_wrong_settings_are_refused(tmp_path) -> None:
    for wrong in ({"unit": "tokens"}, {"tokenizer": "x.json"}, {"length": 1}, {"unit": "lines"}, {"keep": "longest"}):
        with pytest.raises(ValidationError):
            read_spec({"method": "substring", **wrong})
    plain = read_spec({"method": "substring"})
    assert (plain.length, plain.unit, plain.keep) == (50, "words", "first")
    assert in_key(read_spec({"method": "substring", "memory": 1 << 30})) == in_key(plain)


def test_a_tokenizer_that_changes_the_text_is_refused(tmp_path, tokenizer) -> None:
    parts = write_parts(tmp_path / "in", [{"text": "Some Words " * 30}], 2)
    made = Tokenizer.from_file(tokenizer[0])
    made.normalizer = normalizers.Replace("Some", "any")
    made.save(str(tmp_path / "tokenizer.json"))
    spec = {"method": "substring", "unit": "tokens", "tokenizer": str(tmp_path / "tokenizer.json")}
    with pytest.raises(UserError, match="changes the text"):
        deduplicate(tmp_path / "out", spec, parts)


def test_removals_of_an_earlier_dedup_stay_as_they_are(tmp_path) -> None:
    text = prose(random.Random(37), 60, 99)
    parts = write_parts(tmp_path / "in", [{"text": t} for t in (text, text, text + " end")], 4)
    first, removed = deduplicate(tmp_path / "a", {"method": "exact"}, parts)
    assert removed == {1: "d0"}
    parts[0]["removals"] = [first["removals"]["0"]]
    second, removed = deduplicate(tmp_path / "b", {"method": "substring"}, parts)
    assert (removed, second["documents"]) == ({2: "d0"}, 2)
