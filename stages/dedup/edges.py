"""Edges of the graph of copies: which documents were found to be copies of which, as shuffle files of pairs.

An edge is kept at both its ends: (node, other) in the partition of `node`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.dedup.shuffle import ShuffleWriter, column_values
from stages.kernels.hashing import partition_of_document

EDGE = pa.schema([pa.field("node", pa.int64(), nullable=False), pa.field("other", pa.int64(), nullable=False)])
EDGE_KEYS = ("node", "other")


def node_partition(nodes: np.ndarray, partitions: int) -> np.ndarray:
    """The partition (int32) in which the edges of each node (a document's address) are brought together."""
    out = np.empty(len(nodes), np.int32)
    partition_of_document(np.ascontiguousarray(nodes), partitions, out)
    return out


def distinct(table: pa.Table) -> pa.Table:
    """A sorted table of edges without repetition."""
    node, other = column_values(table, "node"), column_values(table, "other")
    fresh = np.ones(len(node), bool)
    fresh[1:] = (node[1:] != node[:-1]) | (other[1:] != other[:-1])
    return table if fresh.all() else table.filter(pa.array(fresh))


class EdgeWriter:
    """Writes one shuffle file of edges."""

    def __init__(self, path: str | Path, partitions: int, memory: int) -> None:
        self.partitions = partitions
        self.writer = ShuffleWriter(Path(path), partitions, EDGE, EDGE_KEYS, memory, distinct)

    def add_directed(self, node: np.ndarray, other: np.ndarray) -> None:
        """Pairs for the partition of `node` alone."""
        self.writer.add(node_partition(node, self.partitions), {"node": node, "other": other})

    def add(self, a: np.ndarray, b: np.ndarray) -> None:
        """Undirected edges between different documents; pairs of a document with itself are left out."""
        apart = a != b
        if not apart.all():
            a, b = a[apart], b[apart]
        self.add_directed(a, b)
        self.add_directed(b, a)

    def finish(self) -> int:
        """Write the file; returns its rows."""
        return self.writer.finish()


def stars(table: pa.Table, columns: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Groups of equal keys in a table sorted by `columns`, then by `doc`, as stars around their first document.

    Returns (mask of each group's first row, member documents, the first document of each one's group): as many edges
    as documents have a predecessor, however large a group is.
    """
    doc = column_values(table, "doc")
    first = np.zeros(len(doc), bool)
    first[:1] = True
    for name in columns:
        values = column_values(table, name)
        first[1:] |= values[1:] != values[:-1]
    centre = doc[first][np.cumsum(first) - 1]
    return first, doc[~first], centre[~first]
