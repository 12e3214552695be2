"""How a row group of a Parquet file is read within bounded memory, decided before anything is decoded.

A file's size says nothing of what it becomes: a page is decompressed whole, a value that stands once in a dictionary
may fill every row, and rows differ in size. Column chunks say how large they are in all; where that is too much, the
headers of their pages say more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq

from stages.read.parquet_pages import DICTIONARY, Page, PageError, read_pages

MOST_ROWS = 1 << 14  # decoded at once
LEAST_ROWS = 64  # where a dictionary would allow only fewer, its values are not copied into the rows
EXPANDED_BYTES = 128 << 20  # that the rows decoded at once may take of one dictionary's values


@dataclass(frozen=True)
class GroupPlan:
    """How to read a row group: rows at once, leaf columns (by path) whose values stay in their dictionaries, and
    top-level columns that are too large to be read. `refused`: why it cannot be read at all."""

    rows: int
    dictionaries: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    refused: str | None = None


@dataclass(frozen=True)
class _Chunk:
    """A leaf column in the row group: `dictionary`: bytes of its dictionary of byte strings; 0 for none."""

    root: str
    path: str
    repeated: bool
    values: int
    dictionary: int
    pages: tuple[Page, ...]

    @property
    def largest(self) -> int:
        return max((page.bytes for page in self.pages), default=0)

    def worst_window(self, rows: int, of: int) -> int:
        """Most bytes of the pages that any `rows` rows in sequence stand in, of a row group of `of` rows."""
        pages = [page for page in self.pages if page.kind != DICTIONARY]
        counts = np.array([page.values for page in pages], np.float64) * of / max(1, sum(p.values for p in pages))
        ends = np.cumsum(counts)
        last = np.minimum(np.searchsorted(ends, ends + rows), len(pages) - 1)
        total = np.concatenate([[0], np.cumsum([page.bytes for page in pages])])
        return int((total[last + 1] - total[: len(pages)]).max(initial=0))


def plan_group(
    stream: BinaryIO,
    group: pq.RowGroupMetaData,
    roots: Sequence[str | None],
    repeated: Sequence[bool],
    needed: set[str],
    batch_bytes: int,
    memory: int,
) -> GroupPlan:
    """How to read a row group: about `batch_bytes` decoded at once, and no more than `memory` of pages held.

    roots: for each leaf column the top-level column that it belongs to; None for one that is not asked for.
    repeated: for each leaf column whether a row may hold many of its values.
    needed: top-level columns that are not left out, however large.
    """
    leaves = [i for i, root in enumerate(roots) if root is not None]
    total = sum(group.column(i).total_uncompressed_size for i in leaves)
    chunks = [_chunk(stream, group.column(i), str(roots[i]), repeated[i], total > memory) for i in leaves]
    left_out: list[str] = []
    while sum(chunk.largest for chunk in chunks) > memory:
        chunk = max(chunks, key=lambda chunk: (chunk.root not in needed, chunk.largest))
        if chunk.root in needed:
            what = f"a page of its column {chunk.root!r} becomes {chunk.largest:,} bytes when it is decompressed"
            times = sum(one.largest for one in chunks) / memory
            fix = f"raise it {times:.1f}-fold" if times < 100 else "write the file anew with smaller pages"
            return GroupPlan(1, refused=f"{what}, and run.task_memory leaves {memory:,} for that: {fix}")
        left_out.append(chunk.root)
        chunks = [other for other in chunks if other.root != chunk.root]
    total = sum(page.bytes for chunk in chunks for page in chunk.pages)
    rows = max(1, min(MOST_ROWS, batch_bytes * group.num_rows // max(1, total)))
    while rows > 1 and total > memory and sum(c.worst_window(rows, group.num_rows) for c in chunks) > memory:
        rows //= 2
    dictionaries = _kept_dictionaries(chunks, rows)
    copied = [c.dictionary for c in chunks if c.dictionary and c.path not in dictionaries]
    rows = max(1, min([rows, *(EXPANDED_BYTES // size for size in copied)]))
    return GroupPlan(rows, tuple(dictionaries), tuple(left_out))


def _kept_dictionaries(chunks: list[_Chunk], rows: int) -> list[str]:
    """Leaf columns of which too few rows could be read at once if values were copied out of the dictionary."""
    names = Counter(chunk.path for chunk in chunks)
    kept = []
    for chunk in chunks:
        most = chunk.values if chunk.repeated else min(rows, LEAST_ROWS)
        if chunk.dictionary * most > EXPANDED_BYTES and names[chunk.path] == 1:
            kept.append(chunk.path)
    return kept


def _chunk(stream: BinaryIO, column: pq.ColumnChunkMetaData, root: str, repeated: bool, walk: bool) -> _Chunk:
    """A leaf column; without `walk`, all its data count as one page."""
    start = column.data_page_offset
    has_dictionary = column.has_dictionary_page and 0 < (column.dictionary_page_offset or 0) < start
    if has_dictionary:
        start = column.dictionary_page_offset
    size, values = column.total_uncompressed_size, column.num_values
    pages: list[Page] = []
    if walk or has_dictionary:
        try:
            found = read_pages(stream, start, start + column.total_compressed_size)
            pages = list(found) if walk else [next(found)]
        except (PageError, StopIteration):
            pages = []
    if not walk or not pages:
        pages = [*pages, Page(0, max(0, size - sum(page.bytes for page in pages)), values)]
    dictionary = pages[0].bytes if pages[0].kind == DICTIONARY and column.physical_type == "BYTE_ARRAY" else 0
    return _Chunk(root, column.path_in_schema, repeated, values, dictionary, tuple(pages))
