"""Items of evaluation sets: how they are read, and the search for them against an unbanded search in Python."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.cli import main
from stages.errors import InputError, UserError
from stages.filters.decontaminate import Decontaminate
from stages.filters.evaluation_items import Item, read_items
from stages.filters.evaluation_records import strings
from stages.step import Step

GREAT = "Which of the seven planets in the list is known for its great red spot?"
PLANT = f" {GREAT} "
FILLER = "Nothing of this has been asked by anybody, and it goes on for a while. "


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


def write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def step_of(tmp_path: Path, rows: Sequence[Any], **options: Any) -> Decontaminate:
    return Decontaminate(files=write(tmp_path / "set.jsonl", rows), **options)


def hits(step: Step, texts: Sequence[str]) -> list[list[list[Any]]]:
    measures = step.measure(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    return [orjson.loads(one or "[]") for one in pa.array(measures["hits"]).to_pylist()]


def edited(step: Step, text: str) -> str:
    return step.edit(pa.record_batch({"text": pa.array([text], pa.large_string())}))[0].column("text")[0].as_py()


def request(doc: dict[str, Any], context: str, continuation: str, idx: int, label: Any) -> dict[str, Any]:
    return {"doc": doc, "request": {"context": context, "continuation": continuation}, "idx": idx, "label": label}


def test_choices_of_one_request_are_one_item_and_unconditional_ones_are_none(tmp_path: Path) -> None:
    rows = []
    for number, asked in enumerate(("What is ice?", "What is steam?")):
        doc = {"id": number, "query": asked}
        rows += [request(doc, f"Question: {asked}\nAnswer:", f" {choice}", i, 1) for i, choice in enumerate(("air", "water"))]
        rows += [request(doc, "Answer:", f" {choice}", i, 1) for i, choice in enumerate(("air", "water"))]
    items = read_items(write(tmp_path / "x.jsonl", rows))
    assert items == [Item(1, "What is ice?", (" water",)), Item(5, "What is steam?", (" water",))]


def test_examples_of_few_shot_prompts_and_listed_choices_are_left_out(tmp_path: Path) -> None:
    shots = "Question: which side is the front\nAnswer: North\n\nQuestion: who is it\nAnswer: Buzz\n\n"
    asked = [f"Question: who played number {i} here\n A. Ann\n B. Bob\nAnswer:" for i in range(4)]
    rows = [request({"index": i}, shots + text, " B", 0, None) for i, text in enumerate(asked)]
    items = read_items(write(tmp_path / "x.jsonl", rows))
    assert items == [Item(i + 1, f"who played number {i} here", ("Bob",)) for i in range(4)]
    shared = [request({"index": i}, f"Some rules.\n\nMore rules.\n\nTask {i} is this", " yes", 0, None) for i in range(4)]
    items = read_items(write(tmp_path / "y.jsonl", shared))
    assert items == [Item(i + 1, f"Task {i} is this", (" yes",)) for i in range(4)]


def test_a_choice_within_the_question_is_left_out(tmp_path: Path) -> None:
    contexts = ("Sarah was a better surgeon than Maria so Sarah", "Sarah was a better surgeon than Maria so Maria")
    rows = [request({"index": 0}, text, " got the easier cases.", i, 1) for i, text in enumerate(contexts)]
    items = read_items(write(tmp_path / "x.jsonl", rows))
    assert items == [Item(1, "Sarah was a better surgeon than Maria so", (" got the easier cases.",))]


def test_usual_and_named_fields(tmp_path: Path) -> None:
    rows = [{"prompt": "p q", "answer": "a"}, {"question": "q", "answers": ["a", "b"]}, {"text": "t"}]
    path = write(tmp_path / "x.jsonl", rows)
    assert read_items(path) == [Item(1, "p q", ("a",)), Item(2, "q", ("a", "b")), Item(3, "t")]
    path = write(tmp_path / "y.jsonl", [{"doc": {"story": "s t", "ask": "u"}, "gold": "v"}])
    assert read_items(path, ("doc.story", "doc.ask"), ("gold",)) == [Item(1, "s t u", ("v",))]
    with pytest.raises(InputError, match=r"y\.jsonl, record 1: has no text in any of doc\.none"):
        read_items(path, ("doc.none",))
    with pytest.raises(UserError, match="has no record"):
        read_items(write(tmp_path / "z.jsonl", []))


def test_a_question_is_found_alone_or_with_its_answer(tmp_path: Path) -> None:
    rows = [
        {"question": GREAT, "answer": "Jupiter"},
        {"question": "Who painted the old mill?", "answer": "Jacob van Ruisdael"},
        {"question": "A frog eats", "answer": "flies and worms at night"},
        {"question": "Why?", "answer": "No"},
    ]
    step = step_of(tmp_path, rows)
    texts = [
        f"{FILLER}{GREAT.upper()}{FILLER}",
        f"{FILLER}Who painted the old mill? Nobody knows. {FILLER}",
        f"{FILLER}Q: Who painted the old mill?\nA: {FILLER}It was Jacob van Ruisdael.",
        f"{FILLER}Who painted the old mill? {FILLER * 9} Jacob van Ruisdael.",
        f"Jacob van Ruisdael. Who painted the old mill? {FILLER}",
        f"{FILLER}A frog eats:\n- flies and worms at night. {FILLER}",
        f"{FILLER}A frog eats all day. Why? No. {FILLER}",
        "",
    ]
    found = hits(step, texts)
    assert [[hit[0] for hit in mine] for mine in found] == [["set.jsonl:1"], [], ["set.jsonl:2"], [], [], ["set.jsonl:3"], [], []]
    assert found[0] == [["set.jsonl:1", 1.0, 15, 30]]
    assert step.items().long_enough(0, step.shortest).tolist() == [True, True, True, False]
    measures = step.measure(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    assert measures["items"].tolist() == [1, 0, 1, 0, 0, 1, 0, 0]
    assert measures["overlap"][0] == pytest.approx(15 / 45)
    assert step.decide(measures).tolist() == [0, -1, 0, -1, -1, 0, -1, -1]


def test_items_with_words_changed_left_out_and_put_in(tmp_path: Path) -> None:
    rng = random.Random(3)
    known = [f"w{i}" for i in range(400)]
    rows = [{"text": " ".join(rng.sample(known, 40))} for _ in range(30)]
    step = step_of(tmp_path, rows)
    for number, row in enumerate(rows, start=1):
        words = row["text"].split()
        replaced = [word if i % 12 != 5 else "other" for i, word in enumerate(words)]
        without = [word for i, word in enumerate(words) if i % 12 != 5]
        longer = [part for i, word in enumerate(words) for part in ([word, "more"] if i % 12 == 5 else [word])]
        documents = [FILLER + " ".join(some) + FILLER for some in (replaced, without, longer, words[:20])]
        assert [[hit[0] for hit in mine] for mine in hits(step, documents)] == [*[[f"set.jsonl:{number}"]] * 3, []]


vocabulary = st.sampled_from(list("abcdefghij"))
some_words = st.lists(vocabulary, min_size=8, max_size=14)


def subsequence(text: list[str], document: list[str], weights: dict[str, float]) -> float:
    """The greatest weight of a common subsequence."""
    best = [0.0] * (len(document) + 1)
    for word in text:
        before = best[:]
        for j, other in enumerate(document):
            best[j + 1] = max(best[j], before[j + 1], before[j] + weights[word] if word == other else 0.0)
    return best[-1]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(some_words, min_size=1, max_size=4), st.lists(vocabulary, max_size=40), st.randoms(use_true_random=False))
def test_what_is_found_is_there_and_what_is_there_whole_is_found(
    tmp_path: Path, items: list[list[str]], around: list[str], rng: random.Random
) -> None:
    step = step_of(tmp_path, [{"text": " ".join(words)} for words in items])
    having = Counter(word for words in items for word in set(words))
    weights = {word: math.log1p(len(items) / having[word]) for word in having}
    place, planted = rng.randrange(len(around) + 1), rng.randrange(len(items))
    documents = [around, around[:place] + items[planted] + around[place:]]
    found = hits(step, [" ".join(document) for document in documents])
    for document, mine in zip(documents, found, strict=True):
        for name, share, first, last in mine:
            words = items[int(name.split(":")[1]) - 1]
            most = subsequence(words, document[first:last], weights) / sum(weights[word] for word in words)
            assert share <= most + 1e-4
            assert share >= 1 - 0.25 * (len(words) - 8) / 17 - 1e-4
    same = {f"set.jsonl:{i}" for i, words in enumerate(items, start=1) if words == items[planted]}
    assert same <= {hit[0] for hit in found[1] if hit[1] > 0.999}


def test_spans_and_lines_are_taken_out(tmp_path: Path) -> None:
    rows = [{"question": GREAT, "answer": "Jupiter"}]
    cut, lines = (step_of(tmp_path, rows, remove=remove) for remove in ("spans", "paragraphs"))
    text = f"One.\nTwo: «{GREAT}»\nA: Jupiter, it is.\n\nThree... {GREAT} Jupiter\u0301, four"
    assert edited(cut, text) == "One.\nTwo: it is.\n\nThree... four"
    assert edited(lines, text) == "One.\n\n"
    assert edited(cut, GREAT) == edited(lines, GREAT) == ""
    assert edited(cut, "Nothing.") == edited(lines, "Nothing.") == "Nothing."
    measures = cut.measure(pa.record_batch({"text": pa.array([text], pa.large_string())}))
    assert cut.decide(measures).tolist() == [-1]
    strict = step_of(tmp_path, rows, remove="spans", overlap=0.5)
    assert strict.decide(measures).tolist() == [0]
    assert step_of(tmp_path, rows).edits() is False


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(["x", "y.", "\n", " ", "été", "--", "3,4", "日本", "\u0301", "!", "\u2028", PLANT]), max_size=20))
def test_taking_spans_out_takes_no_other_word(tmp_path: Path, pieces: list[str]) -> None:
    after = edited(step_of(tmp_path, [{"text": GREAT}], remove="spans"), "".join(pieces))
    assert after.split() == "".join(pieces).replace(PLANT, " ").split()


def test_settings_that_contradict_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="ngram is for match: ngrams"):
        Decontaminate(files="x", ngram=8)
    with pytest.raises(ValidationError, match="use match: items"):
        Decontaminate(files="x", match="ngrams", remove="spans")


def test_a_run_tells_which_items_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"question": GREAT, "answer": "Jupiter"}, {"question": "Why?", "answer": "No"}]
    write(tmp_path / "set.jsonl", rows)
    texts = [FILLER * 3, f"{FILLER}{GREAT} {FILLER}", f"{FILLER} {GREAT} Jupiter. {GREAT}", FILLER * 2]
    write(tmp_path / "docs.jsonl", [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)])
    for remove in ("document", "spans"):
        recipe = {
            "name": "small",
            "sources": {"docs": {"read": {"paths": [str(tmp_path / "docs.jsonl")]}, "steps": [
                {"decontaminate": {"files": str(tmp_path / "set.jsonl"), "remove": remove}}]}},
            "tokenizer": {"train": {"vocab_size": 300, "max_bytes": "50KB"}}, "shards": {"held_out": 0}, "mixture": {"epochs": 1},
        }  # fmt: skip
        path, out = write(tmp_path / f"{remove}.json", [recipe]), str(tmp_path / remove)
        assert main(["run", path, "--inline", "--quiet", "--out", out]) == 0
        assert "decontaminate.items: documents" in capsys.readouterr().out
        assert main(["contamination", out, "--json"]) == 0
        step = json.loads(capsys.readouterr().out)["steps"]["docs.decontaminate"]
        counts = step["sets"]["set.jsonl"]
        assert (step["documents"], step["with_items"]) == (4, 2)
        assert [counts[key] for key in ("items", "long_enough", "found", "documents")] == [2, 1, 1, 2]
        assert counts["digest"] == hashlib.blake2b((tmp_path / "set.jsonl").read_bytes()).hexdigest()[:40]
        assert [place["id"] for place in counts["by_item"]["1"]["places"]] in (["d1", "d2"], ["d2", "d1"])
        assert main(["contamination", out]) == 0
        assert "1 of 2 items are long enough to be found" in capsys.readouterr().out
    assert main(["contamination", str(tmp_path / "spans"), "--source", "none"]) == 2
    assert "there is no source 'none'" in capsys.readouterr().err


def test_real_sets_are_found_in_real_texts_and_nowhere_else(shared_data: Path) -> None:
    files = sorted(str(path) for path in (shared_data / "eval").glob("*/*/requests.jsonl.gz"))
    step = Decontaminate(files=tuple(files))
    with (shared_data / "books.jsonl.zst").open("rb") as file:
        raw = zstandard.ZstdDecompressor().stream_reader(file).read(600_000)
    books = [json.loads(line)["text"] for line in raw.splitlines()[:-1]]
    assert not any(hits(step, books))
    rng = random.Random(1)
    for number, file in enumerate(files):
        items = rng.sample(read_items(file), 60)
        planted = [f"{item.question} {item.answers[0]}" for item in items]
        documents = [f"{books[i % 9][:500]}\n{text}\n{books[i % 7][:500]}" for i, text in enumerate(planted)]
        names = [f"{step.names[number]}:{item.record}" for item in items]
        found = [name in {hit[0] for hit in mine} for name, mine in zip(names, hits(step, documents), strict=True)]
        assert np.mean(found) >= 0.9, step.names[number]
        with gzip.open(file) as opened:
            assert any(strings(json.loads(line), "request.context") for line in opened)
