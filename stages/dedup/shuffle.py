"""Shuffle files: what one task writes, cut into partitions, so that another task reads just its own out of each.

Layout: for each partition one block, an Arrow IPC stream compressed with zstd (no bytes where it is empty), rows
sorted; then for each partition where its block begins, its length (int64, little-endian) and a checksum; the count of
partitions (int64) and a magic number. A reader seeks to the one entry it needs: no footer that grows with the partitions is
parsed. The checksum, XXH3-64, is of the entry and the count as well as of the block, so that no bit that a reader goes by
can be another one unnoticed.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import xxhash

from stages.errors import InputError

OpenFile = Callable[[str], BinaryIO]
"""How a task opens an input by name, for random access: `open_local`, or the storage layer's own."""

MAGIC = b"HRSHUF02"
_MEND = "run again with --verify, which makes the file anew"
_ENTRY = struct.Struct("<qqQ")  # begin, length, checksum
BATCH_ROWS = 1 << 20
_OPTIONS = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", 1))


def open_local(path: str) -> BinaryIO:
    """The default of every task here: inputs are local files."""
    return Path(path).open("rb")


def sort_order(columns: Sequence[np.ndarray]) -> np.ndarray | None:
    """The stable order that sorts rows by these columns, the first most significant; None where they are sorted.

    Each pass over a column that already stands in order is skipped: records come in canonical order.
    """
    if _stand_sorted(columns):
        return None
    order: np.ndarray | None = None
    for column in reversed(columns):
        values = column if order is None else column[order]
        if len(values) > 1 and (values[1:] < values[:-1]).any():
            step = np.argsort(values, kind="stable")
            order = step if order is None else order[step]
    return order


def _stand_sorted(columns: Sequence[np.ndarray]) -> bool:
    """Whether the rows stand sorted by the columns, the first most significant."""
    equal: np.ndarray | None = None  # rows that equal the one before in the columns so far
    for column in columns:
        later, earlier = column[1:], column[:-1]
        falls = later < earlier
        if (falls if equal is None else falls & equal).any():
            return False
        same = later == earlier
        equal = same if equal is None else same & equal
    return True


def sort_table(
    table: pa.Table, keys: Sequence[str], lead: np.ndarray | None = None
) -> tuple[pa.Table, np.ndarray | None]:
    """The table sorted by `lead` (one value a row), then by the integer columns `keys`; and `lead` in that order."""
    columns = [column_values(table, name) for name in keys]
    order = sort_order(columns if lead is None else [lead, *columns])
    if order is None:
        return table, lead
    return table.take(pa.array(order)), None if lead is None else lead[order]


def column_values(table: pa.Table, name: str) -> np.ndarray:
    """A fixed-width column as a NumPy array, without a copy where it is one chunk."""
    column = table.column(name)
    if column.num_chunks == 1:
        return column.chunk(0).to_numpy(zero_copy_only=False)
    return column.to_numpy()


