"""Tasks that run at the same time on one disk: each begins once what it needs is free beside what the others still write."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from threading import Event, Thread

import pytest
from waiting_jobs import Lasting

from pipeline import storage
from pipeline.engine.engine import Engine
from pipeline.engine.place import Placement
from pipeline.engine.room import room
from pipeline.ledger import Ledger, Ref
from pipeline.plan.node import Node, Stage
from pipeline.progress import Progress

Usage = namedtuple("Usage", "total used free")
TESTS = Path(__file__).resolve().parents[1]
HOLDS = """
import sys, time
from pathlib import Path
from pipeline.engine.room import room
with room(Path(sys.argv[1]), int(sys.argv[2]), "theirs"):
    print("begun", flush=True)
    time.sleep(200)
"""


@pytest.fixture(autouse=True)
def _notes_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Temporary files beside the test's, so that other tests' tasks are no neighbours."""
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))


def test_tasks_that_have_no_room_together_run_in_turn(tmp_path: Path) -> None:
    """Two workers; two tasks that each need 60% of what is free, then two that need 20%."""
    run, free = tmp_path / "run", shutil.disk_usage(tmp_path).free
    placement = Placement(workers=2, progress=Progress(quiet=True))
    with Ledger(str(run), writable=True) as ledger, Engine(str(run), ledger, placement) as engine:
        for numbers, needed, together in [((0, 1), free * 6 // 10, False), ((2, 3), free // 5, True)]:
            (marks,) = _folders(tmp_path, f"{together}")
            nodes = [Node(Ref("last", "", "0", n), Lasting(n, str(marks), together), scratch=needed) for n in numbers]
            engine.run(Stage("last", nodes))
            first, second = sorted(tuple(map(float, path.read_text().split())) for path in marks.glob("*.span"))
            assert (second[0] < first[1]) is together


def test_what_a_killed_task_kept_is_free_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = _folders(tmp_path, "theirs", "ours")
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**6, 0, 10**6))
    held = subprocess.Popen([sys.executable, "-c", HOLDS, theirs, "600000"], stdout=subprocess.PIPE)
    assert held.stdout is not None and held.stdout.readline() == b"begun\n"
    with room(ours, 400_000, "ours"):
        pass
    began = Event()
    waits = Thread(target=_keep, args=(ours, 400_001, began))
    waits.start()
    assert not began.wait(1.5)
    held.send_signal(signal.SIGKILL)
    held.communicate()
    waits.join()
    assert began.is_set()


def test_what_a_task_has_written_is_not_asked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs, ours = _folders(tmp_path, "theirs", "ours")
    monkeypatch.setattr("shutil.disk_usage", lambda path: Usage(10**6, 0, 10**6))
    with room(theirs, 600_000, "theirs"):
        began = Event()
        waits = Thread(target=_keep, args=(ours, 900_000, began))
        waits.start()
        assert not began.wait(1.0)
        (theirs / "below").mkdir()
        (theirs / "below/part").write_bytes(bytes(500_000))
        assert began.wait(20)
        waits.join()


def _keep(folder: Path, needed: int, began: Event) -> None:
    with room(folder, needed, "ours"):
        began.set()


def _folders(where: Path, *names: str) -> list[Path]:
    for name in names:
        (where / name).mkdir()
    return [where / name for name in names]


def test_a_task_that_has_too_little_room_by_itself_fails_and_one_that_needs_none_asks_nobody(tmp_path: Path) -> None:
    needed = shutil.disk_usage(tmp_path).free * 2
    said = f"no space left: {needed:,} bytes needed for mine"
    with pytest.raises(storage.StorageError, match=said), room(tmp_path, needed, "mine"):
        pytest.fail("there is no room")
    with room(Path("/nowhere"), 0, "mine"):
        pass
