"""The tasks of `substring`: count the units, find the repeats of a shard by its suffix array, name who keeps them.

A repeat is a window of `length` units within a document whose like stood before, in canonical order. With `keep: first`
its like must end before it begins, so that of "a a a ..." one window stays; with `keep: none` it may stand anywhere in the
shard, and goes too. Every unit that lies in such a window is cut out. (Lee et al. 2022, section 4.1, cut all of them.)

What is cut is recorded in pieces, so that each has one holder: the document of the first of its windows' like. A unit goes
with the first window that it lies in.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.dedup.address import group_of, pack, part_of, read_rows, row_of
from stages.dedup.bff import SPAN, SPAN_KEYS, documents_of, shards_of
from stages.dedup.footprint import WRITER_BYTES
from stages.dedup.holders import HOLDER, HOLDER_KEYS
from stages.dedup.sequence import Units, open_units
from stages.dedup.shuffle import OpenFile, ShuffleWriter, column_values, open_local, read_partition
from stages.dedup.spec import AnyDedup, Substring, read_spec_as
from stages.dedup.tasks import PartToRead
from stages.kernels import substrings
from stages.kernels.bloom import WHOLE
from stages.marks import InFile, OutFile, Setting

SPANS = pa.schema([SPAN.field(name) for name in SPAN_KEYS])
WANTED = pa.schema([pa.field("holder", pa.int64(), nullable=False), *SPANS])
WANTED_KEYS = ("holder", *SPAN_KEYS)
CHUNK_BYTES = 4 << 20  # of the sequence that is looked through at a time, with room for a piece a unit


def count_units(
    spec: Setting[AnyDedup], parts: InFile[Sequence[PartToRead]], open_file: OpenFile = open_local
) -> dict[str, dict[str, list[int]]]:
    """What the shards' sequences take: {part ordinal: {shard: [documents, documents in the sequence, its bytes]}}."""
    settings = read_spec_as(Substring, spec)
    units = open_units(settings, open_file)
    found: dict[str, dict[str, list[int]]] = {}
    for part in parts:
        mine = found.setdefault(str(part["ordinal"]), {})
        for shard in sorted(shards_of(part)):
            sums = np.zeros(3, np.int64)
            for docs, batch in documents_of(part, shard, ["text"], open_file):
                _, sizes = units.sequence(batch.column("text"))
                sums += [len(docs), np.count_nonzero(sizes), sizes.sum()]
            if sums[0]:
                mine[str(shard)] = sums.tolist()
    return found


@dataclass
class _Shard:
    """A shard's sequence; where each of its documents begins in it, and its end; the documents' addresses (int64)."""

    units: Units
    sequence: np.ndarray
    starts: np.ndarray
    address: np.ndarray


@dataclass
class _Pieces:
    """Pieces that go of some documents, and of each document its units and those of them that go; all int64."""

    rows: np.ndarray
    begins: np.ndarray
    ends: np.ndarray
    holders: np.ndarray
    units: np.ndarray
    covered: np.ndarray


