"""The report page: its figures are the ledger's, the manifest's and the parts', and it is one safe file."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from ledgers import entries

from pipeline import storage
from pipeline.carry_out import Options, run_recipe
from pipeline.cli import main
from pipeline.finished import open_finished
from pipeline.jobs.documents import DocumentsReport
from pipeline.ledger import Ledger, Ref, report_of
from pipeline.plan.node import Report
from pipeline.progress import Progress
from pipeline.recipe import build_recipe
from pipeline.report.distributions import FATES, edges_of
from pipeline.report.gather import gather
from pipeline.report.page import page
from stages.errors import UserError
from stages.step import Bounds

WORDS = [word for _, text in sorted(topics.items()) for word in text.split() if word.isalpha()]  # real prose
HOSTILE = (
    '<script>alert("1")</script><img src=https://evil.example/x.png onerror=alert(2)>&amp; </pre></article> '
    "\x00\x07\x1b[31m \u202edlrow \u200f \ufffe end of the and to have with that be. "
)
FILTER = """
def vowels(text):
    if "raise here" in text:
        raise ValueError("<b>no vowels</b> in " + text[:20])
    return sum(text.count(v) for v in "aeiou") / len(text) if text else None
"""


def text_of(number: int, words: int) -> str:
    begin = f"Document {number} is about the of and to have with that be. See http://www.python.org/{number}\n"
    return begin + "\n".join(" ".join(WORDS[i : i + 12]) for i in range(number * 53, number * 53 + words, 12))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("inputs")
    texts = [text_of(i, 12 * (1 + i % 13)) for i in range(60)]
    texts += [texts[20], texts[33], "### " * 30, "short", HOSTILE * 12, HOSTILE, texts[40] + " raise here", ""]
    names = [str(i) for i in range(len(texts))]
    names[63], names[65] = '"><script>alert(3)</script>', "javascript:alert(4)//" + "x" * 5000
    rows = [{"id": n, "text": t, "url": f"https://site.example/{n}?a=1&b=2"} for n, t in zip(names, texts, strict=True)]
    for part in range(2):
        (folder / f"docs-{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[part::2]))
    other = [{"id": f"o{i}", "text": texts[i]} for i in range(3)] + [{"id": "own", "text": text_of(90, 60)}]
    (folder / "other.jsonl").write_text("".join(json.dumps(r) + "\n" for r in other))
    (folder / "report_filters.py").write_text(FILTER)
    sys.path.append(str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("report_filters", None)


def run(inputs: Path, out: Path, *assignments: str) -> str:
    gopher = {"words": [40, 100000], "symbol_ratio": 0.1, "non_alphabetic_words": None, "stop_words": None}
    vowels = {"function": "report_filters:vowels", "measure": "vowels", "max": 0.4}
    steps = [
        {"gopher_quality": gopher},
        {"remove_urls": {"urls": "all"}},
        {"python": vowels},
        {"dedup": {"method": "exact"}},
    ]
    data = {
        "name": "small",
        "sources": {
            "docs": {"read": {"paths": [f"{inputs}/docs-*.jsonl"], "url_field": "url"}, "steps": steps},
            "other": {"read": {"paths": [f"{inputs}/other.jsonl"]}, "steps": []},
        },
        "dedup": [{"dedup": {"method": "minhash"}}],
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "50KB"}},
        "shards": {"held_out": 0.1},
        "mixture": {"epochs": 2.5},
        "run": {"split_bytes": "10KB", "failures": {"documents": 0.5}},
    }
    recipe = build_recipe(data, None, assignments)
    run_recipe(recipe, Options(str(out), inline=True, progress=Progress(quiet=True)))
    return str(out)


@pytest.fixture(scope="module")
def finished(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    return run(inputs, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def found(finished: str) -> dict[str, Any]:
    return gather(finished)


@pytest.fixture(scope="module")
def html(found: dict[str, Any]) -> str:
    return page(found).decode()


# ---- the figures


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
    from pipeline.questions.measured import Sampled

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
    other = gather(run(inputs, tmp_path / "out", "run.split_bytes=1MB"))
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
    found = gather(out)
    docs = found["sources"]["docs"]
    assert found["balances"] and any(f"run.keep is {keep}" in text for text in docs["missing"])
    assert all(d["text"] is None for entry in docs["samples"]["dropped"] for d in entry["documents"])
    assert bool(docs["measures"]) == (keep == "measures") and bool(docs["samples"]["kept"]) == (keep == "measures")
    assert sum(docs["lengths"]["tokens"]["kept"]) == docs["kept"]["documents"]
    text = page(found).decode()
    check_html(text)
    assert f"run.keep is {keep}" in text


def test_a_sample_of_the_parts_is_named_as_one(finished: str) -> None:
    found = gather(finished, parts=2)
    docs = found["sources"]["docs"]
    assert docs["parts"]["read"] == 2 < docs["parts"]["of"]
    assert found["totals"] == gather(finished, parts=0)["totals"]  # the books are of the whole run
    words = next(m for m in docs["measures"] if m["measure"] == "words")
    counted = sum(sum(words[fate]) for fate in FATES)
    opened = open_finished(finished)
    parts = [opened.sources["docs"].parts[0][i] for i in (0, docs["parts"]["of"] - 1)]
    assert counted == sum(
        pq.read_metadata(Path(finished, path)).num_rows for part in parts for path in (part.kept, part.dropped) if path
    )
    assert f"2 of {docs['parts']['of']} parts, evenly chosen" in page(found).decode()


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


# ---- the page


class Checker(HTMLParser):
    """What a browser would make of a page: elements that are not closed, what it would run or fetch, ids."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: Counter[str] = Counter()
        self.references: set[str] = set()
        self.elements: Counter[str] = Counter()
        self.seen: list[str] = []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements[name] += 1
        if name not in ("meta", "wbr", "br", "col"):
            self.open.append(name)
        for key, text in attributes:
            if key in ("src", "srcset", "style", "action", "data", "xlink:href") or key.startswith("on"):
                self.wrong.append(f"{name} {key}={text}")
            if key == "href" and not (text or "").startswith("#"):
                self.wrong.append(f"{name} href={text}")
            if key == "href":
                self.references.add((text or "")[1:])
            if key == "aria-labelledby":
                self.references.update((text or "").split())
            if key == "id":
                self.ids[text or ""] += 1

    def handle_endtag(self, name: str) -> None:
        if not self.open or self.open.pop() != name:
            self.wrong.append(f"</{name}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


def check_html(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.wrong and not checker.open
    forbidden = ("script", "iframe", "object", "embed", "img", "link", "form", "base", "image", "use", "foreignobject")
    assert not [name for name in checker.elements if name in forbidden]
    assert max(checker.ids.values()) == 1 and checker.references <= set(checker.ids)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and "@font-face" not in style
    assert len(text.encode()) < 3_000_000
    return checker


def test_the_page_is_well_formed_and_fetches_and_runs_nothing(html: str) -> None:
    checker = check_html(html)
    assert checker.elements["svg"] > 30 and checker.elements["title"] > 15
    assert "default-src 'none'" in html.replace("&#x27;", "'")


def test_hostile_documents_are_text(finished: str) -> None:
    html = page(gather(finished, each=100, chars=100_000)).decode()
    seen = "".join(check_html(html).seen)
    assert (
        '<script>alert("1")</script>' in seen and '"><script>alert(3)</script>' in seen and "<b>no vowels</b>" in seen
    )
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]", html
    )
    assert "␀␇␛[31m" in seen
    assert "x" * 400 not in seen  # an id of thousands of letters is cut


