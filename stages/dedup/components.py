"""Connected components of the graph of copies, without one machine that holds the graph.

Alternating large-star and small-star (Kiveris et al., "Connected Components in MapReduce and Beyond", SoCC 2014), each
a phase of tasks over partitions of edges. Every node's edges lie together in one partition. The rounds end when each
component is a star around its smallest node: the first document of a cluster in canonical order.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from stages.dedup.edges import EDGE, EDGE_KEYS, EdgeWriter, distinct
from stages.dedup.shuffle import OpenFile, column_values, open_local, read_partition
from stages.marks import HowMuch, InFile, OutFile, Setting


def _edges(files: Sequence[str], partition: int, open_file: OpenFile) -> tuple[np.ndarray, np.ndarray]:
    table: pa.Table = distinct(read_partition(files, partition, EDGE, EDGE_KEYS, open_file))
    return column_values(table, "node"), column_values(table, "other")


def _least_of_node(node: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For edges sorted by node: the mask of each node's first edge, and for each edge its node's least neighbour."""
    first = np.ones(len(node), bool)
    first[1:] = node[1:] != node[:-1]
    return first, other[first][np.cumsum(first) - 1]


def large_star(
    partitions: Setting[int],
    which: Setting[Sequence[int]],
    edges_paths: InFile[Sequence[str]],
    out_path: OutFile[str],
    memory: HowMuch[int],
    open_file: OpenFile = open_local,
) -> dict[str, int]:
    """Link the larger neighbours of each node to the least of its neighbours and itself.

    Reads edges at both ends; writes (larger, smaller) at the larger. Returns `unsettled`, the nodes that still keep
    their component from being a star (those with smaller and larger neighbours, or with two smaller ones), and edges.
    Where the unsettled of all tasks sum to 0, what was written is the result: (document, the first of its cluster).
    """
    writer = EdgeWriter(out_path, partitions, memory)
    unsettled = 0
    for partition in which:
        node, other = _edges(edges_paths, partition, open_file)
        if not len(node):
            continue
        first, least = _least_of_node(node, other)
        larger = other > node
        writer.add_directed(other[larger], np.minimum(least, node)[larger])
        starts = np.flatnonzero(first)
        smaller_count = np.add.reduceat((~larger).astype(np.int64), starts)
        larger_count = np.add.reduceat(larger.astype(np.int64), starts)
        unsettled += int(((smaller_count > 1) | ((smaller_count == 1) & (larger_count > 0))).sum())
    return {"unsettled": unsettled, "edges": writer.finish()}


def small_star(
    partitions: Setting[int],
    which: Setting[Sequence[int]],
    edges_paths: InFile[Sequence[str]],
    out_path: OutFile[str],
    memory: HowMuch[int],
    open_file: OpenFile = open_local,
) -> dict[str, int]:
    """Link each node and its smaller neighbours to the least of them.

    Reads (larger, smaller) at the larger, as `large_star` writes it; writes edges at both ends. Returns edges.
    """
    writer = EdgeWriter(out_path, partitions, memory)
    for partition in which:
        node, other = _edges(edges_paths, partition, open_file)
        if not len(node):
            continue
        first, least = _least_of_node(node, other)
        writer.add(node[first], other[first])
        writer.add(other[~first], least[~first])
    return {"edges": writer.finish()}
