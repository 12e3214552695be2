"""The chain of steps: what is kept, dropped and failed, with reasons, measures and balanced books."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.books import Amount, imbalances
from stages.chain import Chain
from stages.document import DOCUMENT, replace_column
from stages.errors import DocumentFailure, DocumentsFailed, UserError
from stages.step import Limit, Measures, OneOf, Step, limit


class Length(Step):
    """Characters of the text."""

    step: ClassVar[str] = "length"
    characters: Limit = limit(min=2, max=6)

    def measure(self, docs: pa.RecordBatch) -> Measures:
        return {"characters": np.array([len(t) for t in docs.column("text").to_pylist()], np.int64)}


class Shout(Step):
    """Upper case with a mark; raises on `bad`, and reports `worse` as failed."""

    step: ClassVar[str] = "shout"

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        texts = docs.column("text").to_pylist()
        if "bad" in texts:
            raise ValueError("bad text")
        rows = [row for row, text in enumerate(texts) if text != "worse"]
        edited = docs.take(pa.array(rows, pa.int64()))
        edited = replace_column(edited, "text", pa.array([texts[r].upper() + "!" for r in rows], pa.large_string()))
        if len(rows) == len(texts):
            return edited, {}
        failures = [DocumentFailure(r, "worse text") for r in range(len(texts)) if r not in rows]
        raise DocumentsFailed(failures, (edited, {}), np.array(rows))


class First(Step):
    """The first letter as a label."""

    step: ClassVar[str] = "first"
    letter: OneOf = OneOf.__origin__(keep=("A", "B", "W"))

    def measure(self, docs: pa.RecordBatch) -> Measures:
        return {"letter": pa.array([t[:1] for t in docs.column("text").to_pylist()], pa.string())}


def batch(texts: list[str]) -> pa.RecordBatch:
    rows = [
        {"id": f"d{i}", "text": t, "url": None, "file": "f", "record": i + 1, "offset": None, "metadata": None}
        for i, t in enumerate(texts)
    ]
    return pa.RecordBatch.from_pylist(rows, DOCUMENT)


def steps() -> list[tuple[str, Step]]:
    return [("length", Length()), ("shout", Shout()), ("first", First())]


def test_kept_dropped_and_failed_are_told_apart_with_reasons() -> None:
    chain = Chain(steps())
    outcome = chain.run(batch(["a", "abc", "bad", "worse", "zebra", "abcdefg"]))
    assert outcome.kept.column("text").to_pylist() == ["ABC!"]
    assert outcome.kept.column("length.characters").to_pylist() == [3]
    dropped = {r["id"]: (r["reason"], r["reached"]) for b in outcome.dropped for r in b.to_pylist()}
    assert dropped == {
        "d0": ("length.characters.min", 1),
        "d5": ("length.characters.max", 1),
        "d4": ("first.letter.keep", 3),
    }
    failed = {r["id"]: r for b in outcome.failed for r in b.to_pylist()}
    assert set(failed) == {"d2", "d3"}
    assert failed["d2"]["error"] == "ValueError: bad text"
    assert "raise ValueError" in failed["d2"]["traceback"]
    assert failed["d3"]["payload"] == b"worse"
    assert imbalances(chain.books) == []
    assert chain.books[1].failed == Amount(2, 8)
    assert chain.books[1].edited == -2  # two documents got one byte more


@given(st.lists(st.sampled_from(["", "a", "abc", "bad", "worse", "wörld", "zz", "bcd", "toolongtext"]), max_size=12))
def test_books_balance_and_each_document_has_one_fate(texts: list[str]) -> None:
    chain = Chain(steps())
    outcome = chain.run(batch(texts))
    fates = outcome.kept.column("id").to_pylist()
    for other in (*outcome.dropped, *outcome.failed):
        fates += other.column("id").to_pylist()
    assert sorted(fates) == sorted(f"d{i}" for i in range(len(texts)))
    assert imbalances(chain.books) == []
    assert chain.books[0].into == Amount(len(texts), sum(len(t.encode()) for t in texts))


@given(st.lists(st.sampled_from(["a", "abc", "abcd", "abcde", "zz", "bcd"]), min_size=1, max_size=12))
def test_deciding_again_gives_what_a_fresh_run_gives(texts: list[str]) -> None:
    first = Chain(steps()).run(batch(texts))
    new = [("length", Length(characters={"min": 1, "max": 4})), *steps()[1:]]
    fresh, again = Chain(new), Chain(new)
    wanted = fresh.run(batch(texts)).kept
    kept = [again.run(first.kept, 3).kept]
    for gone in first.dropped:
        for reached in set(gone.column("reached").to_pylist()):
            rows = gone.filter(pa.array([r == reached for r in gone.column("reached").to_pylist()]))
            names = [c for c in rows.schema.names if c not in ("reason", "reached")]
            kept.append(again.run(rows.select(names), reached).kept)
    found = sorted((r["id"], r["text"]) for b in kept for r in b.to_pylist())
    assert found == sorted((r["id"], r["text"]) for r in wanted.to_pylist())
    for one, two in zip(fresh.books, again.books, strict=True):
        one.seconds = two.seconds = 0
        assert one == two


def test_a_step_that_loses_rows_is_refused() -> None:
    class Lossy(Step):
        step: ClassVar[str] = "lossy"

        def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
            return docs.slice(1), {}

    with pytest.raises(UserError, match="keeps all rows"):
        Chain([("lossy", Lossy())]).run(batch(["a", "b"]))


def test_the_output_schema_is_known_before_any_document() -> None:
    chain = Chain(steps())
    schema = chain.output_schema(DOCUMENT)
    assert schema == chain.run(batch(["abc"])).kept.schema
    assert chain.books[0].into == Amount(1, 3)
