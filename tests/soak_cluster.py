"""A run on a Ray cluster that loses a node in each phase, gets one more, and loses its driver; in a process that loads Ray."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pipeline.engine.ray_driver import RAY_ENVIRONMENT

PHASE = re.compile(r"^phase (\d+) of \d+: (.*) (\d+)/\3 tasks", re.M)  # one that has ended
NODE = {"num_cpus": 1, "object_store_memory": 100 << 20, "memory": 3 << 30}
SOON = {"health_check_period_ms": 500, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 4}
LATER = 0.3  # seconds after a phase began at which a node is killed


def troubled(arguments: list[str], said: Path, told: Path, seconds: float) -> None:
    """Carry out `python -m pipeline run` on two nodes and a third that joins; a node is killed in each phase, the driver once.

    said: where the command's errors go. told: what happened. Ends as the command did at last; after `seconds` it is killed.
    """
    os.environ.update(RAY_ENVIRONMENT | {"RAY_AUTH_MODE": "disabled", "HEADRACE_RAY_SECONDS": "120"})
    from ray.cluster_utils import Cluster

    head = {**NODE, "include_dashboard": False, "_system_config": SOON}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    facts: dict[str, Any] = {"nodes_killed": [], "joined": 0, "drivers_killed": 0}
    try:
        others = [cluster.add_node(**NODE)]
        until = time.monotonic() + seconds
        command = [sys.executable, "-m", "pipeline", "run", *arguments, "--address", cluster.address]
        driver = _start(command, said)
        phases, due = 0, time.monotonic() + 6.0
        while (status := driver.poll()) is None:
            time.sleep(0.1)
            if time.monotonic() > until:
                driver.kill()
            ended = PHASE.findall(said.read_text(errors="replace"))
            if len(ended) > phases:
                phases = len(ended)
                due = time.monotonic() + LATER
            if due and time.monotonic() > due:
                due = 0.0
                facts["nodes_killed"].append(ended[-1][1] if ended else "")  # the phase that had ended then
                cluster.remove_node(others.pop(0), allow_graceful=False)
                for _ in range(1 if facts["joined"] else 2):
                    others.append(cluster.add_node(wait=False, **NODE))
                facts["joined"] = 1
                if phases and not facts["drivers_killed"]:
                    driver.kill()
                    driver.wait()
                    facts["drivers_killed"] += 1
                    driver = _start(command, said)
        driver.wait()
    finally:
        cluster.shutdown()
        told.write_text(json.dumps(facts))
    raise SystemExit(status)


def _start(command: list[str], said: Path) -> subprocess.Popen[bytes]:
    with said.open("ab") as file:
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=file)
