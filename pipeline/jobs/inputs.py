"""How jobs open what they read: source files, parts with the rows that dedup took, models and lists that steps name."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.plan.segments import file_fields
from pipeline.task import Context
from stages.parts import read_part, without_rows
from stages.step import Step


@contextmanager
def open_source(file: dict[str, Any], staged: bool, context: Context) -> Iterator[BinaryIO]:
    """A source file as a stream: from the disk it lies on, from the node's cache, or over the network.

    Parquet is read at many places, so it is opened for that; everything else is one pass over the file, or over its range.
    """
    offset, length, _ = file.get("lines") or (0, None, 1)
    if staged and not storage.is_local(file["uri"]):
        with (
            storage.pinned(file["uri"], context.cache) as path,
            path.open("rb") if file["random"] else storage.open_stream(path, offset, length) as stream,
        ):
            yield stream
    elif file["random"]:
        with storage.open_random(file["uri"]) as stream:
            yield stream
    else:
        with storage.open_stream(file["uri"], offset, length) as stream:
            yield stream


def localise_step(step: Step, context: Context) -> Step:
    """The step with the files that it names (models, lists) on this node's disk, fetched once a node."""
    changes: dict[str, Any] = {}
    for name, uris in file_fields(step).items():
        local = [str(storage.fetch(uri, context.cache)) for uri in uris]
        changes[name] = local[0] if isinstance(getattr(step, name), str) else tuple(local)
    return step.model_copy(update=changes) if changes else step


def read_removals(removals: list[dict[str, str]], context: Context) -> pa.Table | None:
    """All rows that dedup removed from a part: `row`, `reason`, `representative`, sorted by row; None for none."""
    tables = []
    for removal in removals:
        with context.open(removal["path"]) as file:
            tables.append(pq.read_table(file, columns=["row", "reason", "representative"]))
    if not tables:
        return None
    table = pa.concat_tables(tables)
    return table.sort_by("row") if len(tables) > 1 else table


def part_batches(
    path: str, removals: list[dict[str, str]], context: Context, batch_bytes: int, columns: list[str] | None = None
) -> Iterator[tuple[int, pa.RecordBatch, pa.RecordBatch]]:
    """The rows of a part that stay, and those that dedup removed (with `reason` and `representative`), in batches.

    Each pair comes with the row number, in the part, of the batch's first row.
    """
    table = read_removals(removals, context)
    removed = np.asarray(table.column("row"), np.int64) if table is not None else np.zeros(0, np.int64)
    with context.open(path) as file:
        for start, batch in read_part(file, batch_bytes, columns):
            kept, gone, which = without_rows(start, batch, removed)
            for name in ("reason", "representative"):
                values = table.column(name).take(pa.array(which)).combine_chunks() if len(which) else None
                values = values if values is not None else pa.nulls(0, pa.large_string())
                gone = gone.append_column(name, values.cast(pa.large_string()))
            yield start, kept, gone
