"""All entries of a ledger as columns in memory, about 250 bytes each: where each lies, and what became of its outputs.

A row is one entry as it was added; only the last one of a key holds. Paths, Refs and `similar` are kept as 64-bit hashes:
what is found by them is checked against the entry itself where a mistake would matter.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator

import numpy as np

from pipeline.ledger.entry import Entry, similar_hash
from pipeline.ledger.index import Index, unit_of
from pipeline.ledger.lookup import Lookup

# States of an output. Unknown: its folder was not listed yet. Absent: not there, or not in the size that was written.
UNKNOWN, PRESENT, ABSENT, RELEASED = range(4)


class Table:
    """Rows of entries, and rows of their outputs; an entry's outputs are those from first[row] to first[row + 1]."""

    def __init__(self) -> None:
        self.rows: dict[bytes, int] = {}  # key -> row; of entries that hold
        self.segment, self.offset, self.length = array("I"), array("Q"), array("I")
        self.ref, self.similar = array("q"), array("q")
        self.first = array("I", [0])
        self.alive = bytearray()
        self.path, self.size, self.unit = array("q"), array("q"), array("I")
        self.state = bytearray()
        self.units: dict[str, int] = {}
        self.live_bytes: list[int] = []  # of lines, by segment
        self.bases: dict[str, tuple[int, int, int]] = {}  # segment, offset, length
        self.by_path, self.by_ref, self.by_similar = Lookup(self.path), Lookup(self.ref), Lookup(self.similar)

    def load(self, segment: int, index: Index) -> None:
        """Take in a segment's records, after those of all segments before it."""
        self.live_bytes += [0] * (segment + 1 - len(self.live_bytes))
        row, began = len(self.alive), len(self.state)
        lengths = np.frombuffer(index.lengths, np.uint32)
        self._columns(segment, index)
        done = 0
        for at, forget, release in [*((m.at, m.forget, m.release) for m in index.marks), (len(lengths), [], [])]:
            self._enter(index.keys, row, done, at, segment)
            done = at
            self.forget(bytes.fromhex(key) for key in forget)
            for key, paths in release:
                if (found := self.rows.get(bytes.fromhex(key))) is not None:
                    self.mark_released(found, paths)
        for name, offset, length in index.bases:
            self.bases[name] = (segment, offset, length)
        if index.released.count(1):
            for number, let_go in enumerate(index.released, began):
                if let_go:
                    self.state[number] = RELEASED

    def _columns(self, segment: int, index: Index) -> None:
        count = len(index.lengths) // 4
        self.segment.frombytes(np.full(count, segment, np.uint32).tobytes())
        self.offset.frombytes(index.offsets)
        self.length.frombytes(index.lengths)
        self.ref.frombytes(index.refs)
        self.similar.frombytes(index.similar)
        ends = len(self.path) + np.cumsum(np.frombuffer(index.counts, np.uint32), dtype=np.uint32)
        self.first.frombytes(ends.astype(np.uint32).tobytes())
        self.alive += bytes(count)
        names = index.names()
        self.path.extend(map(hash, names))
        self.size.frombytes(index.sizes)
        self.state += bytes(len(names))
        numbers = np.array([self.unit_number(unit) for unit in index.units], np.uint32)
        self.unit.frombytes(numbers[np.frombuffer(index.unit_of, np.uint32)].tobytes() if len(names) else b"")

    def _enter(self, keys: bytes, row: int, start: int, stop: int, segment: int) -> None:
        self.alive[row + start : row + stop] = b"\1" * (stop - start)
        self.live_bytes[segment] += sum(self.length[row + start : row + stop])
        rows = self.rows
        for number in range(start, stop):
            key = keys[16 * number : 16 * number + 16]
            if (old := rows.pop(key, None)) is not None:
                self._kill(old)
            rows[key] = row + number

    def _kill(self, row: int) -> None:
        if self.alive[row]:
            self.alive[row] = 0
            self.live_bytes[self.segment[row]] -= self.length[row]

    def settle(self) -> None:
        """Once all segments are in: where entries name one output, only the last of them holds.

        It comes to that only where a driver that had lost the run went on adding to it.
        """
        hashes, numbers = self.by_path.sort()
        same = np.flatnonzero(hashes[1:] == hashes[:-1])
        if not len(same):
            return
        row_of = self._row_of()
        alive = np.frombuffer(bytes(self.alive), np.uint8).astype(bool)
        ordered = row_of[numbers]
        involved = np.unique(np.concatenate([same, same + 1]))
        involved = involved[alive[ordered[involved]]]
        earlier = np.flatnonzero(hashes[involved[1:]] == hashes[involved[:-1]])
        lost = {int(ordered[involved[i]]) for i in earlier if ordered[involved[i]] != ordered[involved[i + 1]]}
        if lost:
            self.forget([key for key, row in self.rows.items() if row in lost])

    def _row_of(self) -> np.ndarray:
        """The row of each output."""
        counts = np.diff(np.array(self.first, np.uint32))
        return np.repeat(np.arange(len(counts), dtype=np.uint32), counts)

    def output_bytes(self) -> int:
        """Bytes of outputs that were not let go, of entries that hold."""
        alive = np.frombuffer(bytes(self.alive), np.uint8).astype(bool)
        there = alive[self._row_of()] & (np.frombuffer(bytes(self.state), np.uint8) != RELEASED)
        return int(np.array(self.size, np.int64)[there].sum())

    def unit_number(self, unit: str) -> int:
        """The number of a folder that is listed as one."""
        return self.units.setdefault(unit, len(self.units))

    def add(self, entry: Entry, segment: int, offset: int, length: int) -> int:
        """Take in an entry whose outputs have just been written; returns its row."""
        self.live_bytes += [0] * (segment + 1 - len(self.live_bytes))
        key, row = bytes.fromhex(entry.key), len(self.alive)
        if (old := self.rows.pop(key, None)) is not None:
            self._kill(old)
        self.rows[key] = row
        self.segment.append(segment)
        self.offset.append(offset)
        self.length.append(length)
        self.ref.append(entry.ref.hash())
        self.similar.append(similar_hash(entry.similar))
        for output in entry.outputs:
            self.path.append(hash(output.path))
            self.size.append(output.bytes)
            self.unit.append(self.unit_number(unit_of(output.path)))
            self.state.append(RELEASED if output.path in entry.released else PRESENT)
            self.by_path.added(len(self.path) - 1)
        self.first.append(len(self.path))
        self.alive.append(1)
        self.live_bytes[segment] += length
        self.by_ref.added(row)
        self.by_similar.added(row)
        return row

    def move(self, row: int, segment: int, offset: int, length: int) -> None:
        """An entry that holds lies elsewhere now."""
        self.live_bytes += [0] * (segment + 1 - len(self.live_bytes))
        self.live_bytes[self.segment[row]] -= self.length[row]
        self.segment[row], self.offset[row], self.length[row] = segment, offset, length
        self.live_bytes[segment] += length

    def forget(self, keys: Iterable[bytes]) -> None:
        """Entries that hold no more."""
        for key in keys:
            if (row := self.rows.pop(key, None)) is not None:
                self._kill(row)

    def outputs(self, row: int) -> range:
        """Numbers of an entry's outputs."""
        return range(self.first[row], self.first[row + 1])

    def states(self, row: int) -> bytearray:
        """The states of an entry's outputs."""
        return self.state[self.first[row] : self.first[row + 1]]

    def mark_released(self, row: int, paths: Iterable[str]) -> None:
        """Outputs of an entry are let go."""
        hashes = {hash(path) for path in paths}
        for number in self.outputs(row):
            if self.path[number] in hashes:
                self.state[number] = RELEASED

    def owner(self, path: str) -> tuple[int, int] | None:
        """Row and output of the entry that holds and wrote this path, as its hash tells; None where there is none."""
        for number in self.by_path.numbers(hash(path)):
            row = bisect_right(self.first, number) - 1
            if self.alive[row]:
                return row, number
        return None

    def live_rows(self) -> Iterator[int]:
        """Rows of entries that hold, in the order in which they were added."""
        row = self.alive.find(1)
        while row >= 0:
            yield row
            row = self.alive.find(1, row + 1)
