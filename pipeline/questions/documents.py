"""The documents of a finished run as Arrow: which were kept, which were dropped and why, with all their measures.

Rows are read from the parts, as they were: the text of a kept document is the one that was tokenized, the text of a dropped
one is what the step that dropped it was given. Batches are read one after another, so memory does not grow with the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.questions.measured import document_keys
from pipeline.recipe.overrides import nearest
from pipeline.run_folder.finished import FinishedRun, SourceParts
from pipeline.run_folder.run_summary import read_summary
from stages.chain import BYTES_IN, TEXT_IN
from stages.errors import UserError

OUTCOME = pa.schema(
    [
        pa.field("outcome", pa.large_string(), nullable=False),  # kept, dropped or failed
        pa.field("reason", pa.large_string()),  # the recipe's key that dropped it; of a failed one the step and its error
        pa.field("representative", pa.large_string()),  # of a copy: the id of the document that stays
    ]
)
INNER = ("row", "reached", "html", "charset", "step", "error", "traceback", "payload")  # left out unless asked for


@dataclass(frozen=True)
class Wanted:
    """Which documents, by what became of them; columns: None for all but those that only a run needs."""

    kept: bool = True
    dropped: bool = False
    failed: bool = False
    columns: tuple[str, ...] | None = None


def documents(run: FinishedRun, source: str, wanted: Wanted) -> pa.RecordBatchReader:
    """The documents of a source in batches of about 8 MiB of text, part by part in the run's order.

    The columns are those of a document (id, text, url, file, record, offset, metadata), `outcome`, `reason`,
    `representative`, and each measure under `step.measure`; null where a document did not come that far. Held-out documents are
    kept ones. Raises UserError for a source or column that there is not, and for documents that were let go (`run.keep`).
    """
    parts = source_of(run, source)
    if wanted.kept and parts.parts and any(files.kept is None for files in parts.parts[-1]):
        raise UserError(
            f"{run.uri}: the kept documents of {source} were let go (run.keep is {run.recipe.run.keep}); "
            "run the recipe again with run.keep=all"
        )
    schema = _schema(run, parts, wanted)
    return pa.RecordBatchReader.from_batches(schema, (_fill(batch, schema) for batch in _batches(run, parts, wanted)))


def source_of(run: FinishedRun, name: str) -> SourceParts:
    """A source of a run by its name. Raises UserError with the nearest name where there is none."""
    if name not in run.sources:
        raise UserError(f"{run.uri} has no source {name!r}{nearest(name, list(run.sources))}")
    return run.sources[name]


def kept_paths(run: FinishedRun, source: SourceParts) -> list[str | None]:
    """For each part of a source the file of the documents that came to the tokenizer: of their texts as dedups left them."""
    paths = [files.kept for files in source.parts[-1]] if source.parts else []
    if run.recipe.run.keep != "all":
        return paths
    edited = edited_by_dedup(run)
    found: list[str | None] = []
    for path in paths:
        while path in edited:
            path = edited[path]
        found.append(path)
    return found


def edited_by_dedup(run: FinishedRun) -> dict[str, str]:
    """Part -> the part that a dedup wrote in its place, with the same rows and paragraphs cut out of their texts."""
    dedups = read_summary(run.uri).dedup
    return {one.read[i].path: path for one in dedups.values() for i, path in (one.parts or {}).items()}


def _batches(run: FinishedRun, source: SourceParts, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    last = kept_paths(run, source)
    for ordinal in range(len(source.parts[0]) if source.parts else 0):
        for stage in source.parts:
            files = stage[ordinal]
            if wanted.dropped and files.dropped:
                for _, batch in run.rows(files.dropped, _read(run, files.dropped, wanted)):
                    yield _with_outcome(batch, "dropped")
            if wanted.failed and files.failed:
                for _, batch in run.rows(files.failed):
                    yield _failed(batch)
        if (path := last[ordinal]) is not None and (wanted.kept or wanted.dropped):
            yield from _last(run, source, ordinal, path, wanted)


def _last(run: FinishedRun, source: SourceParts, ordinal: int, path: str, wanted: Wanted) -> Iterator[pa.RecordBatch]:
    """The documents of a source's last part: kept, but for those that the last dedup or the tokenizer dropped."""
    late = _dropped_late(run, source, ordinal)
    keys = document_keys(late)
    for _, batch in run.rows(path, _read(run, path, wanted)):
        place = pc.index_in(document_keys(batch), value_set=keys)
        if wanted.kept:
            yield _with_outcome(batch.filter(place.is_null()), "kept")
        if wanted.dropped and place.null_count < len(place):
            gone, which = batch.filter(place.is_valid()), place.drop_null()
            for name in ("reason", "representative"):
                gone = gone.append_column(name, late.column(name).take(which))
            yield _with_outcome(gone, "dropped")


