"""datatrove's blocks as steps: the same answers and texts as the blocks give by themselves, their reasons on record."""

from __future__ import annotations

from pydoc_data.topics import topics

import pyarrow as pa
import pytest

from stages.chain import Chain
from stages.errors import UserError
from stages.filters.datatrove_block import DatatroveBlock

TEXTS = [
    "",
    "too short",
    *(text for _, text in sorted(topics.items())[:15]),
    "same line\n" * 60,
    "mail me@a.org or x@b.com " * 30,
]


def batch(texts: list[str]) -> pa.RecordBatch:
    rows = len(texts)
    return pa.record_batch(
        {
            "id": pa.array([str(i) for i in range(rows)], pa.large_string()),
            "text": pa.array(texts, pa.large_string()),
            "url": pa.array([None] * rows, pa.large_string()),
            "file": pa.array(["f"] * rows, pa.large_string()),
            "record": pa.array(range(1, rows + 1), pa.int64()),
            "offset": pa.nulls(rows, pa.int64()),
            "metadata": pa.array([None] * rows, pa.large_string()),
        }
    )


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("GopherQualityFilter", {"min_doc_words": 30}),
        ("GopherRepetitionFilter", {}),
        ("C4QualityFilter", {"filter_no_terminal_punct": False}),
        ("FineWebQualityFilter", {}),
    ],
)
def test_a_filter_answers_as_datatrove_does_with_its_reasons(name: str, args: dict) -> None:
    from datatrove.pipeline import filters
    pytest.importorskip("spacy")
    pytest.importorskip("nltk")
    from datatrove.data import Document

    block = getattr(filters, name)(**args)
    wanted: dict[str, str | None] = {}
    texts = {}
    for i, text in enumerate(TEXTS):
        document = Document(text=text, id=str(i))
        answer = block.filter(document)
        kept, reason = answer if isinstance(answer, tuple) else (answer, "keep.min")
        wanted[str(i)] = None if kept else f"datatrove.{reason}"
        texts[str(i)] = document.text
    chain = Chain([("datatrove", DatatroveBlock(block=name, args=args))])
    outcome = chain.run(batch(TEXTS))
    found = dict.fromkeys(outcome.kept.column("id").to_pylist())
    for rows in outcome.dropped:
        found |= dict(zip(rows.column("id").to_pylist(), rows.column("reason").to_pylist(), strict=True))
    assert found == wanted and len({r for r in wanted.values() if r}) >= 2
    assert dict(zip(outcome.kept.column("id").to_pylist(), outcome.kept.column("text").to_pylist(), strict=True)) == {
        i: texts[i] for i, reason in wanted.items() if reason is None
    }
    assert set(chain.books[0].dropped) == {r for r in wanted.values() if r}
    assert (chain.books[0].balance().docs, chain.books[0].balance().bytes) == (0, 0)


def test_a_formatter_edits_each_document_the_same_way_in_any_batch() -> None:
    step = DatatroveBlock(block="PIIFormatter")
    docs = batch(TEXTS)
    edited, measures = step.edit(docs)
    alone = [step.edit(docs.slice(i, 1))[0].column("text")[0].as_py() for i in range(docs.num_rows)]
    assert edited.column("text").to_pylist() == alone
    assert "me@a.org" not in alone[-1] and alone[-1].startswith(
        "mail email@example.com or firstname.lastname@example.org"
    )
    assert list(measures["keep"]) == [1.0] * docs.num_rows


def test_a_random_filter_decides_by_document_not_by_batch() -> None:
    step = DatatroveBlock(block="SamplerFilter", args={"rate": 0.5, "seed": 3})
    docs = batch([f"text {i}" for i in range(200)])
    together = list(step.edit(docs)[1]["keep"])
    apart = [float(step.edit(docs.slice(i, 1))[1]["keep"][0]) for i in range(200)]
    assert together == apart and 60 < sum(together) < 140


def test_a_document_that_the_block_fails_on_is_quarantined_alone() -> None:
    pytest.importorskip("spacy")
    texts = [*TEXTS[2:6], " \n ", "\n"]  # FineWeb divides by words: see what it makes of none
    step = DatatroveBlock(block="RegexFilter", args={"regex_exp": "e"})
    step.prepare()
    original = step._block.filter

    def fails(document: object) -> object:
        if document.text == "\n":  # type: ignore[attr-defined]
            raise ZeroDivisionError("none")
        return original(document)

    step._block.filter = fails
    chain = Chain([("datatrove", step)])
    outcome = chain.run(batch(texts))
    assert [row["error"] for rows in outcome.failed for row in rows.to_pylist()] == ["ZeroDivisionError: none"]
    assert outcome.kept.num_rows + sum(rows.num_rows for rows in outcome.dropped) == len(texts) - 1
    assert chain.books[0].balance().docs == 0


def test_the_numbers_of_a_stats_block_are_measures_with_limits() -> None:
    from datatrove.data import Document
    from datatrove.pipeline.stats import DocStats

    step = DatatroveBlock(block="DocStats", limits={"length": [20, None], "uppercase_ratio": [None, 0.5]})
    chain = Chain([("datatrove", step)])
    outcome = chain.run(batch([*TEXTS[1:], TEXTS[3].upper()]))
    theirs = DocStats("memory://x")
    for row in outcome.kept.to_pylist():
        for name, value in theirs.extract_stats(Document(text=row["text"], id=row["id"])).items():
            assert row[f"datatrove.{name}"] == value
    reasons = [row["reason"] for rows in outcome.dropped for row in rows.to_pylist()]
    assert reasons == ["datatrove.length.min", "datatrove.uppercase_ratio.max"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"block": "GopherFilter"}, "no such filter, formatter or stat; there are .*DocStats.*GopherQualityFilter"),
        ({"block": "DocStats", "limits": {"lenght": [1, 2]}}, "DocStats gives no such number; it gives length"),
        ({"block": "GopherQualityFilter", "limits": {"length": [1, 2]}}, "GopherQualityFilter is no stats block"),
        ({"block": "GopherQualityFilter", "args": {"min_words": 3}}, "min_words.*it takes .*min_doc_words"),
        ({"block": "nowhere.at.all.Filter"}, "No module named 'nowhere'"),
    ],
)
def test_a_mistake_is_named(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        DatatroveBlock(**settings).prepare()