def test_the_page_says_the_sums(html: str, found: dict[str, Any]) -> None:
    seen = "".join(check_html(html).seen).replace("\u202f", "")
    total = found["totals"]
    assert "The ledger balances." in seen
    kept, dropped, failed = (total[kind]["documents"] for kind in ("kept", "dropped", "failed"))
    assert f"{total['in']['documents']} documents in = {kept} kept + {dropped} dropped + {failed} failed" in seen
    assert found["fingerprint"] in seen


def test_the_page_stays_within_its_size(found: dict[str, Any]) -> None:
    whole = len(page(found))
    small = page(found, most_bytes=whole - 10_000)
    assert whole // 2 < len(small) <= whole - 10_000
    check_html(small.decode())
    assert "with them the page would be too large" in page(found, most_bytes=1).decode()


def test_the_same_run_gives_the_same_page(finished: str, html: str) -> None:
    assert page(gather(finished)).decode() == html


def test_the_command_writes_the_page_and_prints_the_figures(
    finished: str, found: dict[str, Any], html: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["report", finished, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(found))
    assert not Path(finished, "report.html").exists()
    assert main(["report", finished]) == 0
    assert "the ledger balances" in capsys.readouterr().out
    assert Path(finished, "report.html").read_text() == html
    assert main(["report", str(tmp_path)]) == 2
    assert main(["report", finished, "--parts", "-1"]) == 2


def test_a_run_on_s3(finished: str, found: dict[str, Any], html: str, s3: Any) -> None:
    out = s3.uri("reported")
    for path in sorted(Path(finished).rglob("*")):
        if path.is_file() and path.name != "report.html":
            storage.write_bytes(storage.join(out, path.relative_to(finished).as_posix()), path.read_bytes())
    assert gather(out) | {"run": None} == found | {"run": None}
    assert main(["report", out]) == 0
    page_there = storage.read_bytes(storage.join(out, "report.html")).decode()
    assert len(page_there) > len(html) // 2 and check_html(page_there)


def test_no_finished_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no finished run"):
        gather(str(tmp_path))
