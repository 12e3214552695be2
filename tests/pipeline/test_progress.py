"""What is told of a run while it goes on: lines where there is no terminal, and `status` from anywhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console
from soak_cluster import PHASE

from pipeline import progress
from pipeline.engine import run_log
from pipeline.engine.engine import Engine
from pipeline.engine.place import Placement
from pipeline.forecast.usual import phases_ahead
from pipeline.jobs.context import Context
from pipeline.jobs.inputs import SourceFile
from pipeline.ledger import Ledger, Ref
from pipeline.plan.node import Job, Node, Report, Stage
from pipeline.progress import Ahead, Progress
from pipeline.questions.status import Status, show_status, status
from pipeline.recipe.recipe import build_recipe
from pipeline.storage import RunLock
from stages.books import Amount, StepBooks
from stages.marks import Setting

SEEN: list[Status] = []


@dataclass(frozen=True)
class Look(Job):
    """Asks for the run's status, as somebody elsewhere would while the task runs."""

    number: Setting[int]

    def run(self, context: Context) -> Report:
        SEEN.append(status(context.run))
        with context.output(f"parts/{self.number}") as path:
            path.write_text(f"{self.number}")
        return Report(books=[StepBooks("read", Amount(10), Amount(9), Amount(1))])


def look(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two phases of four tasks of 100 bytes; the second one takes three times the first one's core time."""
    SEEN.clear()
    monkeypatch.setattr(run_log, "LOCAL_SECONDS", -1.0)
    monkeypatch.setattr(progress, "LINE_SECONDS", -1.0)
    shown = Progress()
    shown.ahead = lambda: [Ahead("bff: count, exact: scatter", 10.0), Ahead("exact: large-00", 0.0), Ahead("tokenize", 30.0)]
    placement = Placement(inline=True, progress=shown)
    with RunLock(run) as lock, Ledger(str(run), writable=True) as ledger, Engine(str(run), ledger, placement, lock) as engine:
        for title, first in (("exact: scatter", 0), ("tokenize", 4)):
            nodes = [Node(Ref("look", title, "", n), Look(n), weight=100) for n in range(first, first + 4)]
            engine.run(Stage(title, nodes))


def test_status_tells_how_far_a_run_is_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    look(tmp_path, monkeypatch)
    told = [seen.standing for seen in SEEN]
    assert all(seen.holder and not seen.finished for seen in SEEN) and None not in told
    assert [(s.number, s.phases, s.phase, s.done, s.tasks, s.done_bytes, s.bytes) for s in told if s] == [
        (number, 3, phase, done, 4, 100 * done, 400)
        for number, phase in ((1, "exact: scatter"), (3, "tokenize"))
        for done in range(4)
    ]
    third = told[2]
    assert third and third.left == pytest.approx(third.seconds)  # half is done
    assert third.run_left == pytest.approx(third.seconds + 6 * third.seconds)  # half of 10 core seconds is, and 30 are to come


def test_where_there_is_no_terminal_lines_tell_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    look(tmp_path, monkeypatch)
    said = capsys.readouterr().err
    lines = said.splitlines()
    assert [found[:2] for found in PHASE.findall(said)] == [("1", "exact: scatter"), ("3", "tokenize")]  # `make soak` goes by it
    number = r"[\d.]+ (?:s|min|ms)"
    assert re.fullmatch(
        rf"{number} left, about {number} of the run  "
        r"phase 1 of 3: exact: scatter 2/4 tasks  \S+ k?M?B/s  18 of 20 documents kept",
        lines[2],
    )
    assert re.fullmatch(rf"phase 3 of 3: tokenize 4/4 tasks  \S+ k?M?B/s  36 of 40 documents kept  {number}", lines[-1])
    show_status(SEEN[-1], Console())
    assert re.search(r"left, .* of the run  phase 3 of 3: tokenize 3/4 tasks .*; told .* ago\n", capsys.readouterr().out)
    assert not (tmp_path / "logs").exists()  # all is done, and nothing failed


def test_the_phases_of_a_recipe_are_known_before_it_runs(tmp_path: Path) -> None:
    """However many files there are; a step that nobody measured takes no time in it."""
    data = {
        "name": "small",
        "sources": {
            "web": {
                "read": {"paths": ["s3://b/*.warc.gz"]},
                "steps": ["extract", {"language": {"score": 0.5}}, {"dedup": {"method": "minhash"}}],
            }
        },
        "tokenizer": {"train": {"vocab_size": 400}},
        "mixture": {},
    }
    files = [SourceFile(f"s3://b/{i}.warc.gz", f"s3://b/{i}.warc.gz", 10**9, version="", witness="") for i in range(80_000)]
    ahead = phases_ahead(build_recipe(data), {"web": files})
    titles = [phase.title for phase in ahead]
    assert titles[0] == "read and filter" and titles[-1] == "shard" and "minhash: scatter" in titles and "tokenize" in titles
    assert ahead[0].core_seconds > sum(phase.core_seconds for phase in ahead[1:]) > 0
