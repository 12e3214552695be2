"""Deciding again is deciding anew: any sequence of changed limits and steps ends in what a fresh run would have made."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.carry_out import Options, run_recipe
from pipeline.cli import main
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from pipeline.run_folder.run_summary import RunSummary, read_summary
from stages.filters.c4_quality import C4Quality
from stages.filters.gopher_quality import GopherQuality
from stages.filters.repetition import Repetition
from stages.tokens.train_tokenizer import train_tokenizer

PROSE = [text for _, text in sorted(topics.items()) if 400 < len(text) < 2500][:24]
STEPS = [
    {"gopher_quality": dict.fromkeys(GopherQuality().limits())},
    {"remove_urls": {}},
    {"repetition": dict.fromkeys(Repetition().limits())},
    {"limit_newlines": {"max_consecutive": 1}},
    {"c4_quality": dict.fromkeys(C4Quality().limits())},
    {"mask_pii": {}},
    {"gopher_quality": dict.fromkeys(GopherQuality().limits())},
]
# Keys that decide, each with values that keep all, some and next to nothing.
LIMITS: dict[str, list[Any]] = {
    "gopher_quality.words": [None, {"min": 120}, {"min": 220}, {"max": 200}],
    "gopher_quality.mean_word_length": [None, {"max": 5.0}, {"min": 4.9}],
    "repetition.duplicate_lines": [None, {"max": 0.05}, {"max": 0.0}],
    "repetition.top_2gram": [None, {"max": 0.02}],
    "c4_quality.sentences": [None, {"min": 5}, {"min": 12}],
    "gopher_quality_2.words": [None, {"min": 150}, {"max": 260}],
}


def documents() -> list[dict[str, str]]:
    """Real prose in which every step finds something to change: addresses, runs of newlines, lines without an end."""
    rows = []
    for number, text in enumerate(PROSE):
        odd = f"\n\n\n\nmail me{number}@host.example or see http://a.example/{number}/x\nno end of this line\n\n\n"
        again = "The same line again.\n" * (number % 5)
        rows.append({"id": f"d{number}", "text": text[: len(text) // 2] + odd + again + text[len(text) // 2 :]})
    return rows


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("inputs")
    for part in range(2):
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents()[part::2]))
    train_tokenizer(iter(PROSE), folder / "tokenizer.json", 400, 1 << 20)
    return {
        "name": "again",
        "sources": {"web": {"read": {"paths": [f"{folder}/*.jsonl"]}, "steps": STEPS, "allow_empty": True}},
        "tokenizer": {"path": str(folder / "tokenizer.json")},
        "shards": {"held_out": 0.1},
        "mixture": {},
        "run": {"split_bytes": "8KB"},
    }


def run(data: dict[str, Any], out: Path, limits: dict[str, Any], without: Sequence[str] = ()) -> RunSummary:
    changes = [f"sources.web.steps.{key}={json.dumps(value)}" for key, value in limits.items()]
    changes += [f"sources.web.steps.{name}=null" for name in without]
    changes = [change for change in changes if not any(f".{name}." in change for name in without)]
    return run_recipe(build_recipe(data, None, changes), Options(str(out), inline=True, progress=Progress(quiet=True)))


def outcome(out: Path, summary: RunSummary) -> dict[str, Any]:
    """All that a run is: bytes of tokens, rows of the parts (texts and measures), and books."""
    found: dict[str, Any] = {str(p.relative_to(out)): p.read_bytes() for p in out.glob("tokens/*/*")}
    for kind in ("kept", "dropped"):
        tables = [pq.read_table(path).to_pylist() for path in sorted(out.glob(f"parts/web/0/*.{kind}.parquet"))]
        found[kind] = [{k: repr(v) for k, v in sorted(row.items()) if v is not None} for rows in tables for row in rows]
    steps = [step for source in summary.sources.values() for step in source.steps]
    found["books"] = [msgspec.structs.replace(step, seconds=0) for step in steps]
    return found


CHANGES = st.lists(
    st.sampled_from(sorted(LIMITS)).flatmap(lambda key: st.tuples(st.just(key), st.sampled_from(LIMITS[key]))),
    min_size=2,
    max_size=5,
)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES)
def test_any_sequence_of_limits_ends_in_a_fresh_run(recipe: dict[str, Any], changes: list[tuple[str, Any]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        again, fresh = Path(folder) / "again", Path(folder) / "fresh"
        limits: dict[str, Any] = {}
        run(recipe, again, limits)
        for key, value in changes:
            limits[key] = value
            last = run(recipe, again, limits)
        once = run(recipe, fresh, limits)
        assert outcome(again, last) == outcome(fresh, once)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(left_out=st.lists(st.sampled_from(["repetition", "c4_quality", "mask_pii", "gopher_quality_2"]), min_size=1, max_size=3))
def test_steps_taken_out_and_put_back_end_in_a_fresh_run(recipe: dict[str, Any], left_out: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        again, fresh = Path(folder) / "again", Path(folder) / "fresh"
        limits = {"gopher_quality.words": {"min": 120}, "c4_quality.sentences": {"min": 5}}
        for name in left_out:
            run(recipe, again, limits, [name])
        last, once = run(recipe, again, limits), run(recipe, fresh, limits)
        assert outcome(again, last) == outcome(fresh, once)


def test_a_limit_set_and_set_back_at_the_command_line(recipe: dict[str, Any], tmp_path: Path) -> None:
    """The document that went in between comes back with the text that it had, not with one edited twice."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe, sort_keys=False))
    command = ["run", str(path), "--inline", "--quiet", "--out"]
    change = ["--set", "sources.web.steps.gopher_quality.words={min: 200}"]
    for folder, more in (("a", []), ("a", change), ("a", []), ("b", [])):
        assert main([*command, str(tmp_path / folder), *more]) == 0
    again, fresh = (outcome(out, read_summary(str(out))) for out in (tmp_path / "a", tmp_path / "b"))
    assert again == fresh


