"""Ray in a process of its own: runs go on from there, programs that ran one can fork, and what is wrong is one sentence."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from pydoc_data.topics import topics

import forked
import pytest
import yaml

from pipeline.engine.ray_start import LONGEST_FOLDER, ray_address, start_ray
from pipeline.progress import Progress
from stages.errors import UserError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("recipe")
    rows = [json.dumps({"id": name, "text": text}) + "\n" for name, (_, text) in enumerate(sorted(topics.items()))]
    (folder / "docs.jsonl").write_text("".join(rows))
    data = {
        "name": "small",
        "sources": {"docs": {"read": {"paths": [str(folder / "docs.jsonl")]}}},
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "20KB"}},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "200KB"},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    return folder / "recipe.yaml"


def run(recipe: Path, out: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | environment
    printed = recipe.parent / "printed"
    return forked.call(printed, "run", str(recipe), "--out", str(out), *arguments, environment=variables)


THEN_FORK = """
import sys
from multiprocessing import get_context
from pipeline.progress import Progress
from pipeline.recipe.recipe import load_recipe
from pipeline.carry_out import Options, run_recipe

recipe, out = sys.argv[1:]
run_recipe(load_recipe(recipe), Options(out, workers=1, progress=Progress(quiet=True)))
assert "ray" not in sys.modules
assert "_raylet" not in open("/proc/self/maps").read()
for _ in range(3):
    child = get_context("fork").Process(target=sorted, args=([2, 1],))
    child.start()
    child.join()
    assert child.exitcode == 0, child.exitcode
"""
THEN_LOAD = """
from torch.utils.data import DataLoader
from trainer import shards

data = shards.open(out, sequence_length=64)
loader = DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork")
assert sum(len(batch) for batch in loader) == len(data) > 8
"""


def test_a_program_that_ran_on_ray_can_fork_and_load_data_with_workers(recipe: Path, tmp_path: Path) -> None:
    code = THEN_FORK + (THEN_LOAD if find_spec("torch") else "")  # training data is read with PyTorch, where it is installed
    done = subprocess.run(
        [sys.executable, "-c", code, str(recipe), str(tmp_path)], cwd=ROOT, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def errors(done: subprocess.CompletedProcess[str]) -> list[str]:
    """The lines of stderr, without what is told on the way."""
    return [line for line in done.stderr.splitlines() if not line.startswith(("connecting to Ray", "starting Ray"))]


def test_a_dead_address_is_one_sentence(recipe: Path, tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    for arguments, environment in ((["--address", address], {}), ([], {"RAY_ADDRESS": address})):
        done = run(recipe, tmp_path, *arguments, **environment)
        assert done.returncode == 2 and not done.stdout
        assert errors(done) == [
            f"error: Ray could not be started at {address}: nothing answers there (Connection refused); is it up?"
        ]
    assert f"connecting to Ray at {address} (RAY_ADDRESS)" in done.stderr


@pytest.fixture
def mute() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def test_an_address_where_something_else_listens_is_one_sentence(recipe: Path, tmp_path: Path, mute: str) -> None:
    """Ray alone would try for minutes, print its own lines, and end the process."""
    done = run(recipe, tmp_path, "--address", mute, HEADRACE_RAY_SECONDS="6")
    assert done.returncode == 2 and len(errors(done)) == 1, done.stderr
    assert errors(done)[0].startswith(f"error: Ray could not be started at {mute}: no answer within 6 s; is it up?")


def test_the_address_in_the_environment_is_taken_unless_workers_of_this_machine_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert ray_address(None) == "head:6379"
    assert ray_address("other:1") == "other:1"
    assert ray_address(None, workers=2) is None and ray_address("local") is None
    for nothing in ("", "local"):
        monkeypatch.setenv("RAY_ADDRESS", nothing)
        assert ray_address(None) is None


def test_a_cluster_that_the_environment_names_is_used(recipe: Path, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--num-cpus=1", f"--port={port}"]
    command += ["--include-dashboard=false", f"--object-store-memory={100 << 20}", "--disable-usage-stats"]
    variables = os.environ | {"RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT)}
    with (tmp_path / "ray.log").open("w") as log:
        head = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        for _ in range(600):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert head.poll() is None, (tmp_path / "ray.log").read_text()
            time.sleep(0.1)
        there = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "disabled", "HEADRACE_RAY_SECONDS": "120"}
        done = run(recipe, tmp_path / "run", **there)
        assert done.returncode == 0, done.stderr
        assert f"connecting to Ray at 127.0.0.1:{port} (RAY_ADDRESS)" in done.stderr
        assert 'the cluster has no dashboard: pip install "headrace[cluster]"' in done.stderr
        own = run(recipe, tmp_path / "own", "--workers", "1", RAY_ADDRESS=f"127.0.0.1:{port}")
        assert own.returncode == 0 and "is not taken: workers of this machine were asked for" in own.stderr
    finally:
        os.killpg(head.pid, signal.SIGTERM)
        head.wait(60)
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in ("run", "own")]
    assert manifests[0] == manifests[1]


def test_a_temporary_folder_that_ray_cannot_use_has_a_way_round_or_one_sentence(recipe: Path, tmp_path: Path) -> None:
    """Ray's own words are of AF_UNIX paths, or a traceback."""
    long = tmp_path / ("long" * 30)
    long.mkdir()
    done = run(recipe, tmp_path / "run", "--workers", "1", TMPDIR=str(long))
    assert done.returncode == 0, done.stderr
    assert f"{long}/ray: its path is too long for sockets" in done.stderr
    for folder, reason in (("/dev/null", "it cannot be written to (Not a directory)"), (str(long), "its path is too long")):
        done = run(recipe, tmp_path / "other", "--workers", "1", RAY_TMPDIR=folder)
        assert done.returncode == 2 and len(errors(done)) == 1, done.stderr
        assert f"error: RAY_TMPDIR={folder}: {reason}" in errors(done)[0]


