"""The documents of a finished run's parts by what a source is to be split by: their cells, and where their tokens lie."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.jobs.inputs import found_as
from pipeline.jobs.split import Documents
from pipeline.jobs.tokenize import SPLITS, StoredTokens
from pipeline.questions.documents import edited_by_dedup
from pipeline.run_folder.finished import FinishedRun
from pipeline.run_folder.manifest import members_of, shards_of
from pipeline.run_folder.run_summary import read_summary
from stages.errors import UserError
from stages.tokens.manifest_shape import Manifest
from stages.tokens.split import Axis, Cuts, cell_numbers, cells, quantile_cuts

READERS = min(8, os.cpu_count() or 1)  # parts read at once
Offsets = Mapping[str, Sequence[Sequence[int]]]
"""By split and part: where the tokens of each member that the source is now begin among the source's files."""


@dataclass(frozen=True)
class PartDocuments:
    """Documents of a part by cell: counts (int64 [cells]) by split, and the files that hold them, sorted by cell."""

    documents: dict[str, np.ndarray]
    tokens: dict[str, np.ndarray]
    paths: dict[str, Path]

    def rows(self, split: str, cell: int) -> pa.Table:
        """Where the documents of a cell begin, their tokens and bytes of text, id, src and loc: mapped, not read."""
        first = int(self.documents[split][:cell].sum())
        with pa.memory_map(str(self.paths[split])) as file:
            return pa.ipc.open_file(file).read_all().slice(first, int(self.documents[split][cell]))


def cuts_of(
    run: FinishedRun, source: str, axes: Sequence[Axis], folder: Path, pool: ThreadPoolExecutor
) -> tuple[Cuts, ...]:
    """Where each axis is cut: quantiles are those of the training documents, as `split` in a recipe finds them."""
    asked = [number for number, axis in enumerate(axes) if axis.quantiles]
    if not asked:
        return tuple(axis.cuts for axis in axes)

    def write(ordinal: int) -> dict[int, Path]:
        known = Documents(_index(run, run.sources[source].tokens[ordinal].files["train"], ["src", "loc"]))
        found: dict[int, list[np.ndarray]] = {number: [np.zeros(0)] for number in asked}
        for batch in _measured(run, source, ordinal, [axes[number] for number in asked]):
            batch = batch.filter(pa.array(known.places(batch) >= 0))
            for number in asked:
                values = axes[number].values(batch)
                found[number].append(values[~np.isnan(values)])
        paths = {number: folder / f"{ordinal}.{number}.values" for number in asked}
        for number, values in found.items():
            np.sort(np.concatenate(values)).astype("<f8").tofile(paths[number])
        return paths

    files = list(pool.map(write, range(len(run.sources[source].tokens))))
    cuts = []
    for number, axis in enumerate(axes):
        paths = [one[number] for one in files] if axis.quantiles else []
        maps = [np.memmap(path, "<f8", "r") for path in paths if path.stat().st_size]
        cuts.append(quantile_cuts(maps, axis.quantiles) if axis.quantiles else axis.cuts)
    return tuple(cuts)


def offsets_of(run: FinishedRun, manifest: Manifest, source: str) -> Offsets:
    """Where the tokens of each part and member begin among the files of the source."""
    parts = run.sources[source]
    names = members_of(manifest, source)
    found = {}
    for split in SPLITS:
        sizes = [sum(shard["tokens"] for shard in shards_of(manifest, name, split)) for name in names]
        here = np.cumsum([0, *sizes[:-1]])
        found[split] = []
        for ordinal, whole in enumerate(parts.tokens):
            found[split].append(here.tolist())
            files = parts.split[ordinal].cells if parts.split else {0: whole.files}
            for cell, of_cell in files.items():
                here[cell] += of_cell[split].tokens if split in of_cell else 0
    return found


