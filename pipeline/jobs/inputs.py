"""What jobs read: source files, parts with the rows that dedup removed, models and lists that steps name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.jobs.context import Context
from pipeline.plan.code import code_of_all, code_used_by
from pipeline.plan.node import Named, Readable, Stored
from stages.marks import in_key, named_files
from stages.parts import read_part, without_rows
from stages.read.split import Member
from stages.step import Step
from stages.user_code import code_digest, load


@dataclass(frozen=True, slots=True)
class SourceFile(Readable):
    """One source file, some row groups of a Parquet file, or a range of a JSON lines file.

    name: as documents and errors name it. label: the file in ids of documents that have none of their own. version: changes
    when the content does; keys hold it. witness: what readers compare, so that they read the listed version or none
    (`storage.open_stream`). lines: of a range: its offset, its length in bytes, and the ordinal of its first line; member: of a
    compressed file, where to begin. whole: bytes of the whole file, where a listing told them.
    """

    uri: str
    name: str
    size: int
    version: str
    witness: str
    label: str = ""
    row_groups: tuple[int, ...] | None = None
    lines: tuple[int, int, int] | None = None
    member: Member | None = None
    whole: int | None = None

    def identity(self) -> list[Any]:
        """What of it decides the documents that are read."""
        return [self.name, self.label, self.size, self.version, self.row_groups, self.lines]


@dataclass(frozen=True)
class NamedStep:
    """A step under its name in the recipe, and the files that it names, each with its version."""

    name: str
    step: Step
    files: tuple[Named, ...] = ()

    def in_parts(self) -> dict[str, Any]:
        """What decides the outcome, in parts; all but the limits decide the measures."""
        return {
            "settings": [self.step.step, self.step.settings()],
            "limits": in_key(self.step.limits()),
            "code": [_code_of(type(self.step).__module__), self.step.code()],
            "files": [file.version for file in self.files],
        }


def code_of_function(path: str) -> list[Any]:
    """What a key holds of a function by its import path: its own code, and that of the project's modules that it uses."""
    load(path)
    module = path.partition(":")[0]
    return [_code_of(module), None if module.startswith("stages.") else code_digest(path)]


def _code_of(module: str) -> dict[str, str]:
    return code_of_all([module]) if module.startswith("stages.") else code_used_by(module)


@dataclass(frozen=True, slots=True)
class PartInput:
    """A part as a job reads it: the file, the files of rows that dedups removed from it, and the bytes that they cut out.

    copies: measures that dedups made of the documents that stay, by name: as how many each was found.
    """

    part: Stored
    removals: tuple[Stored, ...] = ()
    edited: int = 0
    copies: tuple[tuple[str, Stored], ...] = ()


def open_listed(file: SourceFile, offset: int = 0, length: int | None = None) -> BinaryIO:
    """`storage.open_stream` of the version that was listed, by what the listing told of it."""
    return storage.open_stream(file.uri, offset, length, version=file.witness, stat=_listed(file))


def open_listed_random(file: SourceFile) -> BinaryIO:
    """`storage.open_random` of the version that was listed, by what the listing told of it."""
    return storage.open_random(file.uri, version=file.witness, stat=_listed(file))


def _listed(file: SourceFile) -> storage.Stat | None:
    return storage.listed(file.uri, file.whole, file.witness) if file.whole is not None else None


@contextmanager
def open_source(file: SourceFile, staged: bool, random: bool, context: Context) -> Iterator[BinaryIO]:
    """A source file as a stream: from the disk it lies on, from the node's cache, or over the network.

    random: it is read at many places (Parquet); everything else is one pass over the file, or over its range.
    It is the version that was listed: ChangedError at the opening, on the way or at the end, where it is another.
    """
    offset, length, _ = file.lines or (0, None, 1)
    if file.member is not None:
        offset, length = file.member.start, None  # how many compressed bytes hold the range is not known
    if staged and not storage.is_local(file.uri):
        with (
            storage.pinned(file.uri, context.cache, version=file.witness) as path,
            path.open("rb") if random else storage.open_stream(path, offset, length) as stream,
        ):
            yield stream
    elif random:
        with open_listed_random(file) as stream:
            yield stream
    else:
        with open_listed(file, offset, length) as stream:
            yield stream


def fetch_named(file: Named, context: Context) -> Path:
    """A file that the recipe names on this node's disk, fetched once a node, and the one that the key was made of.

    Raises ChangedError where it is another by now, DamagedError where it is a file of the run with other bytes.
    """
    path = storage.fetch(file.uri, context.cache, version=file.witness or None)
    if storage.is_digest(file.version):
        storage.verify_path(path, file.version, file.uri)
    return path


def localise_step(step: Step, context: Context, files: Sequence[Named] = ()) -> Step:
    """The step with the files that it names (models, lists) on this node's disk. files: these, as the plan found them."""
    known = {file.uri: file for file in files}
    changes: dict[str, Any] = {}
    for name, uris in named_files(step).items():
        local = [str(fetch_named(known.get(uri, Named(uri, "")), context)) for uri in uris]
        changes[name] = local[0] if isinstance(getattr(step, name), str) else tuple(local)
    return step.model_copy(update=changes) if changes else step


def read_removals(removals: tuple[Stored, ...], context: Context) -> pa.Table | None:
    """All rows that dedup removed from a part: `row`, `reason`, `representative`, sorted by row; None for none."""
    tables = []
    for removal in removals:
        with context.open(removal) as file:
            tables.append(pq.ParquetFile(file).read(["row", "reason", "representative"]))
    if not tables:
        return None
    table = pa.concat_tables(tables)
    return table.sort_by("row") if len(tables) > 1 else table


def found_as(stream: BinaryIO) -> Callable[[np.ndarray], np.ndarray]:
    """From rows of a part to as how many each of these documents was found, by the file that a dedup wrote of it."""
    table = pq.read_table(stream)
    rows, counts = (np.asarray(table.column(name), np.int64) for name in ("row", "copies"))

    def found(asked: np.ndarray) -> np.ndarray:
        at = np.minimum(np.searchsorted(rows, asked), max(len(rows) - 1, 0))
        return np.where(rows[at] == asked, counts[at], 1) if len(rows) else np.ones(len(asked), np.int64)

    return found


def part_batches(
    part: PartInput, context: Context, batch_bytes: int, columns: list[str] | None = None
) -> Iterator[tuple[int, pa.RecordBatch, pa.RecordBatch]]:
    """The rows of a part that stay, and those that dedup removed (with `reason` and `representative`), in batches.

    Each pair comes with the row number, in the part, of the batch's first row.
    """
    table = read_removals(part.removals, context)
    removed = np.asarray(table.column("row"), np.int64) if table is not None else np.zeros(0, np.int64)
    made = {name: file for name, file in part.copies if columns is None or name in columns}
    copies = {}
    for name, file in made.items():
        with context.open(file) as stream:
            copies[name] = found_as(stream)
    stored = None if columns is None else [name for name in columns if name not in made]
    with context.open(part.part) as file:
        for start, batch in read_part(file, batch_bytes, stored):
            kept, gone, which = without_rows(start, batch, removed)
            if copies:
                stays = np.delete(np.arange(start, start + batch.num_rows), removed[which] - start)
                for name, found in copies.items():
                    kept = kept.append_column(name, pa.array(found(stays), pa.int64()))
            for name in ("reason", "representative"):
                values = pa.nulls(0, pa.large_string())
                if table is not None and len(which):
                    values = table.column(name).take(pa.array(which)).combine_chunks()
                gone = gone.append_column(name, values.cast(pa.large_string()))
            yield start, kept, gone
