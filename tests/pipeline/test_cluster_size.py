"""Clusters that change size while a run goes on, and tasks that take longer than all others."""

from __future__ import annotations

import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import elastic
import pytest
from waiting_jobs import Late

from pipeline.engine.attempts import Tasks
from pipeline.engine.engine import Engine
from pipeline.engine.place import Placement
from pipeline.ledger import Ledger, Ref
from pipeline.plan.node import Node, Stage
from pipeline.progress import Progress

TESTS = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _workers_find_the_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def on_a_cluster(folder: Path, **options: Any) -> tuple[int | None, str, int]:
    """Exit status, what was said, and how many nodes ran tasks."""
    process = multiprocessing.get_context("spawn").Process(target=elastic.growing, args=(folder,), kwargs=options)
    process.start()
    process.join()
    marks = {path.suffix for path in (folder / "run/marks").iterdir()}
    return process.exitcode, (folder / "said").read_text(), len(marks)


def test_nodes_that_join_in_a_phase_get_tasks(tmp_path: Path) -> None:
    """Seven tasks that end once all run: one core when the phase begins, and six more come while the first task runs."""
    stage = {"seconds": 300.0, "count": 7, "memory": 0}
    status, said, nodes = on_a_cluster(tmp_path, cpus=1, then=[{"num_cpus": 3}] * 2, sign="", stage=stage)
    assert status == 0, said
    assert nodes == 3


def test_a_cluster_without_cores_and_memory_gets_them(tmp_path: Path) -> None:
    """As one that is scaled to zero: a task of 2 GB waits for a node that has them, and is told to wait."""
    stage = {"seconds": 300.0, "count": 1, "memory": 2 << 30}
    then = [{"num_cpus": 1, "memory": 3 << 30}]
    status, said, _ = on_a_cluster(tmp_path, cpus=0, then=then, sign="waiting for another node", stage=stage)
    assert status == 0, said
    assert (
        "task wait/0/00000 needs 2.15 GB of memory, and the largest node offers 0 B: waiting for another node, at most "
        "5 min 00 s (run.tasks.node_seconds)"
    ) in said


def test_rays_own_autoscaler_starts_a_cluster_that_has_no_core(tmp_path: Path) -> None:
    """Two tasks that end once both run: the autoscaler sees that they wait, and starts a node of one core for each."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    status, said = elastic.scaled_from_zero(tmp_path, port, {"seconds": 150.0, "count": 2, "memory": 0})
    assert status == 0, said
    assert "the cluster has no node with a free core: waiting for another node" in said
    assert len({path.suffix for path in (tmp_path / "run/marks").iterdir()}) == 2


def test_a_node_that_does_not_come_is_waited_for_no_longer_than_the_recipe_says(tmp_path: Path) -> None:
    stage = {"seconds": 1.0, "count": 1, "memory": 2 << 30}
    status, said, _ = on_a_cluster(tmp_path, cpus=1, then=[], sign="error: ", stage=stage)
    assert status == 1
    assert "error: task wait/0/00000 needs 2.15 GB of memory, and the largest node offers 1.07 GB, and no other came" in said


def test_the_last_task_runs_twice_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """The first to run it stops in the middle of its output. The second one's result counts, and the first is ended."""
    run, marks = tmp_path / "run", tmp_path / "marks"
    marks.mkdir()
    placement = Placement(workers=2, progress=Progress(quiet=True), tasks=Tasks(copy_seconds=1.0))
    nodes = [Node(Ref("late", "", "0", n), Late(n, str(marks), n == 1)) for n in range(4)]
    with Ledger(str(run), writable=True) as ledger, Engine(str(run), ledger, placement) as engine:
        done = engine.run(Stage("late", nodes))
        assert (marks / "1.ended").read_text() == "KeyboardInterrupt"
        assert engine.executed == 4
    assert [(run / one.outputs[0].path).read_text() for one in done] == ["0", "1", "2", "3"]
    left = [path for path in run.rglob("*") if path.is_file() and path.name.startswith((".tmp", "half"))]
    assert not left and sorted(path.name for path in (run / "parts").iterdir()) == ["0", "1", "2", "3"]
