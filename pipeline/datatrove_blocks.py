"""Blocks for datatrove's pipelines that run Headrace's steps and dedups (docs/datatrove.md).

    LocalPipelineExecutor([JsonlReader("in"), HeadraceSteps(["gopher_quality", "repetition"]), JsonlWriter("out")], tasks=8).run()

Documents are gathered to Arrow batches, go through the compiled kernels together, and come out as the objects that came
in, in their order: with other texts where a step edits them, without those that a step drops.
"""

from __future__ import annotations

import contextlib
import pickle
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from datatrove.data import Document
from datatrove.pipeline.base import PipelineStep
from datatrove.utils.typeshelper import StatHints

from pipeline import storage
from pipeline.jobs.context import Context
from pipeline.jobs.inputs import localise_step
from pipeline.recipe.recipe import read_steps
from stages.chain import BYTES_IN, Chain, Outcome, is_edit
from stages.dedup.phases import group_parts, phases, run_inline
from stages.dedup.spec import AnyDedup
from stages.dedup.tasks import PartGiven
from stages.document import DOCUMENT, PAGE
from stages.errors import UserError
from stages.parts import PartWriter, read_part, total_bytes, without_rows
from stages.step import Step

BATCH_BYTES = 8 << 20
BATCH_ROWS = 1 << 16
PART_BYTES = 256 << 20
PICKLED = pa.field("pickled", pa.large_binary())  # metadata and media of a document that waits on disk


class HeadraceSteps(PipelineStep):
    """Takes documents through steps, as a recipe lists them: `["gopher_quality", {"repetition": {"top_2gram": 0.2}}]`.

    exclusion_writer: a datatrove writer for the documents that are dropped, with the reason as `filter_reason`. measures:
    put each measure of a kept document into its metadata, as `step.measure`. batch_bytes: of text that goes through together.
    A document's `url` and other metadata are there for the steps; before `extract`, its text is the page's HTML. Statistics
    are those of datatrove's filters. A document that a step fails on ends the task with its id and the cause. Raises UserError
    (RecipeError) for steps that are wrong, or that need all documents (`HeadraceDedup`).
    """

    name = "🌊 Headrace steps"
    type = "🔻 - FILTER"

    def __init__(
        self,
        steps: Sequence[Any],
        exclusion_writer: Any = None,
        measures: bool = False,
        batch_bytes: int = BATCH_BYTES,
    ) -> None:
        super().__init__()
        self.steps = list(steps)
        self.exclusion_writer, self.measures, self.batch_bytes = exclusion_writer, measures, batch_bytes
        if wrong := [name for name, item in read_steps(self.steps) if not isinstance(item, Step)]:
            raise UserError(f"HeadraceSteps: {wrong[0]} needs all documents: use HeadraceDedup for it")

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents that stay."""
        with self.exclusion_writer or contextlib.nullcontext() as writer, tempfile.TemporaryDirectory() as scratch:
            context = Context("", Path(scratch), storage.Cache(storage.cache_folder(), 20 << 30))
            chain = Chain([(name, localise_step(step, context)) for name, step in read_steps(self.steps)])
            pages = any(step.takes_pages for _, step in chain.steps)
            edits = any(is_edit(step) for _, step in chain.steps)
            for documents in gathered(data, self.batch_bytes):
                with self.track_time("batch"):
                    outcome = chain.run(as_batch(documents, pages=pages))
                    _raise_failed(outcome)
                    rows = np.asarray(outcome.kept.column("record")).tolist()
                    if edits:
                        for row, text in zip(rows, outcome.kept.column("text").to_pylist(), strict=True):
                            documents[row].text = text
                    if self.measures:
                        _add_measures(documents, rows, outcome.kept)
                dropped = [pair for batch in outcome.dropped for pair in zip(*_reasons(batch), strict=True)]
                _count(self, len(documents), len(rows), Counter(reason for _, reason in dropped))
                if writer is not None:
                    for row, reason in sorted(dropped):
                        documents[row].metadata["filter_reason"] = reason
                        writer.write(documents[row], rank)
                for row in rows:
                    self.update_doc_stats(documents[row])
                    yield documents[row]


class HeadraceDedup(PipelineStep):
    """Removes copies among all documents that come, by one of Headrace's dedups: `{"method": "minhash", "threshold": 0.8}`.

    All documents go through one task (`tasks=1`): they wait in `folder` (default: a temporary one) until the last has come.
    Memory is bounded by the dedup's own settings. The copies that are removed go to `exclusion_writer` with `filter_reason` and
    `representative`, the id of the document that stays. Of a bff or substring dedup, documents lose the repeated text only.
    Raises UserError for settings that are wrong, and where there are more tasks than one.
    """

    name = "🌊 Headrace dedup"
    type = "🫂 - DEDUPS"

    def __init__(self, dedup: Mapping[str, Any], folder: str | None = None, exclusion_writer: Any = None) -> None:
        super().__init__()
        self.dedup, self.folder, self.exclusion_writer = dict(dedup), folder, exclusion_writer
        _spec(self.dedup)

    def run(self, data: Any, rank: int = 0, world_size: int = 1) -> Iterator[Document]:
        """Yield the documents that stay, in the order in which they came."""
        if world_size != 1:
            raise UserError(f"HeadraceDedup compares all documents, so they go through one task: tasks=1, not {world_size}")
        with (
            self.exclusion_writer or contextlib.nullcontext() as writer,
            tempfile.TemporaryDirectory(dir=self.folder) as folder,
        ):
            parts = list(_stored(data, Path(folder)))
            if not parts:
                return
            with self.track_time("dedup"):
                found = run_inline(phases(_spec(self.dedup), group_parts(parts), folder))
            for part in parts:
                ordinal = str(part["ordinal"])
                path = (found.get("parts") or {}).get(ordinal, part["path"])
                yield from self._left(path, found["removals"][ordinal], writer, rank)

    def _left(self, path: str, removals: str, writer: Any, rank: int) -> Iterator[Document]:
        """The documents of a part without those that were removed."""
        table = pq.read_table(removals, columns=["row", "reason", "representative"])
        removed = np.asarray(table.column("row"), np.int64)
        for start, batch in read_part(Path(path), BATCH_BYTES):
            kept, gone, which = without_rows(start, batch, removed)
            reasons = table.column("reason").take(pa.array(which)).to_pylist()
            _count(self, batch.num_rows, kept.num_rows, Counter(reasons))
            if writer is not None:
                copies = table.column("representative").take(pa.array(which)).to_pylist()
                for document, reason, copy in zip(_documents(gone), reasons, copies, strict=True):
                    document.metadata |= {"filter_reason": reason, "representative": copy}
                    writer.write(document, rank)
            for document in _documents(kept):
                self.update_doc_stats(document)
                yield document


def gathered(documents: Iterable[Document], batch_bytes: int) -> Iterator[list[Document]]:
    """Documents in lists of about `batch_bytes` characters of text."""
    found: list[Document] = []
    size = 0
    for document in documents:
        found.append(document)
        size += len(document.text)
        if size >= batch_bytes or len(found) >= BATCH_ROWS:
            yield found
            found, size = [], 0
    if found:
        yield found


def as_batch(documents: Sequence[Document], *, pages: bool = False, first: int = 0) -> pa.RecordBatch:
    """A batch of DOCUMENT, or with `pages` of PAGE: the texts are HTML. `record` counts from `first`."""
    string, count = pa.large_string(), len(documents)
    texts = [document.text for document in documents]
    files = [str(document.metadata.get("file_path", "")) for document in documents]
    columns = {
        "id": pa.array([str(document.id) for document in documents], string),
        "text": pa.array([""] * count if pages else texts, string),
        "url": pa.array([_text_or_none(document.metadata.get("url")) for document in documents], string),
        "file": pa.array(files, string),
        "record": pa.array(np.arange(first, first + count)),
        "offset": pa.nulls(count, pa.int64()),
        "metadata": pa.array([orjson.dumps(d.metadata, default=str).decode() for d in documents], string),
    }
    if pages:
        columns |= {
            "html": pa.array([text.encode() for text in texts], pa.large_binary()),
            "charset": pa.array(["utf-8"] * count, string),
        }
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=PAGE if pages else DOCUMENT)


def _text_or_none(value: Any) -> str | None:
    return None if value is None else str(value)


def _raise_failed(outcome: Outcome) -> None:
    for batch in outcome.failed:
        row = batch.slice(0, 1).to_pylist()[0]
        raise UserError(f"document {row['id']}, step {row['step']}: {row['error']}\n{row['traceback']}")


def _reasons(dropped: pa.RecordBatch) -> tuple[list[int], list[str]]:
    return dropped.column("record").to_pylist(), dropped.column("reason").to_pylist()


def _count(block: PipelineStep, came: int, stayed: int, dropped: Mapping[str, int]) -> None:
    """Enter the documents of a batch, under the names that datatrove's filters have for them."""
    block.stat_update(StatHints.total, value=came, unit="batch")
    block.stat_update(StatHints.forwarded, value=stayed, unit="batch")
    if came > stayed:
        block.stat_update(StatHints.dropped, value=came - stayed, unit="batch")
    for reason, count in dropped.items():
        block.stat_update(f"dropped_{reason}", value=count, unit="batch")


