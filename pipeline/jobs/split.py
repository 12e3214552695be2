"""Cutting the token files of a part into those of sub-sources, by measures of its documents. No text is tokenized again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.jobs.context import Context
from pipeline.jobs.inputs import PartInput, part_batches
from pipeline.jobs.tokenize import SPLITS, StoredTokens, store_tokens
from pipeline.plan.node import Job, Report, Stored
from stages.errors import UserError
from stages.marks import HowMuch, InFile, Setting
from stages.tokens.near_copies import token_batches
from stages.tokens.split import Axis, Cuts, cell_numbers, quantile_cuts
from stages.tokens.token_file import TokenWriter


class ValuesReport(Report):
    """The file of sorted values (float64) of each axis that is cut at quantiles; "" for the others."""

    values: list[str]


@dataclass(frozen=True)
class SplitValues(Job):
    """Writes the values by which the training documents of a part are cut at quantiles."""

    report: ClassVar[type[Report]] = ValuesReport

    source: Setting[str]
    part: InFile[PartInput]
    train: InFile[StoredTokens]
    axes: Setting[tuple[Axis, ...]]
    batch_bytes: HowMuch[int] = 8 << 20

    def run(self, context: Context) -> ValuesReport:
        wanted = documents_of(self.train, context)
        columns = sorted({column for axis in self.axes if axis.quantiles for column in axis.columns})
        found: list[list[np.ndarray]] = [[] for _ in self.axes]
        for batch in _measured(self.part, columns, self.source, context, self.batch_bytes):
            batch = batch.filter(pa.array(wanted.places(batch) >= 0))
            for number, axis in enumerate(self.axes):
                if axis.quantiles:
                    values = axis.values(batch)
                    found[number].append(values[~np.isnan(values)])
        names = []
        for number, values in enumerate(found):
            names.append(f"{context.interim(f'{self.source}/split')}.{number}.values" if self.axes[number].quantiles else "")
            if names[-1]:
                with context.output(names[-1]) as path:
                    np.sort(np.concatenate([np.zeros(0), *values])).astype("<f8").tofile(path)
        return ValuesReport(values=names)


class CutsReport(Report):
    """Where each axis is cut."""

    cuts: list[Cuts]


@dataclass(frozen=True)
class FindCuts(Job):
    """Finds the values at which the quantiles of a source lie. values: by axis, the files of its parts."""

    report: ClassVar[type[Report]] = CutsReport

    axes: Setting[tuple[Axis, ...]]
    values: InFile[tuple[tuple[Stored, ...], ...]]

    def run(self, context: Context) -> CutsReport:
        cuts = []
        for axis, files in zip(self.axes, self.values, strict=True):
            with ExitStack() as stack:
                paths = [stack.enter_context(context.local(file)) for file in files]
                maps = [np.memmap(path, "<f8", "r") for path in paths if path.stat().st_size]
                cuts.append(quantile_cuts(maps, axis.quantiles) if axis.quantiles else axis.cuts)
        return CutsReport(cuts=cuts)


class SplitReport(Report):
    """By cell, the token files of each split of which it has documents. read_bytes: of the tokens looked at."""

    cells: dict[int, dict[str, StoredTokens]]
    read_bytes: int


@dataclass(frozen=True)
class SplitTokens(Job):
    """Writes the token files of a part again, a pair for each cell that has documents of it."""

    report: ClassVar[type[Report]] = SplitReport

    source: Setting[str]
    part: InFile[PartInput]
    train: InFile[StoredTokens]
    held_out: InFile[StoredTokens]
    axes: Setting[tuple[Axis, ...]]
    cuts: Setting[tuple[Cuts, ...]]
    dtype: Setting[str]
    batch_bytes: HowMuch[int] = 8 << 20

    def run(self, context: Context) -> SplitReport:
        prefix, found = context.interim(f"{self.source}/split"), dict[int, dict[str, StoredTokens]]()
        files = dict(zip(SPLITS, (self.train, self.held_out), strict=True))
        wanted = {split: documents_of(file, context) for split, file in files.items()}
        cell_of = {split: np.full(file.documents, -1) for split, file in files.items()}
        columns = sorted({column for axis in self.axes for column in axis.columns})
        for batch in _measured(self.part, columns, self.source, context, self.batch_bytes):
            numbers = cell_numbers(self.axes, self.cuts, batch)
            for split, documents in wanted.items():
                places = documents.places(batch)
                cell_of[split][places[places >= 0]] = numbers[places >= 0]
        for split, file in files.items():
            if (cell_of[split] < 0).any():
                raise UserError(f"{file.index.path}: holds documents that its part of {self.source} has not; run with --verify")
            for cell in np.unique(cell_of[split]).tolist():
                name = f"{prefix}.{cell}"
                with TokenWriter(context.scratch / f"cell-{cell}", split) as writer:
                    _copy(file, cell_of[split] == cell, np.dtype(self.dtype), writer, context)
                found.setdefault(cell, {})[split] = store_tokens(writer.written(), f"{name}.{split}", context)
        size = sum(file.tokens for file in files.values()) * np.dtype(self.dtype).itemsize
        return SplitReport(cells=dict(sorted(found.items())), read_bytes=size)


class Documents:
    """The documents of a token file by the file and record that each was read from, to find them in a part."""

    def __init__(self, rows: pa.Table) -> None:
        self._keys = _keys(rows.column("src"), rows.column("loc"))

    def places(self, batch: pa.RecordBatch) -> np.ndarray:
        """For each row of a part its number among the token file's documents (int64), or -1."""
        keys = _keys(batch.column("file"), batch.column("record"))
        found = pc.index_in(keys, value_set=self._keys)
        return np.asarray(found.fill_null(-1), np.int64)


