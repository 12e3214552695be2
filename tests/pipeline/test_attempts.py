"""Tasks that fail: what may pass is tried again, the others of the phase end, and all that failed is told at the end."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.engine.attempts import Tasks, wait_before
from pipeline.engine.engine import Engine, TasksFailed
from pipeline.engine.place import Placement
from pipeline.engine.run_log import read_standing
from pipeline.jobs.context import Context
from pipeline.ledger import Entry, Ledger, Ref
from pipeline.plan.node import Job, Node, Report, Stage
from pipeline.progress import Progress
from pipeline.storage import StorageError, TransientError
from stages.errors import UserError
from stages.marks import HowMuch, Setting

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fails(Job):
    """Fails `times` times, counted by files in `folder`, and then writes its file."""

    name: Setting[str]
    folder: HowMuch[str] = ""
    times: HowMuch[int] = 0
    error: HowMuch[str] = "busy"

    def run(self, context: Context) -> Report:
        tries = len(list(Path(self.folder).glob(f"{self.name}.*")))
        Path(self.folder, f"{self.name}.{tries}").touch()
        if tries < self.times:
            raise {
                "busy": TransientError(f"s3://b/{self.name}: the server answers 503 Slow Down; try again later"),
                "forbidden": StorageError(f"s3://b/{self.name}: these AWS credentials may not read it"),
                "bug": ValueError(f"a bug, of https://user:word@a.example/{self.name}?X-Amz-Signature=abc"),
            }[self.error]
        with context.output(f"parts/{self.name}") as path:
            path.write_text(self.name)
        return Report()


def nodes(folder: Path, count: int, failing: dict[int, tuple[int, str]]) -> list[Node]:
    folder.mkdir(exist_ok=True)
    return [
        Node(Ref("work", "web", "0", number), Fails(f"t{number}", str(folder), *failing.get(number, (0, "busy"))))
        for number in range(count)
    ]


@contextmanager
def engine(run: Path, inline: bool) -> Iterator[Engine]:
    tasks = Tasks(attempts=3, wait_seconds=0.05)
    placement = Placement(inline=inline, workers=2, progress=Progress(quiet=True), tasks=tasks)
    with Ledger(str(run), writable=True) as ledger, Engine(str(run), ledger, placement) as one:
        yield one


@pytest.fixture(params=["inline", "ray"])
def inline(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(ROOT)]))  # for workers: `Fails`
    return request.param == "inline"


def test_what_may_pass_is_tried_again_and_the_others_end(tmp_path: Path, inline: bool) -> None:
    """Of 12 tasks three fail for good: one that stays busy, one that may not read, one with a bug."""
    failing = {1: (2, "busy"), 3: (9, "busy"), 5: (9, "forbidden"), 8: (9, "bug")}
    run, tries = tmp_path / "run", tmp_path / "tries"
    with engine(run, inline) as one, pytest.raises(TasksFailed) as caught:
        one.run(Stage("reading", nodes(tries, 12, failing)))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("reading: 3 tasks of 12 failed, and what else was begun is done; run again to go on from there")
    assert sorted(lines[1:]) == [
        "  work/web/0/00003: s3://b/t3: the server answers 503 Slow Down; try again later (3 attempts)",
        "  work/web/0/00005: s3://b/t5: these AWS credentials may not read it",
        "  work/web/0/00008: ValueError: a bug, of https://user:word@a.example/t8?X-Amz-Signature=abc",
    ]
    assert {name: len(list(tries.glob(f"t{name}.*"))) for name in (0, 1, 3, 5, 8)} == {0: 1, 1: 3, 3: 3, 5: 1, 8: 1}
    with Ledger(str(run)) as ledger:
        assert sorted(entry.ref.ordinal for entry in ledger.entries()) == [0, 1, 2, 4, 6, 7, 9, 10, 11]
    told = {path.name: path.read_text() for path in (run / "logs/failed").iterdir()}
    assert sorted(told) == [f"work-web-0-0000{n}.txt" for n in (1, 3, 5, 8)]
    assert re.findall(r"attempt (\d) at .*\n(?:.*\n)*?(tried again|given up)", told["work-web-0-00003.txt"]) == [
        ("1", "tried again"),
        ("2", "tried again"),
        ("3", "given up"),
    ]
    assert "in run\n" in told["work-web-0-00008.txt"] and "Signature" not in told["work-web-0-00008.txt"]  # a traceback
    with engine(run, inline) as one:
        one.run(Stage("reading", nodes(tries, 12, {})))
        assert one.executed == 3


def test_a_run_that_fails_says_how_far_it_came(tmp_path: Path) -> None:
    with pytest.raises(TasksFailed), engine(tmp_path / "run", inline=True) as one:
        one.run(Stage("reading", nodes(tmp_path / "tries", 12, {3: (9, "forbidden"), 5: (9, "bug")})))
    last = read_standing(str(tmp_path / "run"))
    assert last is not None and (last.phase, last.done, last.failed, last.tasks) == ("reading", 10, 2, 12)


def test_where_all_tasks_fail_the_rest_is_not_begun(tmp_path: Path, inline: bool) -> None:
    tries = tmp_path / "tries"
    with engine(tmp_path / "run", inline) as one, pytest.raises(TasksFailed, match=r"^reading: [2-9]\d tasks of 400 failed"):
        one.run(Stage("reading", nodes(tries, 400, dict.fromkeys(range(400), (9, "forbidden")))))
    assert 20 <= len(list(tries.iterdir())) < 100


def test_the_error_of_one_task_is_told_as_it_is(tmp_path: Path) -> None:
    with engine(tmp_path / "run", inline=True) as one, pytest.raises(StorageError, match=r"^s3://b/t2: these AWS"):
        one.run(Stage("reading", nodes(tmp_path / "tries", 5, {2: (9, "forbidden")})))
    assert len(list((tmp_path / "tries").iterdir())) == 5


def test_the_driver_itself_waits_for_its_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger on S3 that cannot be written to for a while costs no task."""
    add, refused = Ledger.add, iter([True, True, False] + [False] * 9)

    def sometimes(self: Ledger, entry: Entry) -> None:
        if next(refused):
            raise TransientError("s3://b/ledger: the server answers 503 Slow Down; try again later")
        add(self, entry)

    monkeypatch.setattr(Ledger, "add", sometimes)
    with engine(tmp_path / "run", inline=True) as one:
        one.run(Stage("reading", nodes(tmp_path / "tries", 3, {})))
    with Ledger(str(tmp_path / "run")) as ledger:
        assert ledger.count() == 3
    assert len(list((tmp_path / "tries").iterdir())) == 3


def test_waits_grow_and_are_at_least_what_a_server_asks() -> None:
    tasks = Tasks(wait_seconds=4)
    for attempt, usual in ((2, 4), (3, 12), (4, 36), (9, 120)):
        assert 0.5 * usual <= wait_before(attempt, TransientError("busy"), tasks) <= 1.5 * usual
    assert wait_before(2, TransientError("busy", 57), tasks) == 57


def test_a_recipe_says_how_often_tasks_are_tried(tmp_path: Path) -> None:
    from pipeline.recipe.recipe import RecipeError, build_recipe

    data = {
        "name": "small",
        "sources": {"docs": {"read": {"paths": ["x.jsonl"]}}},
        "tokenizer": {"train": {"vocab_size": 400}},
        "mixture": {},
        "run": {"tasks": {"attempts": 7}},
    }
    recipe = build_recipe(data)
    assert recipe.run.tasks.attempts == 7
    other = build_recipe(json.loads(json.dumps(data).replace("7", "2")))
    assert recipe.content() == other.content()
    with pytest.raises(RecipeError, match=r"run.tasks.attempts = 0: "):
        build_recipe(json.loads(json.dumps(data).replace("7", "0")))
    assert issubclass(TasksFailed, UserError)