def repeats(
    spec: Setting[AnyDedup],
    shard: Setting[int],
    sequence_bytes: Setting[int],
    documents: Setting[int],
    parts: InFile[Sequence[PartToRead]],
    group_starts: Setting[Sequence[int]],
    spans_path: OutFile[str],
    wanted_path: OutFile[str],
    open_file: OpenFile = open_local,
) -> dict[str, int]:
    """Find the repeats of one shard. Writes what goes, by group of the document, and its holders, by their group.

    sequence_bytes, documents: of the sequence, as `count_units` says. Returns sequence_bytes, documents (in the
    sequence), units, repeated (units that lie in a repeat) and pieces.
    """
    settings = read_spec_as(Substring, spec)
    units = open_units(settings, open_file)
    loaded = _load(units, shard, sequence_bytes, documents, parts, open_file)
    first = _first_places(loaded, every=settings.keep == "none")
    held = np.zeros(documents, bool)
    if settings.keep == "first" and settings.min_left:
        for low, high in _chunks(loaded, 0, documents):
            held[_pieces(loaded, first, low, high).holders] = True
    writer = ShuffleWriter(Path(spans_path), len(group_starts), SPANS, SPAN_KEYS, WRITER_BYTES)
    wanted = ShuffleWriter(Path(wanted_path), len(group_starts), WANTED, WANTED_KEYS, WRITER_BYTES)
    total = repeated = count = 0
    for part in parts:
        low, high = _range_of_part(loaded.address, part["ordinal"])
        found = _joined([_pieces(loaded, first, *chunk) for chunk in _chunks(loaded, low, high)])
        total += int(found.units.sum())
        repeated += int(found.covered.sum())
        count += len(found.rows)
        short = (found.covered > 0) & (found.units - found.covered < settings.min_left) & ~held[low:high]
        for doc, start, stop, holder in _spans(loaded, found, np.flatnonzero(short) + low, part, open_file):
            spans = {"doc": doc, "start": start, "stop": stop}
            writer.add(group_of(doc, group_starts), spans)
            named = holder >= 0
            spans = {name: values[named] for name, values in spans.items()} | {"holder": holder[named]}
            wanted.add(group_of(holder[named], group_starts), spans)
    writer.finish()
    wanted.finish()
    return {
        "sequence_bytes": sequence_bytes,
        "documents": documents,
        "units": total,
        "repeated": repeated,
        "pieces": count,
    }


def _load(
    units: Units,
    shard: int,
    sequence_bytes: int,
    documents: int,
    parts: Sequence[PartToRead],
    open_file: OpenFile,
) -> _Shard:
    sequence = np.empty(sequence_bytes, np.uint8)
    starts, address = np.zeros(documents + 1, np.int64), np.empty(documents, np.int64)
    at = row = 0
    for part in parts:
        for docs, batch in documents_of(part, shard, ["text"], open_file):
            piece, sizes = units.sequence(batch.column("text"))
            sequence[at : at + len(piece)] = piece
            docs, sizes = docs[sizes > 0], sizes[sizes > 0]
            address[row : row + len(docs)] = docs
            starts[row + 1 : row + len(docs) + 1] = at + np.cumsum(sizes)
            at += len(piece)
            row += len(docs)
    return _Shard(units, sequence, starts, address)


