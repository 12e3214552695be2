"""Puts segments together: those with more garbage than records that hold, and small ones where there are many.

A new segment lands whole, under a name of its own, and says which ones it stands for; only then are those removed. Until
then they do not count beside it. So a kill at any moment loses nothing and doubles nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import BinaryIO

from pipeline import storage
from pipeline.ledger.entry import Forget, Record, Release
from pipeline.ledger.index import Builder, encode_index
from pipeline.ledger.lines import Header, encode, header_line
from pipeline.ledger.segment import INDEX, LOG, Name, Segment, Spill, join_covers
from pipeline.ledger.table import RELEASED, Table
from pipeline.ledger.tail import INDEX_FROM, SEGMENT_BYTES

GARBAGE_FROM = 1 << 20  # bytes of records below which garbage is left
MANY = 16  # small segments


@dataclass
class Written:
    """A segment being written: what it stands for, and where each entry will lie."""

    uri: str
    old: list[int]
    header: Header
    file: BinaryIO
    builder: Builder = field(default_factory=Builder)
    size: int = 0  # of records
    rows: list[tuple[int, int, int]] = field(default_factory=list)  # row, offset, length
    bases: list[tuple[str, int, int]] = field(default_factory=list)

    def put(self, record: Record, data: bytes) -> int:
        """Add a record, whose line is given; returns its offset."""
        self.builder.take(record, self.size, len(data))
        self.file.write(data)
        self.size += len(data)
        return self.size - len(data)


def due(segments: list[Segment], order: list[int], table: Table) -> tuple[list[list[int]], bool]:
    """Groups of segments, each to be written as one; and True where that is all of them.

    order: numbers of the segments that count, oldest first.
    """
    total = sum(segments[n].bytes for n in order)
    live = sum(table.live_bytes[n] for n in order)
    if total >= GARBAGE_FROM and 2 * live < total:
        return _groups([order], table), True
    small = [n for n in order if segments[n].bytes < SEGMENT_BYTES // 4]
    if len(small) <= MANY:
        return [], False
    chains: list[list[int]] = [[]]
    for number in order:
        if segments[number].bytes < SEGMENT_BYTES // 4:
            chains[-1].append(number)
        elif chains[-1]:
            chains.append([])
    return [group for group in _groups(chains, table) if len(group) > 1], False


def _groups(chains: list[list[int]], table: Table) -> list[list[int]]:
    """Each chain cut into groups of about one segment's size."""
    found: list[list[int]] = []
    for chain in chains:
        size = SEGMENT_BYTES
        for number in chain:
            if size >= SEGMENT_BYTES:
                found.append([])
                size = 0
            found[-1].append(number)
            size += table.live_bytes[number]
    return found


def compact(
    folder: str, segments: list[Segment], order: list[int], table: Table, next_name: Callable[[], Name], spill: Spill
) -> list[int]:
    """Write what is due. Returns the new order. spill: where remote segments are copied when they are read."""
    groups, whole = due(segments, order, table)
    rows_of = _rows(table, {n for group in groups for n in group})
    for group in groups:
        header = _header(group, segments, next_name())
        first = header_line(header)
        uri = f"{folder}/{_own(header)}{LOG}"
        with storage.open_output(uri) as path, path.open("wb") as file:
            file.write(first)
            written = Written(uri, group, header, file)
            # Where older segments stay as they are, what was forgotten of them and let go has to be said again; first,
            # because all entries that follow were added later.
            for record in () if whole or group[0] == order[0] else _marks(group, segments):
                written.put(record, encode(record))
            _copy(written, group, segments, table, rows_of)
        order = _replace(written, segments, order, table, len(first), spill)
    return order


def _own(header: Header) -> Name:
    epoch, writer, _, last = max(header.covers)
    return Name(epoch, last, writer)


def _header(group: list[int], segments: list[Segment], name: Name) -> Header:
    covers = [cover for n in group for cover in segments[n].header.covers]
    return Header(1, join_covers([*covers, *name.header().covers]), max(segments[n].header.at for n in group))


def _rows(table: Table, wanted: set[int]) -> dict[int, list[int]]:
    """Rows that hold, by segment."""
    found: dict[int, list[int]] = {number: [] for number in wanted}
    for row in table.live_rows() if wanted else ():
        if (number := table.segment[row]) in found:
            found[number].append(row)
    return found


def _marks(group: list[int], segments: list[Segment]) -> list[Record]:
    found: list[Record] = []
    for number in group:
        for mark in segments[number].marks:
            found += [Forget(mark.forget)] if mark.forget else []
            found += [Release(mark.release)] if mark.release else []
    return found


def _copy(
    written: Written,
    group: list[int],
    segments: list[Segment],
    table: Table,
    rows_of: dict[int, list[int]],
) -> None:
    """Bases and entries that hold, in order; what was let go of an entry now stands in it."""
    for name, (number, offset, length) in table.bases.items():
        if number in group:
            basis, data = segments[number].basis(offset, length), segments[number].read(offset, length)
            written.bases.append((name, written.put(basis, data), len(data)))
    for number in group:
        segment = segments[number]
        for row in rows_of[number]:
            offset, length = table.offset[row], table.length[row]
            entry, data = segment.entry(offset, length), segment.read(offset, length)
            states = table.states(row)
            if states.count(RELEASED) != len(entry.released):
                entry.released = [o.path for o, state in zip(entry.outputs, states, strict=True) if state == RELEASED]
                data = encode(entry)
            written.rows.append((row, written.put(entry, data), len(data)))


def _replace(
    written: Written, segments: list[Segment], order: list[int], table: Table, base: int, spill: Spill
) -> list[int]:
    """The new segment has landed: its entries are read from it, and the old files go."""
    local = storage.is_local(written.uri)
    index = written.builder.build(written.header, base, base + written.size)
    if local or written.size >= INDEX_FROM:
        storage.write_bytes(written.uri.removesuffix(LOG) + INDEX, encode_index(index))
    new = Segment(written.uri, [_own(written.header)], written.header, written.size, base, marks=index.marks)
    new.attach(spill)
    number = len(segments)
    segments.append(new)
    table.live_bytes.append(0)
    for row, offset, length in written.rows:
        table.move(row, number, offset, length)
    for name, offset, length in written.bases:
        table.bases[name] = (number, offset, length)
    old = [segments[n] for n in written.old]
    folder = written.uri.rpartition("/")[0]
    storage.delete_many(f"{folder}/{name}{suffix}" for s in old for name in s.names for suffix in (LOG, INDEX))
    for segment in old:
        segment.close()
    place = order.index(written.old[0])
    return [*order[:place], number, *order[place + len(old) :]]
