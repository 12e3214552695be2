"""One document read again from its source file and taken through the steps that edit, to show what each of them did.

Edits are not stored: a run keeps the text that came out. So this needs the source file to be there still, and the text
that comes out is compared with the one on record where there is one.
"""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.jobs.context import Context
from pipeline.jobs.inputs import localise_step
from pipeline.plan.sources import SAMPLE, sample_folder
from pipeline.run_folder.finished import Row
from pipeline.storage.uri import located
from stages.chain import is_edit
from stages.document import payload_sizes
from stages.errors import UserError
from stages.read import Event, Part, ReadSpec, read_batches
from stages.step import Step

BATCH_BYTES = 1 << 20
DIFF_LINES = 400  # of one edit; a longer diff is cut, and says so


class Edit(msgspec.Struct, frozen=True):
    """What a step did to a document's text. diff: a unified diff of lines; None where a page became text."""

    step: str
    bytes_before: int
    bytes_after: int
    diff: str | None


def edits_of(
    steps: list[tuple[str, Step]], read: ReadSpec, document: Row, stored: str | None, folder: str | None
) -> tuple[list[Edit], str | None]:
    """What each editing step of `steps` did to a document, and a note where that is not known, or not surely.

    document: its file, record and offset. stored: the text on record after the last of `steps`, None where there is none.
    folder: of the recipe.
    """
    if not any(is_edit(step) for _, step in steps):
        return [], None
    try:
        batch = read_record(read, document["file"], document["record"], document["offset"], folder)
        if batch is None:
            return [], f"{document['file']} has no record {document['record']} now: the file changed since the run"
        edits, last = _replay(steps, batch)
    except UserError as error:
        return [], f"the edits cannot be shown, as the document cannot be made again: {error}"
    except Exception as error:  # a step that fails on this document fails here too: that is no reason to say nothing
        return [], f"the edits cannot be shown: {type(error).__name__}: {error}"
    if stored is not None and last != stored:
        return edits, "made again, the text is not the one on record: the source file, a model or the code changed since"
    return edits, None


def source_uri(file: str, folder: str | None) -> str:
    """Where a source file lies that documents name as `file`; folder: of the recipe."""
    return str(sample_folder() / file.removeprefix(SAMPLE)) if file.startswith(SAMPLE) else located(file, folder)


def read_record(
    read: ReadSpec, file: str, record: int, offset: int | None, folder: str | None
) -> pa.RecordBatch | None:
    """One record of a source file as a batch of one row; None where the file has no such document.

    A WARC record is read from its offset, a Parquet row from its row group; JSON lines are read up to the line.
    Raises UserError (StorageError, InputError) where the file is missing or cannot be read.
    """
    uri = source_uri(file, folder)
    kind = read.format_of(file)
    events: list[Event] = []
    if kind == "warc" and offset:
        with storage.open_stream(uri, offset=offset) as stream:
            first = next(read_batches(stream, file, read, batch_bytes=1, on_event=events.append), None)
            return first.slice(0, 1) if first is not None and first.num_rows else None
    part = None
    if kind == "parquet":
        with storage.open_random(uri) as stream:
            metadata = pq.read_metadata(stream)
        ends = np.cumsum([metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)])
        group = int(np.searchsorted(ends, record))
        if group >= len(ends):
            return None
        part = Part(row_groups=(group,))
    with storage.open_random(uri) if read.seeks(file) else storage.open_stream(uri) as stream:
        for batch in read_batches(stream, file, read, batch_bytes=BATCH_BYTES, on_event=events.append, part=part):
            events.clear()
            records = np.asarray(batch.column("record"))
            found = np.flatnonzero(records == record)
            if len(found):
                return batch.slice(int(found[0]), 1)
            if len(records) and records[-1] > record:
                return None
    return None


def _replay(steps: list[tuple[str, Step]], batch: pa.RecordBatch) -> tuple[list[Edit], str]:
    """The edits of a document, and its text after the last of them."""
    edits, after = [], ""
    cache = storage.Cache(storage.cache_folder(), 20 << 30)
    with tempfile.TemporaryDirectory() as scratch:
        context = Context("", Path(scratch), cache)
        for name, step in steps:
            if not is_edit(step):
                continue
            step = localise_step(step, context)
            step.prepare()
            page = "html" in batch.schema.names
            before, size = batch.column("text")[0].as_py(), int(payload_sizes(batch)[0])
            batch, _ = step.edit(batch)
            after = batch.column("text")[0].as_py()
            diff = None if page and not before else unified(before, after, name)
            edits.append(Edit(name, size, int(payload_sizes(batch)[0]), diff))
    return edits, after


def unified(before: str, after: str, name: str) -> str:
    """A unified diff of two texts, line by line; empty where they are equal, cut after `DIFF_LINES` lines."""
    lines = difflib.unified_diff(
        before.split("\n"), after.split("\n"), f"before {name}", f"after {name}", lineterm="", n=1
    )
    shown = []
    for number, line in enumerate(lines):
        if number == DIFF_LINES:
            shown.append(f"... (cut: only the first {DIFF_LINES} lines of the difference are shown)")
            break
        shown.append(line)
    return "\n".join(shown)