def _first_places(shard: _Shard, every: bool) -> np.ndarray:
    """For each window that goes, the place of the first of its like at [its own place >> shift]; elsewhere -1.

    int32 in a sequence of less than 2 GiB, else int64. What is not needed of the suffix array any more takes it in; with
    units of one byte, of which all may begin a repeat, it is an array of its own.
    """
    units, size = shard.units, len(shard.sequence)
    if size == 0:
        return np.zeros(0, np.int32)
    from pydivsufsort import divsufsort

    order = divsufsort(shard.sequence)
    small = order.dtype == np.int32
    gather = substrings.gather_32 if small else substrings.gather_64
    found = gather(shard.sequence, order, units.length, units.stride, every)
    needed = -(-size // (1 << units.shift))
    first = order[size - needed :] if units.shift else np.empty(size, order.dtype)
    first.fill(-1)  # behind order[:found]: units of two bytes or more are at most half as many
    (substrings.spread_32 if small else substrings.spread_64)(order[:found], units.shift, every, first)
    return first


def _chunks(shard: _Shard, low: int, high: int) -> Iterator[tuple[int, int]]:
    """Documents low to high in runs of about `CHUNK_BYTES`."""
    while low < high:
        until = int(np.searchsorted(shard.starts, shard.starts[low] + CHUNK_BYTES, side="right")) - 1
        until = min(high, max(until, low + 1))
        yield low, until
        low = until


def _range_of_part(address: np.ndarray, ordinal: int) -> tuple[int, int]:
    none = np.array(0)
    low, high = np.searchsorted(address, [pack(ordinal, none), pack(ordinal + 1, none)])
    return int(low), int(high)


def _pieces(shard: _Shard, first: np.ndarray, low: int, high: int) -> _Pieces:
    room = int(shard.starts[high] - shard.starts[low]) >> shard.units.shift
    arrays = [np.empty(room, np.int64) for _ in range(4)] + [np.empty(high - low, np.int64) for _ in range(2)]
    kernel = substrings.pieces_32 if first.dtype == np.int32 else substrings.pieces_64
    units = shard.units
    count = kernel(shard.sequence, shard.starts, low, high, first, units.length, units.stride, units.shift, *arrays)
    return _Pieces(*(a[:count].copy() for a in arrays[:4]), *arrays[4:])


def _joined(chunks: Sequence[_Pieces]) -> _Pieces:
    names = list(_Pieces.__dataclass_fields__)
    return _Pieces(*(np.concatenate([np.zeros(0, np.int64), *(getattr(c, name) for c in chunks)]) for name in names))


def _spans(
    shard: _Shard, found: _Pieces, short: np.ndarray, part: PartToRead, open_file: OpenFile
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]]:
    """What goes of a part's documents: addresses, bytes from and to, and the holders' addresses (-1: none), int64.

    short: documents that go as a whole; they have one span more, with the holder of their first piece.
    """
    documents, first = np.unique(found.rows, return_index=True)
    if not len(documents):
        return
    first = np.append(first, len(found.rows))
    holder = np.where(found.holders >= 0, shard.address[found.holders], -1)
    with open_file(part["path"]) as file:
        for piece, batch in read_rows(file, part["path"], ["text"], row_of(shard.address[documents])):
            here = slice(first[piece.start], first[piece.stop])
            rows = np.searchsorted(documents[piece], found.rows[here])
            start, stop = shard.units.spans(batch.column("text"), rows, found.begins[here], found.ends[here])
            some = stop > start
            doc, whole = shard.address[found.rows[here]], np.intersect1d(documents[piece], short)
            head = holder[first[np.searchsorted(documents, whole)]]
            yield (
                np.concatenate([doc[some], shard.address[whole]]),
                np.concatenate([start[some], np.zeros(len(whole), np.int64)]),
                np.concatenate([stop[some], np.full(len(whole), WHOLE)]),
                np.concatenate([holder[here][some], head]),
            )


def name_holders(
    group: Setting[int],
    parts: InFile[Sequence[PartToRead]],
    wanted_paths: InFile[Sequence[str]],
    group_starts: Setting[Sequence[int]],
    out_path: OutFile[str],
    open_file: OpenFile = open_local,
) -> int:
    """Look up the ids of the holders that lie in one group of parts, a shard at a time. Returns rows written."""
    writer = ShuffleWriter(Path(out_path), len(group_starts), HOLDER, HOLDER_KEYS, WRITER_BYTES)
    by_ordinal = {part["ordinal"]: part for part in parts}
    for path in wanted_paths:
        table = read_partition([path], group, WANTED, WANTED_KEYS, open_file)
        holders, first = np.unique(column_values(table, "holder"), return_index=True)
        first = np.append(first, table.num_rows)
        for ordinal in np.unique(part_of(holders)).tolist():
            part = by_ordinal[ordinal]
            low, high = _range_of_part(holders, ordinal)
            with open_file(part["path"]) as file:
                for piece, batch in read_rows(file, part["path"], ["id"], row_of(holders[low:high])):
                    begin, end = first[low + piece.start], first[low + piece.stop]
                    mine = table.slice(begin, end - begin)
                    place = np.repeat(
                        np.arange(batch.num_rows), np.diff(first[low + piece.start : low + piece.stop + 1])
                    )
                    columns = {name: column_values(mine, name) for name in WANTED.names}
                    columns |= {
                        "holder_id": batch.column("id").take(pa.array(place)),
                        "holder_source": pa.repeat(pa.scalar(part["source"], pa.large_string()), mine.num_rows),
                    }
                    writer.add(group_of(columns["doc"], group_starts), columns)
    return writer.finish()