KILLED_ONCE = """
import os, signal
from pathlib import Path

def length(text):
    mark = Path(__file__).with_name("died")
    if "assert" in text and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return len(text)
"""


def test_a_killed_worker_leaves_nothing_in_the_finished_run(recipe: Path, tmp_path: Path) -> None:
    """Its task runs again elsewhere, so the run ends well; half-written files and scratch folders are no part of it."""
    out = tmp_path / "run"
    (tmp_path / "filters.py").write_text(KILLED_ONCE)
    data = yaml.safe_load(recipe.read_text())
    data["sources"]["docs"]["steps"] = [{"python": {"function": "filters:length", "measure": "length", "min": 1}}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(data, sort_keys=False))
    done = run(tmp_path / "recipe.yaml", out, "--workers", "1")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "died").exists()
    assert not [path for path in out.rglob("*") if path.name.startswith((".tmp-", ".scratch"))]


def command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(path.parent.name), *descendants(int(path.parent.name))]
    return found


def test_an_own_ray_that_dies_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its raylet killed, as by the kernel where memory ran out. It lies in a folder of the greatest length that will do."""
    folder = Path("/tmp") / f"{os.getpid()}".ljust(LONGEST_FOLDER - len("/tmp//ray"), "x")
    monkeypatch.setenv("RAY_TMPDIR", str(folder))
    try:
        ray = start_ray(None, 1, Progress(quiet=True))
        try:
            assert (folder / "ray/session_latest").exists()
            ray.call(1, "builtins:abs", (-3,))
            outcomes = []
            while not outcomes:
                outcomes = ray.outcomes(1.0)
            assert (outcomes[0].number, outcomes[0].value) == (1, 3)
            ray.call(2, "time:sleep", (1000,))
            [raylet] = [pid for pid in descendants(os.getpid()) if command(pid).partition("\0")[0].endswith("/raylet")]
            os.kill(raylet, signal.SIGKILL)
            with pytest.raises(UserError, match="Ray on this machine has died; what is done stays done: run again"):
                while not ray.outcomes(1.0):
                    pass
        finally:
            ray.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
