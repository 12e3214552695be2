"""The engine: books that do not balance, how much may fail, tasks that are the same."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

from pipeline.engine import BooksError, Engine, Placement, TooManyFailures, execute
from pipeline.ledger import Ledger
from pipeline.progress import Progress
from pipeline.storage import RunLock
from pipeline.task import Context, Phase, Task
from stages.errors import UserError

CALLS: list[str] = []


def work(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """A task: counts its calls, and reports what its spec says."""
    CALLS.append(spec["name"])
    with context.output(f"parts/{spec['name']}") as path:
        path.write_text(spec["name"])
    seen, failed, lost = spec.get("seen", 10), spec.get("failed", 0), spec.get("lost", 0)
    books = {"step": "read", "in": [seen, 0], "out": [seen - failed - lost, 0], "failed": [failed, 0], "dropped": {}}
    cause = f"record {spec['name']}" if failed else None
    return {"books": [books | {"edited": 0, "seconds": 0.0}], "failed_documents": failed, "first_failure": cause}


def write(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    with context.output(spec["path"]) as path:
        path.write_text("late")
    return {}


def task(name: str, **spec: Any) -> Task:
    return Task(spec.pop("key", name), name, f"{__name__}:work", {"name": name, **spec})


def engine(run: Path, **settings: Any) -> Engine:
    return Engine(str(run), Ledger(str(run)), Placement(inline=True, progress=Progress(quiet=True)), **settings)


def test_a_task_whose_books_do_not_balance_is_not_done_for_the_next_run_either(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(BooksError, match="the books of a do not balance"):
            engine(tmp_path).run(Phase("p", [task("a", lost=1)]))
    assert not list((tmp_path / "ledger").glob("*.json"))


def test_equal_tasks_run_once_and_answer_for_each(tmp_path: Path) -> None:
    CALLS.clear()
    found = engine(tmp_path).run(Phase("p", [task("a", key="k"), task("b"), task("c", key="k")]))
    assert [entry["name"] for entry in found] == ["c", "b", "c"]
    assert sorted(CALLS) == ["b", "c"]


def test_a_phase_stops_early_only_where_its_end_cannot_be_better(tmp_path: Path) -> None:
    """Of 20 tasks of 10 documents, the first few fail by one: 1.5% at the end, and far more before it."""
    CALLS.clear()
    tasks = [task(f"t{number:02d}", failed=int(number in (1, 2, 3))) for number in range(20)]
    engine(tmp_path / "passes", max_failed_documents=0.015).run(Phase("p", tasks))
    assert len(CALLS) == 20
    CALLS.clear()
    with pytest.raises(TooManyFailures, match=r"p: 3 of 40 documents failed.*the first: record t01"):
        engine(tmp_path / "stops", max_failed_documents=0.014).run(Phase("p", tasks))
    assert len(CALLS) == 4


def test_a_file_system_that_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Context, path: str) -> Any:
        raise OSError(errno.EFBIG, "Arrow's own words")

    monkeypatch.setattr(Context, "output", refuse)
    with pytest.raises(UserError, match=r"task a: a file under .*: File too large; mend it"):
        engine(tmp_path).run(Phase("p", [task("a")]))


def test_kernels_that_cannot_be_stored_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.engine.ensure_warm", lambda report: (tmp_path / "none/lock").touch())
    with pytest.raises(UserError, match=r"kernels cannot be compiled to .*: No such file.*HEADRACE_CACHE"):
        engine(tmp_path).run(Phase("p", [task("a")]))


class Odd(Exception):
    """Its arguments are not what it is made from, so it cannot be unpickled."""

    def __init__(self, place: str, number: int) -> None:
        super().__init__(f"{place} {number}")


def test_an_error_that_cannot_travel_arrives_in_words_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(self: Context, path: str) -> Any:
        raise Odd("row", 3)

    monkeypatch.setattr(Context, "output", odd)
    with pytest.raises(RuntimeError, match="Odd: row 3") as caught:
        engine(tmp_path).run(Phase("p", [task("a")]))
    assert "in task a" in caught.value.__notes__[0] and "in odd" in caught.value.__notes__[0]


def test_a_task_of_a_run_that_is_gone_writes_no_final_file_and_no_entry(tmp_path: Path) -> None:
    """A worker on a shared cluster outlives its driver, and another run holds the folder now."""

    def attempt(path: str, token: str) -> None:
        plain = {"key": path.replace("/", "-"), "name": path, "function": f"{__name__}:write", "similar": None, "folder": "."}
        execute(str(tmp_path), plain | {"spec": {"path": path}}, 0, token)

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
    written = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    files = {path for path in written if not path.startswith("ledger/")}
    assert files == {"tokens/ours.npy", "parts/ours", "parts/late", "tokens/new.npy"}
    assert len(Ledger(str(tmp_path)).entries) == 3
