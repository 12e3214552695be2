"""A Ray cluster that changes size while tasks run on it; run in a process of its own, which loads Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.ray_driver import RAY_ENVIRONMENT

WAIT = 200.0  # seconds, for what does not come
NODE = {"object_store_memory": 100 << 20}
STAGES = """
import sys
from pathlib import Path
from pipeline.attempts import Tasks
from pipeline.engine import Engine
from pipeline.ledger import Ledger, Ref
from pipeline.place import Placement
from pipeline.plan.node import Node, Stage
from pipeline.progress import Progress
from stages.errors import UserError
from waiting_jobs import Together

address, run, seconds, count, memory = sys.argv[1], sys.argv[2], float(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5])
folder = Path(run, "marks")
folder.mkdir(parents=True)
placement = Placement(address=address, progress=Progress(), tasks=Tasks(node_seconds=seconds), task_memory=100 << 20)
nodes = [Node(Ref("wait", "", "0", n), Together(n, str(folder), count), memory=memory) for n in range(count)]
with Ledger(run, writable=True) as ledger, Engine(run, ledger, placement) as engine:
    try:
        engine.run(Stage("waiting", nodes))
    except UserError as error:
        sys.exit(f"error: {error}")
"""


def run_stage(address: str, run: Path, seconds: float, count: int, memory: int, said: Path) -> subprocess.Popen[bytes]:
    """A stage of `count` tasks that end once all of them run at the same time, of so much memory each."""
    arguments = [address, str(run), f"{seconds}", f"{count}", f"{memory}"]
    with said.open("wb") as file:
        return subprocess.Popen([sys.executable, "-c", STAGES, *arguments], stderr=file)


def growing(folder: Path, cpus: int, then: list[dict[str, Any]], sign: str, stage: dict[str, Any]) -> None:
    """A cluster whose head has so many cores carries out a stage; nodes join once the run has said `sign`, or begun a task.

    Ends as the stage did; what it said is in folder/said, which raylets ran tasks in folder/run/marks.
    """
    os.environ.update(RAY_ENVIRONMENT)
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": cpus, "include_dashboard": False, "memory": 1 << 30}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        said = folder / "said"
        process = run_stage(cluster.address, folder / "run", said=said, **stage)
        began = (lambda: sign in said.read_text()) if sign else (lambda: any((folder / "run/marks").glob("*")))
        _until(lambda: process.poll() is not None or began())
        for node in then:
            cluster.add_node(wait=False, **NODE, **node)
        status = process.wait(WAIT)
    finally:
        cluster.shutdown()
    raise SystemExit(status)


def _until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not what():
        if time.monotonic() > end:
            raise TimeoutError("it did not come")
        time.sleep(0.02)