def documents_of(file: StoredTokens, context: Context) -> Documents:
    """The documents of a token file."""
    with context.open(file.index) as stream:
        return Documents(pq.read_table(stream, columns=["src", "loc"]))


def _keys(files: pa.Array | pa.ChunkedArray, records: pa.Array | pa.ChunkedArray) -> pa.Array:
    text = pc.binary_join_element_wise(
        records.cast(pa.large_string()), files.cast(pa.large_string()), pa.scalar(" ", pa.large_string())
    )
    return text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text


def _measured(
    part: PartInput, columns: list[str], source: str, context: Context, batch_bytes: int
) -> Iterator[pa.RecordBatch]:
    """The part's documents that dedup left, with what tells them and the columns that axes are decided by."""
    with context.open(part.part) as stream:
        there = [*pq.read_schema(stream).names, *(name for name, _ in part.copies)]
    if missing := next((column for column in columns if column not in there), None):
        measures = [name for name in there if "." in name]
        raise UserError(f"sources.{source}.split: its documents have no measure {missing}; they have {', '.join(measures)}")
    for _, kept, _ in part_batches(part, context, batch_bytes, ["file", "record", *columns]):
        yield kept


def _copy(file: StoredTokens, keep: np.ndarray, dtype: np.dtype, writer: TokenWriter, context: Context) -> None:
    """Append the documents of a token file that are to be kept (bool) to another."""
    first = 0
    stored = dtype.newbyteorder("<")
    with context.open(file.file) as tokens, context.open(file.index) as index:
        for found, offsets, rows in token_batches(tokens, index, stored):
            mine = keep[first : first + rows.num_rows]
            first += rows.num_rows
            if not mine.any():
                continue
            lengths = np.diff(offsets)
            ends = np.cumsum(lengths[mine])
            rows = rows.filter(pa.array(mine))
            id, src, loc = (rows.column(name) for name in ("id", "src", "loc"))
            sizes = np.asarray(rows.column("text_bytes"), np.int64)
            kept = found[np.repeat(mine, lengths)].astype(stored)
            writer.append(kept, ends - lengths[mine], ends, id, src, loc, sizes)
