"""What a source looks like, from the first documents of its first file: for `init` and `validate`, which run nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import orjson
import pyarrow as pa

from pipeline import storage
from pipeline.jobs.inputs import SourceFile
from stages.errors import DocumentsFailed, UserError
from stages.extract.extract import Extract
from stages.quality.language import Language
from stages.read import Dropped, Event, ReadSpec, read_batches
from stages.read.events import Problem

DOCUMENTS = 100  # that are looked at
BATCH = 256 << 10
SHOWN = 60  # characters of a document's beginning
MEMORY = 512 << 20


@dataclass(frozen=True)
class Seen:
    """One document: its id, its URL, characters of its text (of its page where `page`), and how that begins."""

    id: str
    url: str | None
    size: int
    beginning: str
    page: bool


@dataclass(frozen=True)
class Look:
    """What the first documents of a file show. languages: label and documents; None where they cannot be told.

    problems: of records that are no documents. left_out: kinds of records that the settings leave out, with their number.
    """

    file: str
    read: int
    documents: tuple[Seen, ...]
    fields: tuple[str, ...]
    languages: tuple[tuple[str, int], ...] | None
    problems: tuple[str, ...]
    left_out: tuple[tuple[str, int], ...]


def look(file: SourceFile, read: ReadSpec, extract: Extract | None = None, shown: int = 3) -> Look:
    """The first documents of a file; pages as `extract` makes text of them. Raises UserError where it cannot be read."""
    events: list[Event] = []
    batches = [_text_of(batch, extract) for batch in _first_batches(file, read, events)]
    rows = [row for batch in batches for row in batch.to_pylist()][:DOCUMENTS]
    fields: dict[str, None] = {}
    for row in rows:
        fields |= dict.fromkeys(orjson.loads(row["metadata"]) if row["metadata"] else ())
    problems = [str(event.error()) for event in events if isinstance(event, Problem)]
    left_out = Counter(event.reason for event in events if isinstance(event, Dropped))
    seen = tuple(_seen(row) for row in rows[:shown])
    return Look(file.name, len(rows), seen, tuple(fields), _languages(rows), tuple(problems), tuple(left_out.most_common(3)))


def _first_batches(file: SourceFile, read: ReadSpec, events: list[Event]) -> Iterator[pa.RecordBatch]:
    random = read.seeks(file.name)
    with storage.open_random(file.uri) if random else storage.open_stream(file.uri) as stream:
        found = read_batches(stream, file.name, read, batch_bytes=BATCH, on_event=events.append, memory=MEMORY)
        rows = 0
        with closing(found) as batches:  # type: ignore[type-var]
            for batch in islice(batches, 64):
                yield batch
                rows += batch.num_rows
                if rows >= DOCUMENTS:
                    return


def _text_of(batch: pa.RecordBatch, extract: Extract | None) -> pa.RecordBatch:
    if extract is None or "html" not in batch.schema.names:
        return batch
    extract.prepare()
    try:
        return extract.edit(batch.slice(0, DOCUMENTS))[0]
    except DocumentsFailed as failed:
        return failed.result[0]


def _seen(row: dict[str, object]) -> Seen:
    page = row.get("html")
    text = page.decode("utf-8", "replace") if isinstance(page, bytes) else str(row["text"])
    beginning = " ".join(text[: 4 * SHOWN].split())
    cut = beginning[:SHOWN] + (" ..." if len(beginning) > SHOWN else "")
    return Seen(str(row["id"]), row["url"] if isinstance(row["url"], str) else None, len(text), cut, isinstance(page, bytes))


def _languages(rows: Sequence[dict[str, object]]) -> tuple[tuple[str, int], ...] | None:
    texts = [str(row["text"]) for row in rows if row["text"]]
    if not texts:
        return ()
    step = Language()
    try:
        step.prepare()
    except UserError:  # the model's package is not installed
        return None
    labels = step.measure(pa.record_batch({"text": pa.array(texts, pa.large_string())}))["label"]
    values = np.asarray(labels).tolist()
    return tuple(Counter(str(label or "none") for label in values).most_common(4))
