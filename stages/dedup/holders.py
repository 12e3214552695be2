"""For everything that a filter removed: which document held its n-grams, or the paragraph, first, and so stays for it.

A Bloom filter names nobody, so the texts are read once more: of each removed piece one n-gram that the filter held is
looked for in what was inserted. Its first holder in canonical order is the representative. None is found for a false
positive, and for n-grams that a saved filter brought along.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.dedup.address import group_of
from stages.dedup.bff import SPAN, SPAN_KEYS, documents_of, hash_texts
from stages.dedup.shuffle import OpenFile, ShuffleWriter, column_values, open_local, read_partition
from stages.dedup.spec import AnyDedup, Filtering, read_filtering
from stages.dedup.tasks import PartToRead
from stages.kernels.bloom import WHOLE, first_holders
from stages.marks import InFile, OutFile, Setting

HOLDER = pa.schema(
    [
        *(SPAN.field(name) for name in SPAN_KEYS),
        pa.field("holder", pa.int64(), nullable=False),  # its address
        pa.field("holder_id", pa.large_string(), nullable=False),
        pa.field("holder_source", pa.large_string(), nullable=False),
    ]
)
HOLDER_KEYS = (*SPAN_KEYS, "holder")


def holders(
    spec: Setting[AnyDedup],
    group: Setting[int],
    shard: Setting[int],
    parts: InFile[Sequence[PartToRead]],
    spans_path: InFile[str],
    group_starts: Setting[Sequence[int]],
    out_path: OutFile[str],
    open_file: OpenFile = open_local,
) -> int:
    """Look in one group of parts for the n-grams of all that one shard lost here and later. Returns rows written.

    Each span gets at most one row: the first document here that inserted its n-gram.
    """
    settings = read_filtering(spec)
    writer = ShuffleWriter(Path(out_path), len(group_starts), HOLDER, HOLDER_KEYS, settings.witness_memory)
    mine = read_partition([spans_path], group, SPAN, SPAN_KEYS, open_file)
    for spans in _spans_from(spans_path, group, len(group_starts), settings.witness_memory, open_file):
        spans = spans.filter(pa.array(column_values(spans, "old") == 0))  # else an older run's filter held it
        probes = column_values(spans, "probe")
        wanted, which = np.unique(probes, return_inverse=True)
        found, ids, sources = _find(settings, shard, parts, mine, wanted, open_file)
        named = np.flatnonzero(found[which] >= 0)
        place = pa.array(which[named])
        doc = column_values(spans, "doc")[named]
        writer.add(
            group_of(doc, group_starts),
            {
                "doc": doc,
                "start": column_values(spans, "start")[named],
                "stop": column_values(spans, "stop")[named],
                "holder": found[which[named]],
                "holder_id": ids.take(place),
                "holder_source": sources.take(place),
            },
        )
    return writer.finish()


def _spans_from(path: str, group: int, groups: int, memory: int, open_file: OpenFile) -> Iterator[pa.Table]:
    """The spans of this and all later groups, about `memory` bytes at a time."""
    waiting: list[pa.Table] = []
    for g in range(group, groups):
        block = read_partition([path], g, SPAN, SPAN_KEYS, open_file)
        if block.num_rows:
            waiting.append(block)
        if sum(t.nbytes for t in waiting) >= memory:
            yield pa.concat_tables(waiting).combine_chunks()
            waiting = []
    if waiting:
        yield pa.concat_tables(waiting).combine_chunks()


def _find(
    spec: Filtering,
    shard: int,
    parts: Sequence[PartToRead],
    removed: pa.Table,
    wanted: np.ndarray,
    open_file: OpenFile,
) -> tuple[np.ndarray, pa.Array, pa.Array]:
    """For each wanted n-gram the first document here that inserted it: address or -1, id and source or null."""
    found = np.full(len(wanted), -1, np.int64)
    size = 1 << max(10, int(16 * len(wanted)).bit_length())
    hints = np.zeros(size, np.uint8)
    hints[(wanted & np.uint64(size - 1)).astype(np.int64)] = 1
    doc, start, stop = (column_values(removed, name) for name in SPAN_KEYS)
    paragraphs = (stop != WHOLE) if spec.cuts else np.ones(len(doc), bool)
    doc, start = doc[paragraphs], start[paragraphs]
    pieces: list[tuple[np.ndarray, pa.Array, str]] = []
    for part in parts:
        for docs, batch in documents_of(part, shard, ["id", "text"], open_file):
            hashed = hash_texts(batch.column("text"), spec)
            stays = _inserted_units(hashed.offsets, hashed.unit_stops, hashed.document_reaches, docs, doc, start)
            holders = np.where(found >= 0, np.int64(0), np.int64(-1))
            first_holders(
                hashed.hashes, hashed.unit_reaches, hashed.document_reaches, stays, wanted, hints, holders
            )
            fresh = np.flatnonzero((found < 0) & (holders >= 0))
            if len(fresh):
                found[fresh] = docs[holders[fresh]]
                pieces.append((fresh, batch.column("id").take(pa.array(holders[fresh])), part["source"]))
    ids = pa.nulls(len(wanted), pa.large_string())
    sources = pa.nulls(len(wanted), pa.large_string())
    if pieces:
        order = np.full(len(wanted), -1, np.int64)
        order[np.concatenate([p[0] for p in pieces])] = np.arange(sum(len(p[0]) for p in pieces))
        place = pa.array(order, mask=order < 0)
        ids = pa.concat_arrays([p[1] for p in pieces]).take(place)
        names = [pa.repeat(pa.scalar(source, pa.large_string()), len(rows)) for rows, _, source in pieces]
        sources = pa.concat_arrays(names).take(place)
    return found, ids, sources


def _inserted_units(
    offsets: np.ndarray,
    unit_stops: np.ndarray,
    document_reaches: np.ndarray,
    docs: np.ndarray,
    removed_doc: np.ndarray,
    removed_start: np.ndarray,
) -> np.ndarray:
    """1 for each unit (of documents `docs`) that was not removed, uint8. What was is sorted by document and start."""
    stays = np.ones(len(unit_stops), np.uint8)
    begin, end = np.searchsorted(removed_doc, [docs[0], docs[-1] + 1])
    if begin == end:
        return stays
    first_unit = np.append(0, document_reaches[:-1])
    starts = np.append(0, unit_stops[:-1])
    has_units = document_reaches > first_unit
    starts[first_unit[has_units]] = offsets[:-1][has_units]
    row = np.searchsorted(docs, removed_doc[begin:end])
    stays[np.searchsorted(starts, offsets[row] + removed_start[begin:end])] = 0
    return stays
