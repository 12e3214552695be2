"""Which document of each cluster stays, and for which kept document each of the others goes.

With `keep: first` and no verification the stars of the components are the answer. Else the members' lengths or
measures (and n-grams, to verify) are read from their parts and brought together by cluster.

Verification is by true Jaccard similarity of the sets of n-grams: members are taken in order of preference, and each
one goes only for a kept one it is similar enough to, else it is kept itself. So a chain A ~ B ~ C whose ends differ
keeps A and C, and copies of C go for C.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.dedup.address import group_of, pack, read_rows, row_of
from stages.dedup.edges import EDGE, EDGE_KEYS, distinct, node_partition
from stages.dedup.normalize import normalize
from stages.dedup.shuffle import OpenFile, ShuffleWriter, column_values, open_local, read_partition
from stages.dedup.spec import AnyDedup, MinHash, read_clustered
from stages.dedup.tasks import PartToRead
from stages.document import text_buffers
from stages.kernels.minhash import choose_verified, ngram_hashes
from stages.marks import HowMuch, InFile, OutFile, Setting

# In `members`, node is the document and other its cluster, named by the cluster's first document.
NGRAMS = pa.large_list(pa.uint64())
MEASURED = pa.schema(
    [
        pa.field("cluster", pa.int64(), nullable=False),
        pa.field("doc", pa.int64(), nullable=False),
        pa.field("value", pa.float64()),
        pa.field("ngrams", NGRAMS),
    ]
)
CHOSEN = pa.schema([pa.field("kept", pa.int64(), nullable=False), pa.field("doc", pa.int64(), nullable=False)])


def needs_members(spec: AnyDedup) -> bool:
    """Whether the phases `members` and `measure` come before `choose`."""
    settings = read_clustered(spec)
    return settings.keep != "first" or getattr(settings, "verify", None) is not None


def members(
    which: Setting[Sequence[int]],
    stars_paths: InFile[Sequence[str]],
    group_starts: Setting[Sequence[int]],
    out_path: OutFile[str],
    memory: HowMuch[int],
    open_file: OpenFile = open_local,
) -> int:
    """Send all members of clusters, (document, cluster), to the group of parts that they lie in. Returns rows."""
    writer = ShuffleWriter(Path(out_path), len(group_starts), EDGE, EDGE_KEYS, memory, distinct)
    for partition in which:
        table = read_partition(stars_paths, partition, EDGE, EDGE_KEYS, open_file)
        doc, cluster = column_values(table, "node"), column_values(table, "other")
        heads = np.unique(cluster)
        doc, cluster = np.concatenate([doc, heads]), np.concatenate([cluster, heads])
        writer.add(group_of(doc, group_starts), {"node": doc, "other": cluster})
    return writer.finish()


def measure(
    spec: Setting[AnyDedup],
    group: Setting[int],
    parts: InFile[Sequence[PartToRead]],
    members_paths: InFile[Sequence[str]],
    partitions: Setting[int],
    out_path: OutFile[str],
    open_file: OpenFile = open_local,
) -> int:
    """Read what the choice hangs on of the clusters' members in one group of parts. Returns rows."""
    settings = read_clustered(spec)
    compared = settings if isinstance(settings, MinHash) and settings.verify is not None else None
    columns = [settings.best] if settings.keep == "best" and settings.best else []
    if compared or settings.keep == "longest":
        columns.append("text")
    writer = ShuffleWriter(Path(out_path), partitions, MEASURED, ("cluster", "doc"), settings.memory)
    table = distinct(read_partition(members_paths, group, EDGE, EDGE_KEYS, open_file))
    docs, clusters = column_values(table, "node"), column_values(table, "other")
    for part in parts:
        begin, end = np.searchsorted(docs, [pack(part["ordinal"], np.array(0)), pack(part["ordinal"] + 1, np.array(0))])
        if begin == end:
            continue
        with open_file(part["path"]) as file:
            for piece, batch in read_rows(file, part["path"], columns, row_of(docs[begin:end])):
                doc, cluster = docs[begin:end][piece], clusters[begin:end][piece]
                ngrams = ngram_sets(batch.column("text"), compared) if compared else pa.nulls(len(doc), NGRAMS)
                out = {"cluster": cluster, "doc": doc, "value": _values(batch, settings), "ngrams": ngrams}
                writer.add(node_partition(cluster, partitions), out)
    return writer.finish()


