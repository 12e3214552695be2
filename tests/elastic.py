"""A Ray cluster that changes size while tasks run on it; run in a process of its own, which loads Ray."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.engine.ray_driver import RAY_ENVIRONMENT

WAIT = 200.0  # seconds, for what does not come
PATIENT = {"RAY_AUTH_MODE": "disabled", "HEADRACE_RAY_SECONDS": "120"}
NODE = {"object_store_memory": 100 << 20}
STAGES = """
import sys
from pathlib import Path
from pipeline.engine.attempts import Tasks
from pipeline.engine.engine import Engine
from pipeline.ledger import Ledger, Ref
from pipeline.engine.place import Placement
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
        return subprocess.Popen([sys.executable, "-c", STAGES, *arguments], stderr=file, env=os.environ | PATIENT)


def growing(folder: Path, cpus: int, then: list[dict[str, Any]], sign: str, stage: dict[str, Any]) -> None:
    """A cluster whose head has so many cores carries out a stage; nodes join once the run has said `sign`, or begun a task.

    Ends as the stage did; what it said is in folder/said, which raylets ran tasks in folder/run/marks.
    """
    os.environ.update(RAY_ENVIRONMENT | PATIENT)
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


def scaled_from_zero(folder: Path, port: int, stage: dict[str, Any]) -> tuple[int, str]:
    """Ray's own autoscaler, which starts raylets of one core here, carries out a stage on a cluster that has none yet.

    Returns how the stage ended, and what it said. This process loads no Ray.
    """
    address = f"127.0.0.1:{port}"
    config = folder / "autoscaler.json"
    config.write_text(json.dumps(_autoscaler(address)))
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", f"--port={port}", "--num-cpus=0"]
    command += ["--include-dashboard=false", f"--object-store-memory={100 << 20}", f"--autoscaling-config={config}"]
    fake = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    variables = os.environ | RAY_ENVIRONMENT | PATIENT | fake
    with (folder / "head").open("wb") as log:
        head = subprocess.Popen(command, env=variables, stdout=log, stderr=log, start_new_session=True)
    try:
        _until(lambda: head.poll() is not None or _answers(port))
        said = folder / "said"
        process = run_stage(address, folder / "run", said=said, **stage)
        return process.wait(WAIT), said.read_text()
    finally:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()


def _answers(port: int) -> bool:
    with socket.socket() as trial:
        return trial.connect_ex(("127.0.0.1", port)) == 0


def _autoscaler(address: str) -> dict[str, Any]:
    """Settings of Ray's autoscaler (ray-schema.json) for nodes that are raylets on this machine."""
    nodes = {
        "head": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "worker": {"resources": {"CPU": 1, **NODE}, "node_config": {}, "min_workers": 0, "max_workers": 2},
    }
    commands = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
    return {
        "cluster_name": "zero",
        "max_workers": 2,
        "idle_timeout_minutes": 5,
        "provider": {
            "type": "fake_multinode",
            "gcs_address": address,
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": nodes,
        "head_node_type": "head",
        **{f"{name}_commands": [] for name in commands},
        **{name: {} for name in ("head_node", "worker_nodes", "file_mounts", "auth", "docker")},
        **{name: [] for name in ("cluster_synced_files", "rsync_exclude", "rsync_filter")},
    }


def _until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not what():
        if time.monotonic() > end:
            raise TimeoutError("it did not come")
        time.sleep(0.02)
