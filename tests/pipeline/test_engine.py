"""The engine: books that do not balance, how much may fail, tasks that are the same, and errors in words."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.engine.engine import Allowed, BooksError, Engine, TooManyFailures
from pipeline.engine.execute import Surroundings, execute
from pipeline.engine.place import Placement
from pipeline.jobs.context import Context
from pipeline.ledger import Ledger, Ref
from pipeline.plan.node import Job, Node, Report, Stage
from pipeline.progress import Progress
from pipeline.storage import RunLock
from stages.books import Amount, StepBooks
from stages.errors import UserError
from stages.marks import HowMuch, OutFile, Setting

CALLS: list[str] = []


@dataclass(frozen=True)
class Work(Job):
    """Counts its calls, and reports what its spec says."""

    content: Setting[str]
    name: HowMuch[str] = ""
    seen: HowMuch[int] = 10
    failed: HowMuch[int] = 0
    lost: HowMuch[int] = 0

    def run(self, context: Context) -> Report:
        CALLS.append(self.name)
        with context.output(f"parts/{self.content}") as path:
            path.write_text(self.name)
        out = self.seen - self.failed - self.lost
        books = StepBooks("read", Amount(self.seen), Amount(out), Amount(self.failed))
        cause = f"record {self.name}" if self.failed else None
        return Report(books=[books], failed_documents=self.failed, first_failure=cause)


@dataclass(frozen=True)
class Write(Job):
    report: ClassVar[type[Report]] = Report

    path: OutFile[str]

    def run(self, context: Context) -> Report:
        with context.output(self.path) as path:
            path.write_text("late")
        return Report()


def node(name: str, number: int = 0, content: str | None = None, **spec: Any) -> Node:
    return Node(Ref("work", "", name, number), Work(content or name, name, **spec))


@contextmanager
def engine(run: Path, **settings: Any) -> Iterator[Engine]:
    with Ledger(str(run), writable=True) as ledger:
        yield Engine(str(run), ledger, Placement(inline=True, progress=Progress(quiet=True)), **settings)


def test_a_task_whose_books_do_not_balance_is_not_done_for_the_next_run_either(tmp_path: Path) -> None:
    for _ in range(2):
        with engine(tmp_path) as one, pytest.raises(BooksError, match="the books of work/a/00000 do not balance"):
            one.run(Stage("p", [node("a", lost=1)]))
    with Ledger(str(tmp_path)) as ledger:
        assert ledger.count() == 0


def test_equal_tasks_run_once_and_answer_for_each(tmp_path: Path) -> None:
    CALLS.clear()
    with engine(tmp_path) as one:
        found = one.run(Stage("p", [node("a", content="k"), node("b"), node("c", content="k")]))
    assert found[0].key == found[2].key != found[1].key
    assert sorted(CALLS) == ["b", "c"]


def test_a_stage_stops_early_only_where_its_end_cannot_be_better(tmp_path: Path) -> None:
    """Of 20 tasks of 10 documents, the first few fail by one: 1.5% at the end, and far more before it."""
    CALLS.clear()
    nodes = [node(f"t{number:02d}", failed=int(number in (1, 2, 3))) for number in range(20)]
    with engine(tmp_path / "passes", allowed=Allowed(0.015)) as one:
        one.run(Stage("p", nodes))
    assert len(CALLS) == 20
    CALLS.clear()
    stops = pytest.raises(TooManyFailures, match=r"p: 3 of 40 documents failed.*the first: record t01")
    with engine(tmp_path / "stops", allowed=Allowed(0.014)) as one, stops:
        one.run(Stage("p", nodes))
    assert len(CALLS) == 4


def test_failures_of_tasks_that_were_done_before_count(tmp_path: Path) -> None:
    nodes = [node("a", failed=5), node("b")]
    with engine(tmp_path, allowed=Allowed(0.5)) as one:
        one.run(Stage("p", nodes))
    with engine(tmp_path) as one, pytest.raises(TooManyFailures, match="5 of 20 documents failed"):
        one.run(Stage("p", nodes))


def test_a_file_system_that_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Context, path: str) -> Any:
        raise OSError(errno.EFBIG, "Arrow's own words")

    monkeypatch.setattr(Context, "output", refuse)
    refused = pytest.raises(UserError, match=r"task work/a/00000: a file under .*: File too large; mend it")
    with engine(tmp_path) as one, refused:
        one.run(Stage("p", [node("a")]))


def test_kernels_that_cannot_be_stored_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.place.ensure_warm", lambda report: (tmp_path / "none/lock").touch())
    cannot = pytest.raises(UserError, match=r"kernels cannot be compiled to .*: No such file.*HEADRACE_CACHE")
    with engine(tmp_path) as one, cannot:
        one.run(Stage("p", [node("a")]))


class Odd(Exception):
    """Its arguments are not what it is made from, so it cannot be unpickled."""

    def __init__(self, place: str, number: int) -> None:
        super().__init__(f"{place} {number}")


def test_an_error_that_cannot_travel_arrives_in_words_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(self: Context, path: str) -> Any:
        raise Odd("row", 3)

    monkeypatch.setattr(Context, "output", odd)
    with engine(tmp_path) as one, pytest.raises(RuntimeError, match="Odd: row 3") as caught:
        one.run(Stage("p", [node("a")]))
    assert "in task work/a/00000" in caught.value.__notes__[0] and "in odd" in caught.value.__notes__[0]


def test_a_task_of_a_run_that_is_gone_writes_no_final_file(tmp_path: Path) -> None:
    """A worker on a shared cluster outlives its driver, and another run holds the folder now."""

    def attempt(path: str, token: str) -> None:
        one = Node(Ref("write", "", path, 0), Write(path))
        execute(one, one.key, Surroundings(str(tmp_path), ".", 0, token))

    with RunLock(tmp_path) as lock:
        old = lock.token
        attempt("tokens/ours.npy", old)
        attempt("parts/ours", old)
    with RunLock(tmp_path) as lock:
        new = lock.token
        for path in ("tokens/late.npy", "parts/late"):
            with pytest.raises(UserError, match="the run that this task belongs to is gone"):
                attempt(path, old)
        attempt("tokens/new.npy", new)
    with pytest.raises(UserError, match="gone"):
        attempt("tokens/later.npy", new)
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    assert files == {"tokens/ours.npy", "parts/ours", "parts/late", "tokens/new.npy"}


def test_a_machine_with_other_code_is_refused_before_it_writes(tmp_path: Path) -> None:
    one = Node(Ref("write", "", "x", 0), Write("tokens/x.npy"))
    with pytest.raises(UserError, match=r"task write/x/00000: .* has another version of Headrace"):
        execute(one, "0" * 32, Surroundings(str(tmp_path), ".", 0))
    assert not list(tmp_path.rglob("*.npy"))