def _values(batch: pa.RecordBatch, settings: Any) -> pa.Array:
    """What is greatest in the document to keep, float64; all 0 with `keep: first`."""
    if settings.keep == "longest":
        offsets = text_buffers(batch.column("text"))[1]
        return pa.array((offsets[1:] - offsets[:-1]).astype(np.float64))
    if settings.keep == "best":
        return batch.column(settings.best).cast(pa.float64())
    return pa.array(np.zeros(batch.num_rows))


def ngram_sets(texts: pa.Array, spec: MinHash) -> pa.Array:
    """The set of 64-bit n-gram hashes of each text: large_list<uint64>, sorted."""
    data, offsets = normalize(*text_buffers(texts), spec.normalize)
    values = np.empty((int(offsets[-1] - offsets[0]) + 1) // 2 + len(offsets), np.uint64)
    list_offsets = np.empty(len(offsets), np.int64)
    count = ngram_hashes(data, offsets, spec.ngram, values, list_offsets)
    return pa.LargeListArray.from_arrays(*map(pa.array, sorted_sets(values[:count], list_offsets)))


def sorted_sets(values: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lists values[offsets[i]:offsets[i + 1]] as sets: (offsets, values), each sorted and without repetition."""
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((values, rows))
    values, rows = values[order], rows[order]
    fresh = np.ones(len(values), bool)
    fresh[1:] = (values[1:] != values[:-1]) | (rows[1:] != rows[:-1])
    return np.searchsorted(rows[fresh], np.arange(len(offsets))), values[fresh]


def choose(
    spec: Setting[AnyDedup],
    which: Setting[Sequence[int]],
    paths: InFile[Sequence[str]],
    group_starts: Setting[Sequence[int]],
    out_path: OutFile[str],
    open_file: OpenFile = open_local,
) -> int:
    """Decide who stays; write (kept, document that goes for it) to the group of parts of the kept one.

    `paths` are the files of `measure`, or, where `needs_members` is false, of the last `large_star`. Returns how many
    documents go.
    """
    settings = read_clustered(spec)
    writer = ShuffleWriter(Path(out_path), len(group_starts), CHOSEN, ("kept", "doc"), settings.memory)
    for partition in which:
        if needs_members(spec):
            table = read_partition(paths, partition, MEASURED, ("cluster", "doc"), open_file)
            doc, kept = _choose_measured(table, settings)
        else:
            table = read_partition(paths, partition, EDGE, EDGE_KEYS, open_file)
            doc, kept = column_values(table, "node"), column_values(table, "other")
        writer.add(group_of(kept, group_starts), {"kept": kept, "doc": doc})
    return writer.finish()


def _choose_measured(table: pa.Table, settings: Any) -> tuple[np.ndarray, np.ndarray]:
    """(documents that go, the kept document of each) among the clusters of a table sorted by cluster and document."""
    value = column_values(table, "value").astype(np.float64)
    value = np.where(np.isnan(value), -np.inf, value)
    # Stable sorts: by cluster, then greatest value first, then canonical order.
    order = np.argsort(-value, kind="stable")
    order = order[np.argsort(column_values(table, "cluster")[order], kind="stable")]
    table = table.take(pa.array(order))
    cluster, doc = column_values(table, "cluster"), column_values(table, "doc")
    first = np.ones(len(cluster), bool)
    first[1:] = cluster[1:] != cluster[:-1]
    if isinstance(settings, MinHash) and settings.verify is not None:
        sets = table.column("ngrams").combine_chunks()
        sets = sets.chunk(0) if isinstance(sets, pa.ChunkedArray) else sets
        offsets = np.ascontiguousarray(sets.offsets.to_numpy())
        kept = np.empty(len(doc), np.int64)
        starts = np.append(np.flatnonzero(first), len(doc)).astype(np.int64)
        choose_verified(starts, sets.values.to_numpy(), offsets, settings.verify, settings.verify_against, kept)
    else:
        kept = np.flatnonzero(first)[np.cumsum(first) - 1]
    goes = kept != np.arange(len(doc))
    return doc[goes], doc[kept[goes]]
