"""From core time to hours and money: a cluster of equal nodes, given by its size, memory, price and network.

Of a node's memory Ray keeps OBJECT_STORE for its object store (unless `ray start --object-store-memory` says otherwise), and
hands out the rest to tasks. What sources take from the hub or from web servers has a bandwidth of its own, that of the
whole cluster. Requests to the storage, and what lies there, have prices.
"""

from __future__ import annotations

import os

import msgspec

from pipeline.forecast.stages import READ, Forecast, Stage
from pipeline.size import machine_memory
from stages.units import show_bytes


class Cluster(msgspec.Struct, frozen=True):
    """nodes with so many cores and bytes of memory each; price of a node-hour; bytes a second between node and storage."""

    nodes: int
    cores: int
    memory: int
    price: float | None = None
    bandwidth: float | None = None
    outside: float | None = None  # bytes a second, of the whole cluster, from the hub and from web servers
    requests: tuple[float, float] | None = None  # prices of a million requests that read, and that write
    storage: float | None = None  # price of a TB for a month

    @property
    def task_memory(self) -> int:
        """Bytes of a node that tasks may take."""
        return int(self.memory * (1 - OBJECT_STORE))


OBJECT_STORE = 0.3  # Ray's default (ray.ray_constants.DEFAULT_OBJECT_STORE_MEMORY_PROPORTION)
READ_BYTES = 8 << 20  # a request that reads, at most
WRITE_BYTES = 16 << 20  # a part of an upload
OPENINGS = 3  # requests of a task besides: what its files are, and their footers
FILES_WRITTEN = 2  # by a task that writes
MONTH_HOURS = 730
SHARED = 0.8  # of the work that threads which share a filter would do if each had one of its own (docs/dedup.md)


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
    scratch: int  # of a node, at most, for what its tasks read and write of the run's folder while that is elsewhere
    core_seconds: float
    seconds: float
    bound: str  # what the time goes with: cores, memory, few tasks, network, sources
    cost: float | None  # of the nodes
    requests: tuple[int, int]  # to the storage: that read, and that write


def phases(forecast: Forecast, cluster: Cluster) -> tuple[list[Phase], list[str]]:
    """The phases in order on this cluster, and what does not fit on it."""
    grouped: dict[str, list[Stage]] = {}
    for stage in forecast.stages:
        grouped.setdefault(stage.phase, []).append(stage)
    found, problems, live = [], [], 0
    for name, stages in grouped.items():
        for stage in stages:
            if stage.memory > cluster.task_memory:
                problems.append(
                    f"{name} ({stage.source}): a task needs {show_bytes(stage.memory)} of memory, a node has "
                    f"{show_bytes(cluster.task_memory)} for tasks; "
                    "take larger nodes, or cut the work smaller (bff: more shards; other dedups: less memory)"
                )
        cores = min(max(stage.cores for stage in stages), cluster.cores)
        slots = _slots(max(stage.memory for stage in stages), cores, cluster)
        core = sum(stage.core_seconds for stage in stages) / (1.0 if cores == 1 else SHARED)
        core += sum(stage.start_seconds * min(stage.tasks, slots) for stage in stages)
        longest = max(stage.core_seconds * max(stage.longest, 1 / max(stage.tasks, 1)) for stage in stages)
        longest /= 1.0 if cores == 1 else SHARED * cores
        compute = max(core / (slots * cores), longest)
        read, written = sum(stage.read for stage in stages), sum(stage.written for stage in stages)
        network = (read + written) / (cluster.bandwidth * cluster.nodes) if cluster.bandwidth else 0.0
        outside = sum(stage.outside for stage in stages) / cluster.outside if cluster.outside else 0.0
        seconds, bound = max(compute, network, outside), "cores"
        if outside > max(compute, network):
            bound = "sources"
        elif network > compute:
            bound = "network"
        elif longest > core / (slots * cores):
            bound = "few tasks"
        elif slots * cores < cluster.nodes * (cluster.cores // cores * cores):
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
                scratch=max(_scratch(stage, slots // cluster.nodes) for stage in stages),
                core_seconds=core,
                seconds=seconds,
                bound=bound,
                cost=seconds / 3600 * cluster.nodes * cluster.price if cluster.price is not None else None,
                requests=_requests(stages),
            )
        )
        live += written - sum(stage.releases for stage in stages)
    return found, problems


def _scratch(stage: Stage, slots: int) -> int:
    """Bytes of a node's disk that so many tasks of a stage take: as they state it, else the files of the run that they read,
    and those that they write."""
    at_once = min(slots, stage.tasks)
    if stage.scratch:
        return stage.scratch * at_once
    read = stage.read - stage.outside if stage.phase != READ else 0
    unevenness = max(1.0, stage.longest * stage.tasks)
    return min(read + stage.written, int((read + stage.written) / max(stage.tasks, 1) * unevenness * at_once))


def _slots(memory: int, cores: int, cluster: Cluster) -> int:
    """Tasks of so much memory and so many cores that the cluster runs at a time."""
    return cluster.nodes * max(1, min(cluster.cores // cores, cluster.task_memory // max(memory, 1)))


def _requests(stages: list[Stage]) -> tuple[int, int]:
    """About how many requests to the storage the stages make: to read, and to write."""
    inside = sum(stage.read - stage.outside for stage in stages)
    reads = sum(stage.tasks for stage in stages) * OPENINGS + inside // READ_BYTES
    writes = sum(max(stage.tasks * FILES_WRITTEN, stage.written // WRITE_BYTES) for stage in stages if stage.written)
    return reads, writes


def other_costs(found: list[Phase], cluster: Cluster) -> tuple[float | None, float | None]:
    """What requests to the storage cost, and what lies there while the run goes on; None without a price."""
    requests = storage = None
    if cluster.requests is not None:
        requests = sum(p.requests[0] * cluster.requests[0] + p.requests[1] * cluster.requests[1] for p in found) / 1e6
    if cluster.storage is not None:
        storage = sum(p.disk / 1e12 * p.seconds / 3600 / MONTH_HOURS * cluster.storage for p in found)
    return requests, storage
