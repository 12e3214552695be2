"""A Ray cluster of two nodes, of which one is killed again and again; run in a process of its own, which loads Ray."""

from __future__ import annotations

import json
import multiprocessing
import os
import time
from pathlib import Path

import gated_dedup

from pipeline.cli import main
from pipeline.engine.ray_driver import RAY_ENVIRONMENT

WAIT = 300.0  # seconds, for what does not come


def run_gated(arguments: list[str]) -> None:
    gated_dedup.instead_of_the_job(gated_dedup.Waiting)
    raise SystemExit(main(arguments))


def killing_nodes(arguments: list[str], gate: Path, told: Path) -> None:
    """Carry out the command on a cluster whose second node is killed once in each phase of a dedup, while a task waits there.

    Writes to `told` the phases in which it was, and ends as the command did.
    """
    os.environ.update(RAY_ENVIRONMENT)
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 << 20, "memory": 2 << 30}
    soon = {"health_check_period_ms": 300, "health_check_timeout_ms": 1000, "health_check_failure_threshold": 4}
    head = {**node, "include_dashboard": False, "_system_config": soon}  # dead nodes are told within a second or two
    cluster = Cluster(initialize_head=True, head_node_args=head)
    killed: list[str] = []
    try:
        other = cluster.add_node(**node)
        process = multiprocessing.get_context("spawn").Process(
            target=run_gated, args=([*arguments, "--address", cluster.address],)
        )
        process.start()
        until = time.monotonic() + WAIT
        while process.is_alive() and time.monotonic() < until:
            raylet = other.all_processes["raylet"][0].process.pid
            for marker in gate.glob(f"*.at.{raylet}"):
                phase = marker.name.removesuffix(f".at.{raylet}")
                if phase not in killed:
                    cluster.remove_node(other, allow_graceful=False)
                    killed.append(phase)
                    (gate / f"{phase}.open").touch()
                    other = cluster.add_node(wait=False, **node)
                    break
            time.sleep(0.01)
        process.join(20)
        process.kill()
        process.join()
    finally:
        cluster.shutdown()
    told.write_text(json.dumps(killed))
    raise SystemExit(process.exitcode)