EXTRACTOR = """
from pathlib import Path

CALLS = Path(__file__).with_name("calls")


def work(page):
    with CALLS.open("a") as calls:
        calls.write("x")
    return page.removeprefix("<pre>")
"""


def test_a_step_put_in_after_extraction_extracts_nothing_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The source's own tasks run again, from what they have stored, and nothing of the other source does; so says `run`."""
    crawl(tmp_path / "a.warc")
    (tmp_path / "counting_extractor.py").write_text(EXTRACTOR)
    (tmp_path / "wiki.jsonl").write_text("".join(json.dumps(row) + "\n" for row in documents()))
    train_tokenizer(iter(PROSE), tmp_path / "tokenizer.json", 400, 1 << 20)
    steps: list[Any] = [{"extract": {"engine": "counting_extractor:work"}}, {"gopher_quality": {"words": {"min": 150}}}]
    data = {
        "name": "put-in",
        "sources": {
            "web": {"read": {"paths": [f"{tmp_path}/a.warc"]}, "steps": [*steps, {"dedup": {"method": "exact"}}]},
            "wiki": {"read": {"paths": [f"{tmp_path}/wiki.jsonl"]}, "steps": [{"dedup": {"method": "exact"}}]},
        },
        "tokenizer": {"path": str(tmp_path / "tokenizer.json")},
        "mixture": {},
    }

    def call(out: str) -> str:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
        assert main(["run", str(tmp_path / "recipe.yaml"), "--inline", "--quiet", "--out", str(tmp_path / out)]) == 0
        return capsys.readouterr().out

    def tasks(said: str) -> tuple[int, int]:
        found = re.search(r"(\d+) tasks run, (\d+) known from before", said)
        assert found, said
        return int(found[1]), int(found[2])

    (ran, _), calls = tasks(call("again")), tmp_path / "calls"
    assert len(calls.read_text()) == len(PROSE)
    data["sources"]["web"]["steps"].insert(1, {"repetition": dict.fromkeys(Repetition().limits()) | {"top_2gram": {"max": 0.04}}})
    again, known = tasks(call("again"))
    assert 0 < again < ran and known > 0
    assert len(calls.read_text()) == len(PROSE)
    call("fresh")
    assert len(calls.read_text()) == 2 * len(PROSE)
    summaries = [read_summary(str(tmp_path / name)) for name in ("again", "fresh")]
    assert outcome(tmp_path / "again", summaries[0]) == outcome(tmp_path / "fresh", summaries[1])
    assert 0 < summaries[0].sources["web"].documents_kept < len(PROSE)


def crawl(path: Path) -> None:
    """A WARC file with a page for each text."""
    records = []
    for number, text in enumerate(PROSE):
        page = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n<pre>{text}".encode()
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:032d}>\r\nContent-Length: {len(page)}\r\n"
        head += f"WARC-Target-URI: http://a.example/{number}\r\nContent-Type: application/http; msgtype=response\r\n\r\n"
        records.append(head.encode() + page + b"\r\n\r\n")
    path.write_bytes(b"".join(records))