def _add_measures(documents: Sequence[Document], rows: Sequence[int], kept: pa.RecordBatch) -> None:
    known = {*PAGE.names}
    for name in kept.schema.names:
        if name in known or name.endswith(BYTES_IN):
            continue
        for row, value in zip(rows, kept.column(name).to_pylist(), strict=True):
            documents[row].metadata[name] = value


def _spec(settings: Mapping[str, Any]) -> AnyDedup:
    ((_, found),) = read_steps([{"dedup": dict(settings)}])
    return found


def _stored(data: Iterable[Document], folder: Path) -> Iterator[PartGiven]:
    """Write the documents to parts of about PART_BYTES of text; what a dedup has to know of each."""
    schema = pa.schema([*DOCUMENT, PICKLED])
    first, ordinal, batches = 0, 0, gathered(data, BATCH_BYTES)
    documents = next(batches, None)
    while documents is not None:
        path, count, size = folder / f"documents-{first:012d}.parquet", 0, 0
        with PartWriter(path, schema) as part:
            while documents is not None and size < PART_BYTES:
                batch = as_batch(documents, first=first)
                pickled = pa.array([pickle.dumps((d.metadata, d.media), 5) for d in documents], PICKLED.type)
                part.write(batch.append_column(PICKLED, pickled))
                size, count, first = size + total_bytes(batch), count + len(documents), first + len(documents)
                documents = next(batches, None)
        yield PartGiven(ordinal=ordinal, path=str(path), source="documents", documents=count, bytes=size)
        ordinal += 1


def _documents(batch: pa.RecordBatch) -> Iterator[Document]:
    columns = (batch.column(name).to_pylist() for name in ("id", "text", "pickled"))
    for name, text, pickled in zip(*columns, strict=True):
        metadata, media = pickle.loads(pickled)
        yield Document(text=text, id=name, media=media, metadata=metadata)