def documents_of_part(
    run: FinishedRun,
    source: str,
    ordinal: int,
    axes: Sequence[Axis],
    cuts: Sequence[Cuts],
    offsets: Offsets,
    folder: Path,
) -> PartDocuments:
    """Tell the documents of a part apart, and write them down by cell."""
    parts = run.sources[source]
    tables = {split: _index(run, file) for split, file in parts.tokens[ordinal].files.items()}
    known = {split: Documents(table) for split, table in tables.items()}
    cell_of = {split: np.full(table.num_rows, -1 if axes else 0) for split, table in tables.items()}
    for batch in _measured(run, source, ordinal, axes) if axes else ():
        numbers = cell_numbers(axes, cuts, batch)
        for split, documents in known.items():
            places = documents.places(batch)
            cell_of[split][places[places >= 0]] = numbers[places >= 0]
    documents, tokens, paths = {}, {}, {}
    for split, table in tables.items():
        if (cell_of[split] < 0).any():
            raise UserError(f"{run.uri}: part {ordinal} of {source} lacks documents that were tokenized; run it with --verify")
        starts = _starts(run, source, ordinal, split, known[split], table, offsets)
        sizes = table.column("end").to_numpy() - table.column("start").to_numpy()
        order = np.argsort(cell_of[split], kind="stable")
        columns = {"start": starts[order], "tokens": sizes[order]}
        rest = table.select(["text_bytes", "id", "src", "loc"]).take(pa.array(order))
        whole = pa.table({**columns, **{name: rest.column(name) for name in rest.column_names}})
        paths[split] = folder / f"{ordinal}.{split}.arrow"
        with pa.OSFile(str(paths[split]), "wb") as file, pa.ipc.new_file(file, whole.schema) as writer:
            writer.write_table(whole.combine_chunks())
        count = len(cells(axes))
        documents[split] = np.bincount(cell_of[split], minlength=count)
        tokens[split] = np.bincount(cell_of[split], sizes, minlength=count).astype(np.int64)
    return PartDocuments(documents, tokens, paths)


def _starts(
    run: FinishedRun, source: str, ordinal: int, split: str, known: Documents, table: pa.Table, offsets: Offsets
) -> np.ndarray:
    """Where each document of a part begins among the files of its source (int64)."""
    here, parts = offsets[split][ordinal], run.sources[source]
    if not parts.split:
        return table.column("start").to_numpy() + here[0]
    starts = np.full(table.num_rows, -1)
    for cell, files in parts.split[ordinal].cells.items():
        if split in files:
            mine = _index(run, files[split], ["start", "src", "loc"])
            at = known.places(mine.rename_columns(["start", "file", "record"]).combine_chunks().to_batches()[0])
            starts[at] = mine.column("start").to_numpy() + here[cell]
    return starts


def _index(run: FinishedRun, file: StoredTokens, columns: list[str] | None = None) -> pa.Table:
    """The index of a token file."""
    uri = storage.join(run.uri, file.index.path)
    if not storage.exists(uri):
        raise UserError(run.gone(f"{file.index.path}, which says where the documents' tokens lie"))
    with storage.open_random(uri) as stream:
        return pq.read_table(stream, columns=columns)


def _measured(run: FinishedRun, source: str, ordinal: int, axes: Sequence[Axis]) -> Iterator[pa.RecordBatch]:
    """The documents of a part, with what tells them and the columns that axes are decided by."""
    path = run.sources[source].parts[-1][ordinal].kept
    wanted = sorted({column for axis in axes for column in axis.columns})
    if path is None:
        raise UserError(run.gone(f"sources.{source}: {', '.join(wanted)}"))
    there = run.columns(path)
    copies = {name: found for name in wanted if name not in there and (found := _copies(run, path, name))}
    if missing := next((name for name in wanted if name not in there and name not in copies), None):
        if missing == "metadata":
            raise UserError(run.gone(f"sources.{source}: metadata"))
        measures = ", ".join(name for name in there if "." in name)
        raise UserError(f"sources.{source}.split: its documents have no measure {missing}; they have {measures}")
    for first, batch in run.rows(path, ["file", "record", *(name for name in wanted if name in there)]):
        for name, uri in copies.items():
            with storage.open_random(uri) as stream:
                counts = found_as(stream)(np.arange(first, first + batch.num_rows))
            batch = batch.append_column(name, pa.array(counts, pa.int64()))
        yield batch


def _copies(run: FinishedRun, path: str, measure: str) -> str | None:
    """The file of as how many the documents of a part were found by the dedup of this measure; None where there is none."""
    edited, paths = edited_by_dedup(run), {path}
    while path in edited:
        path = edited[path]
        paths.add(path)
    for place, dedup in read_summary(run.uri).dedup.items():
        if f"{place.rpartition('/')[2]}.copies" != measure or dedup.copies is None:
            continue
        if (ordinal := next((i for i, one in dedup.read.items() if one.path in paths), None)) is not None:
            return storage.join(run.uri, dedup.copies[ordinal])
    return None
