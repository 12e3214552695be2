"""Overlap with evaluation sets against sets of n-grams held as Python tuples."""

from __future__ import annotations

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.errors import InputError, UserError
from stages.filters.decontaminate import Decontaminate
from stages.steps import STEPS

N = 3


def ngrams(text: str, n: int = N) -> list[tuple[str, ...]]:
    words = re.sub(r"[.,!?'\"\-\n]", " ", text.lower().replace("é", "e")).split()
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def reference(texts: list[str], sets: dict[str, list[str]], n: int = N) -> list[tuple[float, str | None]]:
    first: dict[tuple[str, ...], tuple[int, int]] = {}
    for number, rows in enumerate(sets.values()):
        for record, row in enumerate(rows, start=1):
            for ngram in ngrams(row, n):
                first.setdefault(ngram, (number, record))
    found = []
    for text in texts:
        mine = ngrams(text, n)
        hits = Counter(first[ngram] for ngram in mine if ngram in first)
        most = max(hits, key=lambda place: (hits[place], -place[0], -place[1]), default=None)
        name = None if most is None else f"{list(sets)[most[0]]}:{most[1]}"
        found.append((hits.total() / len(mine) if mine else np.nan, name))
    return found


def measured(step: Decontaminate, texts: list[str]) -> list[tuple[float, str | None]]:
    measures = step.measure(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    return list(zip(measures["overlap"].tolist(), measures["hit"].to_pylist(), strict=True))


def write(folder: Path, sets: dict[str, list[str]], field: str = "text") -> list[str]:
    for name, rows in sets.items():
        lines = [json.dumps({field: row, "other": 1}) for row in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
    return [str(folder / f"{name}.jsonl") for name in sets]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))


words = st.lists(st.sampled_from(["a", "B", "c.", "D,", "7", "8", "été", "-", "!"]), max_size=15).map(" ".join)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(words, max_size=5), st.lists(words, max_size=4), st.lists(words, max_size=4))
@example(["a b c", "a-b c!", "a b", "", "a b 7 a b 8", "7 7 7 x 8 8 8"], ["b a 7", "A, b, c"], ["a b 8", "a b c d a", "8 8 8"])
def test_any_texts_and_sets(tmp_path: Path, texts: list[str], one: list[str], two: list[str]) -> None:
    sets = {"one": ["x y z", "", *one], "two": [*two, "p q r s"]}
    step = Decontaminate(files=tuple(write(tmp_path, sets)), names=("one", "two"), fields=("text",), match="ngrams", ngram=N)
    np.testing.assert_equal(measured(step, texts), reference(texts, sets))


def test_requests_in_compressed_files_and_the_limit(tmp_path: Path) -> None:
    row = {"request": {"context": "The quick brown fox jumps over the lazy", "continuation": " dog, and then it sleeps."}}
    lines = json.dumps({"request": {"context": "too short"}}) + "\n\n" + json.dumps(row) + "\n"
    (tmp_path / "task").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "task" / "requests.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    zstd = zstandard.ZstdCompressor().compress(lines.replace("sleeps", "naps").encode())
    (tmp_path / "other" / "requests").write_bytes(zstd)
    files = [str(tmp_path / "task" / "requests.jsonl.gz"), str(tmp_path / "other" / "requests")]
    step = STEPS["decontaminate"].model_validate({"files": files, "match": "ngrams"})
    assert step.names == ("task/requests.jsonl.gz", "other/requests")
    whole = "the QUICK brown fox: jumps over the lazy dog -- and then it sleeps"
    docs = pa.record_batch({"text": pa.array([whole, f"Once, {whole}", whole[4:], "x " * 20], pa.large_string())})
    measures = step.measure(docs)
    assert measures["overlap"].tolist()[:2] == [1.0, 0.5]
    assert np.isnan(measures["overlap"][2])
    assert measures["hit"].to_pylist() == ["task/requests.jsonl.gz:3", "task/requests.jsonl.gz:3", None, None]
    assert step.decide(measures).tolist() == [0, 0, -1, -1]
    assert measured(step, [whole.replace("sleeps", "naps")]) == [(1.0, "other/requests:3")]
    assert measured(step, []) == []
    again = STEPS["decontaminate"].model_validate(step.model_dump(mode="json"))
    assert again.model_copy(update={"files": tuple(files)}).names == step.names


def test_names_are_what_paths_differ_by() -> None:
    assert Decontaminate(files="s3://b/eval/task.jsonl").names == ("task.jsonl",)
    assert Decontaminate(files=["e/a/x/r.gz", "e/b/x/r.gz"]).names == ("a", "b")
    assert Decontaminate(files=["e/a/x/r.gz", "e/r.gz"]).names == ("a/x/r.gz", "r.gz")
    with pytest.raises(ValidationError, match="2 files need as many names"):
        Decontaminate(files=["a", "b"], names=["x", "x"])
    with pytest.raises(ValidationError, match="files"):
        Decontaminate(files=[])


def test_lists_of_strings_and_nested_fields(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"doc": {"q": "one two", "choices": ["three", "four"], "n": 5}}))
    fields = ("doc.q", "doc.none", "doc.n", "doc.choices")
    step = Decontaminate(files=str(tmp_path / "x.jsonl"), fields=fields, match="ngrams", ngram=4)
    assert measured(step, ["one two three four"]) == [(1.0, "x.jsonl:1")]


def test_bad_sets_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"

    def loading(content: bytes) -> Decontaminate:
        path.write_bytes(content)
        return Decontaminate(files=str(path), fields=("text",), match="ngrams", ngram=N)

    with pytest.raises(InputError, match=r"bad\.jsonl, record 2: has no text in any of text"):
        loading(b'{"text": "a b c"}\n{"other": 1}\n').prepare()
    with pytest.raises(InputError, match=r"bad\.jsonl, record 2: is no JSON"):
        loading(b'{"text": "a b c"}\n{"text": "\n').prepare()
    with pytest.raises(InputError, match=r"bad\.jsonl, record 10: cannot be read on"):
        loading(gzip.compress(b'{"text": "a b c"}\n' * 9)[:-9]).prepare()
    with pytest.raises(UserError, match=r"no row of the evaluation set .*bad\.jsonl has 3 words in text"):
        loading(b'{"text": "a b"}\n').prepare()
    with pytest.raises(UserError, match="cannot be read"):
        Decontaminate(files=str(tmp_path / "absent")).prepare()


def test_real_sets_and_documents(shared_data: Path) -> None:
    files = [str(shared_data / "eval" / name / "requests.jsonl.gz") for name in ("lambada/bpb_0shot", "piqa/rc_0shot")]
    step = Decontaminate(files=tuple(files), names=("lambada", "piqa"), match="ngrams")
    with gzip.open(files[0]) as file:
        requests = [json.loads(line)["request"] for line in file]
    with (shared_data / "books.jsonl.zst").open("rb") as file:
        raw = zstandard.ZstdDecompressor().stream_reader(file).read(1_000_000)
    books = [json.loads(line)["text"] for line in raw.splitlines()[:-1]]
    planted = [f"{books[0]}\n{requests[7]['context']}\n{books[1]}", requests[100]["context"]]
    found = measured(step, [*books, *planted])
    assert all(overlap == 0 or np.isnan(overlap) for overlap, _ in found[: len(books)])
    assert 0 < found[-2][0] < 0.5
    assert found[-2][1] == "lambada:8"
    assert found[-1] == (1.0, "lambada:101")
