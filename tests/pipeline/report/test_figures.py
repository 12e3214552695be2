"""The report's figures are the ledger's, the manifest's and the parts'."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from ledgers import entries
from reported import check_html, figures, run

from pipeline.cli import main
from pipeline.jobs.documents import DocumentsReport
from pipeline.ledger import Ledger, Ref, report_of
from pipeline.plan.node import Report
from pipeline.questions.measured import Sampled
from pipeline.report.distributions import FATES, edges_of
from pipeline.report.gather import gather
from pipeline.report.page import page
from pipeline.run_folder.finished import open_finished
from stages.errors import UserError
from stages.step import Bounds


def test_the_books_are_the_ledgers(finished: str, found: dict[str, Any]) -> None:
    assert found["balances"]
    for name, source in found["sources"].items():
        mine = [(e.ref, e.report_as(Report).books) for e in entries(finished) if e.ref.source == name]
        reads = [books[0].into for ref, books in mine if (ref.kind, ref.stage) == ("documents", "0")]
        assert source["in"] == {"documents": sum(a.docs for a in reads), "bytes": sum(a.bytes for a in reads)}
        dropped, failed = Counter(), 0
        for step in (step for _, books in mine for step in books):
            dropped.update({reason: amount.docs for reason, amount in step.dropped.items()})
            failed += step.failed.docs
        assert {r["reason"]: r["documents"] for r in source["reasons"]} == dropped
        assert source["failed"]["documents"] == failed
        assert source["in"]["documents"] == source["kept"]["documents"] + dropped.total() + failed
        amounts = (
            source["kept"]["bytes"] + source["dropped"]["bytes"] + source["failed"]["bytes"] + source["edited_bytes"]
        )
        assert source["in"]["bytes"] == amounts
        assert [r["documents"] for r in source["reasons"]] == sorted(dropped.values(), reverse=True)
    docs = found["sources"]["docs"]
    assert docs["failed"]["documents"] == 1 and docs["edited_bytes"] > 0
    assert set(found["sources"]["other"]["problems"]) == set()


def test_totals_mixture_and_shards_are_the_manifests(finished: str, found: dict[str, Any]) -> None:
    manifest = json.loads(Path(finished, "manifest.json").read_text())
    entries = manifest["sources"]
    splits = [split for e in entries.values() for split in (e, e["held_out"])]
    assert found["totals"]["kept"]["documents"] == sum(split["documents"] for split in splits)
    assert found["totals"]["tokens"] + found["totals"]["held_out_tokens"] == sum(split["tokens"] for split in splits)
    assert found["totals"]["shards"] == sum(len(split["shards"]) for split in splits)
    assert found["mixture"]["tokens"] == manifest["mixture"]["tokens"]
    for source in found["mixture"]["sources"]:
        entry = entries[source["source"]]
        assert source["budget"] == entry["budget_tokens"] and source["repeats"] == pytest.approx(2.5, rel=0.01)
        assert source["shards"]["tokens"] == [shard["tokens"] for shard in entry["shards"]]
    assert sum(s["share"] for s in found["mixture"]["sources"]) == pytest.approx(1)


def test_measures_count_each_document_that_reached_the_step_once(found: dict[str, Any]) -> None:
    docs = found["sources"]["docs"]
    steps = {step["step"]: step for step in docs["steps"]}
    reasons = {r["reason"]: r["documents"] for r in docs["reasons"]}
    kept = docs["kept"]["documents"]
    names = [f"{m['step']}.{m['measure']}" for m in docs["measures"]]
    assert {"gopher_quality.words", "gopher_quality.symbol_ratio", "remove_urls.removed", "python.vowels"} <= set(names)
    for name, m in zip(names, docs["measures"], strict=True):
        counted = {fate: sum(m[fate]) + m["unmeasured"][fate] for fate in FATES}
        failed = sum(step["failed"]["documents"] for step in docs["steps"])  # in or after this step: in quarantine
        assert sum(counted.values()) == steps[m["step"]]["in"]["documents"] - failed, name
        assert counted["kept"] == kept, name
        by_limit = sum(n for reason, n in reasons.items() if reason.startswith(f"{name}."))
        assert counted["dropped_here"] == by_limit, name
    words = docs["measures"][names.index("gopher_quality.words")]
    assert sum(words["dropped_here"]) == reasons["gopher_quality.words.min"] > 3
    at = words["edges"].index(40)  # no bin holds documents from both sides of the limit
    assert sum(words["dropped_here"][:at]) == sum(words["dropped_here"]) and not sum(words["kept"][:at])


@pytest.mark.parametrize("bounds", [Bounds(min=0.3), Bounds(max=0.2), Bounds(min=2, max=7), Bounds(max=500), Bounds()])
@pytest.mark.parametrize("kind", ["uniform", "decades", "whole", "counts", "constant"])
def test_no_bin_lies_on_both_sides_of_a_limit(bounds: Bounds, kind: str) -> None:
    rng = np.random.default_rng(4)
    values = {
        "uniform": rng.random(5000),
        "decades": 10 ** rng.normal(2, 1, 5000),
        "whole": rng.integers(0, 9, 5000).astype(float),
        "counts": np.floor(10 ** rng.normal(1, 0.8, 5000)),
        "constant": np.full(50, 0.25),
    }[kind]
    sampled = Sampled(1000)
    for start in range(0, len(values), 700):
        sampled.add(values[start : start + 700])
    edges = edges_of(sampled, bounds, kind == "counts")
    assert len(edges) <= 41 and (np.diff(edges) > 0).all()
    bins = np.clip(np.searchsorted(edges, values, "right") - 1, 0, len(edges) - 2)
    for side, drops in bounds.decide(values).items():
        limit = getattr(bounds, side)
        if edges[0] <= limit < edges[-1]:
            assert not set(bins[drops]) & set(bins[~drops]), side


def test_lengths_are_those_of_the_token_files_and_the_dropped(found: dict[str, Any]) -> None:
    for source in found["sources"].values():
        lengths = source["lengths"]
        assert sum(lengths["bytes"]["kept"]) == sum(lengths["tokens"]["kept"]) == source["kept"]["documents"]
        assert sum(lengths["bytes"]["dropped"]) == source["dropped"]["documents"]
        for unit, total in (("bytes", source["kept"]["bytes"]), ("tokens", None)):
            edges = lengths[unit]["edges"]
            low = sum(n * edge for n, edge in zip(lengths[unit]["kept"], edges, strict=False))
            high = sum(n * edge for n, edge in zip(lengths[unit]["kept"], edges[1:], strict=True))
            assert total is None or low <= total <= high


def test_samples_hold_every_reason_with_texts_and_what_decided(found: dict[str, Any]) -> None:
    docs = found["sources"]["docs"]
    shown = {entry["reason"]: entry["documents"] for entry in docs["samples"]["dropped"]}
    assert set(shown) == {r["reason"] for r in docs["reasons"]}
    assert all(d["text"] is not None for documents in shown.values() for d in documents)
    for d in shown["gopher_quality.words.min"]:
        (words,) = [m for m in d["measures"] if m["name"] == "words"]
        assert words["value"] < 40 and not words["passes"]
    (copy, _) = shown["dedup.exact"]
    assert copy["representative"] in ("20", "33") and copy["text"].startswith("Document ")
    assert len(docs["samples"]["kept"]) == 8 and not docs["missing"]
    assert len({d["id"] for d in docs["samples"]["kept"]}) == 8


def test_the_same_documents_are_sampled_however_the_run_was_cut(
    found: dict[str, Any], inputs: Path, tmp_path: Path
) -> None:
    other = figures(run(inputs, tmp_path / "out", "run.split_bytes=1MB"))
    one, two = (f["sources"]["docs"]["samples"] for f in (found, other))
    assert found["sources"]["docs"]["parts"] != other["sources"]["docs"]["parts"]
    assert one == two


def test_speed_and_failures_are_the_ledgers(finished: str, found: dict[str, Any]) -> None:
    there = entries(finished)
    speed = found["speed"]
    assert speed["tasks"] == len(there) == sum(stage["tasks"] for stage in speed["stages"])
    assert speed["seconds"] == pytest.approx(sum(e.seconds for e in there), abs=0.01)
    stages = {stage["stage"]: stage for stage in speed["stages"]}
    docs = found["sources"]["docs"]
    assert stages["docs: steps"]["bytes"] == docs["in"]["bytes"]
    assert stages["docs: dedup"]["bytes"] == docs["steps"][3]["out"]["bytes"]
    assert stages["docs: shard"]["bytes"] + stages["other: shard"]["bytes"] == sum(
        path.stat().st_size for path in Path(finished, "tokens").rglob("*.npy")
    )
    (cause,) = found["failures"]["causes"]
    assert (cause["source"], cause["step"], cause["documents"]) == ("docs", "python", 1) and "<b>no vowels" in cause[
        "cause"
    ]


def test_dedups_tell_which_source_lost_to_which(found: dict[str, Any]) -> None:
    dedups = {d["name"]: d for d in found["dedups"]}
    assert dedups["docs/dedup"]["removed"] == 2 and dedups["docs/dedup"]["lost"] == [["docs", "docs", 2, 0]]
    across = dedups["all/dedup"]
    assert sum(n for source, kept, n, _ in across["lost"] if (source, kept) == ("other", "docs")) >= 1


# ---- what is not there, or not all of it


@pytest.mark.parametrize("keep", ["measures", "none"])
def test_a_run_that_let_documents_go_says_what_is_missing(keep: str, inputs: Path, tmp_path: Path) -> None:
    out = run(inputs, tmp_path / "out", f"run.keep={keep}")
    found = figures(out)
    docs = found["sources"]["docs"]
    assert found["balances"] and any(f"run.keep is {keep}" in text for text in docs["missing"])
    assert all(d["text"] is None for entry in docs["samples"]["dropped"] for d in entry["documents"])
    assert bool(docs["measures"]) == (keep == "measures") and bool(docs["samples"]["kept"]) == (keep == "measures")
    assert sum(docs["lengths"]["tokens"]["kept"]) == docs["kept"]["documents"]
    text = page(gather(out)).decode()
    check_html(text)
    assert f"run.keep is {keep}" in text


def test_a_sample_of_the_parts_is_named_as_one(finished: str) -> None:
    found = figures(finished, parts=2)
    docs = found["sources"]["docs"]
    assert docs["parts"]["read"] == 2 < docs["parts"]["of"]
    assert found["totals"] == figures(finished, parts=0)["totals"]  # the books are of the whole run
    words = next(m for m in docs["measures"] if m["measure"] == "words")
    counted = sum(sum(words[fate]) for fate in FATES)
    opened = open_finished(finished)
    parts = [opened.sources["docs"].parts[0][i] for i in (0, docs["parts"]["of"] - 1)]
    assert counted == sum(
        pq.read_metadata(Path(finished, path)).num_rows for part in parts for path in (part.kept, part.dropped) if path
    )
    assert f"2 of {docs['parts']['of']} parts, evenly chosen" in page(gather(finished, parts=2)).decode()


def test_a_ledger_that_does_not_balance_is_said_and_is_an_error(
    inputs: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = run(inputs, tmp_path / "out")
    with Ledger(out, writable=True) as ledger:
        entry = next(e for e in ledger.entries() if e.ref == Ref("documents", "docs", "0", 0))
        report = entry.report_as(DocumentsReport)
        report.books[0].out.docs -= 1
        entry.report = report_of(report)
        ledger.add(entry)
    assert main(["report", out, "--out", str(tmp_path / "page.html")]) == 1
    assert "does not balance" in capsys.readouterr().out
    assert "1 documents and 0 bytes unaccounted for" in (tmp_path / "page.html").read_text()


def test_no_finished_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run"):
        gather(str(tmp_path))