class ShuffleWriter:
    """Collects rows for partitions and writes them as one shuffle file, sorted by partition, then by `keys`.

    Up to `memory` bytes of rows are held; then they are sorted and set aside in a file beside the output, and
    merged, one partition at a time, by `finish`. `combine`, if given, gets the sorted rows of one partition and
    returns those to write: what it leaves out it has dealt with itself (it may see a partition in pieces).
    """

    def __init__(
        self,
        path: Path,
        partitions: int,
        schema: pa.Schema,
        keys: Sequence[str],
        memory: int,
        combine: Callable[[pa.Table], pa.Table] | None = None,
    ) -> None:
        if partitions < 1:
            raise ValueError(f"a shuffle needs at least one partition, not {partitions}")
        self.path, self.partitions, self.schema, self.keys = Path(path), partitions, schema, tuple(keys)
        self.memory, self.combine = memory, combine
        self.rows = 0
        self._held: list[tuple[np.ndarray, pa.Table]] = []
        self._bytes = 0
        self._spills: list[Path] = []

    def add(self, partition: np.ndarray, columns: dict[str, np.ndarray | pa.Array]) -> None:
        """Rows, given by columns, and the partition (int32) that each goes to."""
        if len(partition) == 0:
            return
        table = pa.Table.from_arrays([_as_array(columns[f.name], f.type) for f in self.schema], schema=self.schema)
        self._held.append((partition, table))
        self._bytes += table.nbytes + partition.nbytes
        if self._bytes >= self.memory:
            self._spill()

    def _spill(self) -> None:
        spill = self.path.with_name(f"{self.path.name}.spill{len(self._spills)}")
        self._spills.append(spill)
        self._write_held(spill)

    def _sorted_held(self) -> tuple[pa.Table, np.ndarray]:
        """What is held as one sorted table, and where each partition begins in it; nothing is held afterwards."""
        held, self._held, self._bytes = self._held, [], 0
        if not held:
            return self.schema.empty_table(), np.zeros(self.partitions + 1, np.int64)
        partition = np.concatenate([p for p, _ in held])
        table = pa.concat_tables([t for _, t in held]).combine_chunks()
        del held
        table, ordered = sort_table(table, self.keys, partition)
        return table, np.searchsorted(partition if ordered is None else ordered, np.arange(self.partitions + 1))

    def _write_held(self, path: Path) -> None:
        table, starts = self._sorted_held()
        pieces = (table.slice(starts[p], starts[p + 1] - starts[p]) for p in range(self.partitions))
        self._write(path, pieces)

    def _write(self, path: Path, pieces: Iterable[pa.Table]) -> int:
        rows = 0
        entries = []
        with path.open("wb") as file:
            for piece in pieces:
                if self.combine and piece.num_rows:
                    piece = self.combine(piece)
                begin, target = file.tell(), _Summed(file)
                if piece.num_rows:
                    with pa.ipc.new_stream(target, self.schema, options=_OPTIONS) as stream:
                        stream.write_table(piece, max_chunksize=BATCH_ROWS)
                rows += piece.num_rows
                length = file.tell() - begin
                target.sum.update(_place(len(entries), self.partitions, begin, length))
                entries.append(_ENTRY.pack(begin, length, target.sum.intdigest()))
            file.write(b"".join(entries) + struct.pack("<q", self.partitions) + MAGIC)
        return rows

    def finish(self) -> int:
        """Write the file; returns its number of rows."""
        if not self._spills:
            table, starts = self._sorted_held()
            self.rows = self._write(
                self.path, (table.slice(starts[p], starts[p + 1] - starts[p]) for p in range(self.partitions))
            )
            return self.rows
        if self._held:
            self._spill()
        files = [open_local(str(spill)) for spill in self._spills]
        try:
            self.rows = self._write(self.path, (self._merged(files, p) for p in range(self.partitions)))
        finally:
            for file, spill in zip(files, self._spills, strict=True):
                file.close()
                spill.unlink()
        return self.rows

    def _merged(self, files: Sequence[BinaryIO], partition: int) -> pa.Table:
        blocks = [read_block(f, partition, str(spill)) for f, spill in zip(files, self._spills, strict=True)]
        pieces = [block for block in blocks if block]
        if not pieces:
            return self.schema.empty_table()
        return sort_table(pa.concat_tables(pieces).combine_chunks(), self.keys)[0]


def _as_array(values: np.ndarray | pa.Array, type: pa.DataType) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values, type)


def read_block(file: BinaryIO, partition: int, name: str) -> pa.Table | None:
    """One partition of an open shuffle file, or None where it is empty. Raises InputError for another kind of file."""
    end = file.seek(0, 2)
    tail = 8 + len(MAGIC)
    count, magic = 0, b""
    if end >= tail:
        file.seek(end - tail)
        count, magic = struct.unpack(f"<q{len(MAGIC)}s", file.read(tail))
    if end < tail or magic != MAGIC or not 0 <= partition < count or end < tail + _ENTRY.size * count:
        raise InputError(name, f"not a shuffle file with a partition {partition}: it is cut short or of another kind")
    file.seek(end - tail - _ENTRY.size * (count - partition))
    begin, length, checksum = _ENTRY.unpack(file.read(_ENTRY.size))
    room = end - tail - _ENTRY.size * count
    if not (0 <= begin <= room and 0 <= length <= room - begin):
        raise InputError(name, f"partition {partition} is damaged or cut short; {_MEND}")
    file.seek(begin)
    block = file.read(length)
    found = xxhash.xxh3_64(block)
    found.update(_place(partition, count, begin, length))
    if found.intdigest() != checksum:
        raise InputError(name, f"partition {partition} is damaged; {_MEND}", offset=begin)
    return pa.ipc.open_stream(block).read_all() if length else None


def block_count(file: BinaryIO, name: str) -> int:
    """How many partitions an open shuffle file has. Raises InputError for another kind of file."""
    end, tail = file.seek(0, 2), 8 + len(MAGIC)
    if end >= tail:
        file.seek(end - tail)
        count, magic = struct.unpack(f"<q{len(MAGIC)}s", file.read(tail))
        if magic == MAGIC and count > 0 and end >= tail + _ENTRY.size * count:
            return count
    raise InputError(name, "not a shuffle file: it is cut short or of another kind")


def _place(partition: int, count: int, begin: int, length: int) -> bytes:
    return struct.pack("<4q", partition, count, begin, length)


class _Summed(io.RawIOBase):
    """Passes on what is written to it, and sums it up."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.sum = file, xxhash.xxh3_64()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.sum.update(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell()


def read_partition(
    files: Sequence[str], partition: int, schema: pa.Schema, keys: Sequence[str], open_file: OpenFile = open_local
) -> pa.Table:
    """One partition out of all files, as one table sorted by `keys`."""
    pieces = []
    for name in files:
        with open_file(name) as file:
            if block := read_block(file, partition, name):
                pieces.append(block)
    if not pieces:
        return schema.empty_table()
    return sort_table(pa.concat_tables(pieces).combine_chunks(), keys)[0]