def _dropped_late(run: FinishedRun, source: SourceParts, ordinal: int) -> pa.RecordBatch:
    """file, record, reason and representative of the documents of a part that were dropped after its last step."""
    names = ["file", "record", "reason", "representative"]
    empty = pa.schema([(name, pa.int64() if name == "record" else pa.large_string()) for name in names])
    if ordinal >= len(source.tokens):
        return pa.RecordBatch.from_pylist([], empty)
    found = [batch.select(names) for _, batch in run.rows(source.tokens[ordinal].dropped, names)]
    whole = pa.Table.from_batches(found or [pa.RecordBatch.from_pylist([], empty)]).combine_chunks().to_batches()
    return whole[0] if whole else pa.RecordBatch.from_pylist([], empty)


def _with_outcome(batch: pa.RecordBatch, outcome: str) -> pa.RecordBatch:
    return batch.append_column("outcome", pa.repeat(pa.scalar(outcome, pa.large_string()), batch.num_rows))


def _failed(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Failed documents: the reason is the step and its error; what it was given is the text, where that is UTF-8."""
    said = pc.binary_join_element_wise(batch.column("step"), batch.column("error"), pa.scalar(": ", pa.large_string()))
    payloads = (None if data is None else data.decode(errors="replace") for data in batch.column("payload").to_pylist())
    batch = batch.append_column("reason", said).append_column("text", pa.array(payloads, pa.large_string()))
    return _with_outcome(batch, "failed")


def _schema(run: FinishedRun, source: SourceParts, wanted: Wanted) -> pa.Schema:
    """The columns of the batches: of all files that are read together, in the order of the last of them."""
    last = kept_paths(run, source)
    paths = [path for path in last if path and (wanted.kept or wanted.dropped)]
    for stage in source.parts:
        for files in stage:
            paths += [path for path, asked in ((files.dropped, wanted.dropped), (files.failed, wanted.failed)) if asked and path]
    fields: dict[str, pa.Field] = {field.name: field.with_nullable(True) for field in OUTCOME}
    text = {}
    for path in paths:
        for field in run.schema(path):
            kind = pa.large_string() if pa.types.is_string(field.type) else field.type
            fields.setdefault(field.name, pa.field(field.name, kind))
            text |= {"text": pa.field("text", pa.large_string())} if field.name in ("text", "payload") else {}
    fields |= text
    inner = (*OUTCOME.names, *INNER)
    names = [name for name in fields if name not in inner and not name.endswith((TEXT_IN, BYTES_IN))]
    order = [name for name in ("id", "text", "url") if name in names]
    order += [*OUTCOME.names, *(name for name in names if name not in order)]
    if wanted.columns is not None:
        for name in wanted.columns:
            if name not in fields:
                raise UserError(f"{run.uri}: documents of {source.name} have no column {name!r}{nearest(name, order)}")
        order = list(wanted.columns)
    return pa.schema([fields[name] for name in order])


def _read(run: FinishedRun, path: str, wanted: Wanted) -> list[str]:
    """The columns of a part to read: those asked for, and what tells a document."""
    there = run.columns(path)
    if wanted.columns is None:
        return [name for name in there if name not in ("html", "row") and not name.endswith((TEXT_IN, BYTES_IN))]
    return [name for name in there if name in {*wanted.columns, "file", "record"}]


def _fill(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch in the columns of the schema; those that it lacks are null."""
    names: Sequence[str] = batch.schema.names
    columns = [
        batch.column(f.name).cast(f.type) if f.name in names else pa.nulls(batch.num_rows, f.type) for f in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
