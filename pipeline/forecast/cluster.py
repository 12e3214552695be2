"""From core time to hours and money: a cluster of equal nodes, given by its size, memory, price and network."""

from __future__ import annotations

import os

import msgspec

from pipeline.forecast.stages import Forecast, Stage
from pipeline.size import machine_memory
from stages.units import show_bytes


class Cluster(msgspec.Struct, frozen=True):
    """nodes with so many cores and bytes of memory each; price of a node-hour; bytes a second between node and storage."""

    nodes: int
    cores: int
    memory: int
    price: float | None = None
    bandwidth: float | None = None


def this_machine() -> Cluster:
    return Cluster(1, os.cpu_count() or 1, machine_memory())


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """Stages of several sources that run side by side."""

    name: str
    tasks: int
    bytes_in: int
    bytes_out: int
    read: int
    written: int
    memory: int  # of the largest task
    disk: int  # of the run's folder at the phase's fullest moment
    core_seconds: float
    seconds: float
    bound: str  # what the time goes with: cores, memory, few tasks, network
    cost: float | None


def phases(forecast: Forecast, cluster: Cluster) -> tuple[list[Phase], list[str]]:
    """The phases in order on this cluster, and what does not fit on it."""
    grouped: dict[str, list[Stage]] = {}
    for stage in forecast.stages:
        grouped.setdefault(stage.phase, []).append(stage)
    found, problems, live = [], [], 0
    for name, stages in grouped.items():
        for stage in stages:
            if stage.memory > cluster.memory:
                problems.append(
                    f"{name} ({stage.source}): a task needs {show_bytes(stage.memory)} of memory, a node has "
                    f"{show_bytes(cluster.memory)}; "
                    "take larger nodes, or cut the work smaller (bff: more shards; other dedups: less memory)"
                )
        slots = _slots(max(stage.memory for stage in stages), cluster)
        core = sum(stage.core_seconds for stage in stages)
        longest = max(stage.core_seconds / max(stage.tasks, 1) for stage in stages)
        compute = max(core / slots, longest)
        read, written = sum(stage.read for stage in stages), sum(stage.written for stage in stages)
        network = (read + written) / (cluster.bandwidth * cluster.nodes) if cluster.bandwidth else 0.0
        seconds, bound = max(compute, network), "cores"
        if network > compute:
            bound = "network"
        elif longest > core / slots:
            bound = "few tasks"
        elif slots < cluster.nodes * cluster.cores:
            bound = "memory"
        found.append(
            Phase(
                name=name,
                tasks=sum(stage.tasks for stage in stages),
                bytes_in=sum(stage.bytes_in for stage in stages),
                bytes_out=sum(stage.bytes_out for stage in stages),
                read=read,
                written=written,
                memory=max(stage.memory for stage in stages),
                disk=live + written,
                core_seconds=core,
                seconds=seconds,
                bound=bound,
                cost=seconds / 3600 * cluster.nodes * cluster.price if cluster.price is not None else None,
            )
        )
        live += written - sum(stage.releases for stage in stages)
    return found, problems


def _slots(memory: int, cluster: Cluster) -> int:
    """Tasks of so much memory that the cluster runs at a time."""
    return cluster.nodes * max(1, min(cluster.cores, cluster.memory // max(memory, 1)))
