"""The job that shares documents as text: those of one part that went into a split, as they were when they were tokenized."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.jobs.context import Context
from pipeline.jobs.formats import ExportReport
from pipeline.plan.node import Job, Report
from stages.marks import HowMuch, InFile, OutFile, Setting
from stages.parts import PartWriter, read_part
from stages.tokens.formats.block import repeated
from stages.tokens.formats.jsonl import compressed
from stages.tokens.split import DATES

COLUMNS = ("id", "text", "url", "file", "record", "metadata")


@dataclass(frozen=True, slots=True)
class FileOfRun:
    """A file of the finished run, by its path there and its digest."""

    path: str
    digest: str

    def identity(self) -> str:
        """The content of the file."""
        return self.digest


@dataclass(frozen=True)
class ExportDocuments(Job):
    """Writes the documents of one part to JSON lines or Parquet, with url, source, date, metadata, token count and measures.

    index: of the split's tokens, which says what documents are in it. measures: columns of the part.
    """

    report: ClassVar[type[Report]] = ExportReport

    part: InFile[FileOfRun]
    index: InFile[FileOfRun]
    source: Setting[str]
    format: Setting[str]
    measures: Setting[tuple[str, ...]]
    compression: Setting[str]
    output: OutFile[str]
    run_uri: HowMuch[str]

    def run(self, context: Context) -> ExportReport:
        with ExitStack() as stack:
            path = stack.enter_context(context.output(self.output))
            if self.format == "parquet":
                batches = self._documents(context)
                first = next(batches)  # of no rows, for the schema
                out = stack.enter_context(PartWriter(path, first.schema))
                counts = np.zeros(2, np.int64)
                for batch in batches:
                    out.write(batch)
                    counts += (batch.num_rows, pc.sum(batch.column("token_count")).as_py() or 0)
                return ExportReport(documents=int(counts[0]), tokens=int(counts[1]))
            lines = stack.enter_context(compressed(stack.enter_context(path.open("wb")), self.compression))
            documents = tokens = 0
            for batch in self._documents(context):
                for row in batch.to_pylist():
                    lines.write(orjson.dumps(self._line(row), option=orjson.OPT_APPEND_NEWLINE))
                    documents, tokens = documents + 1, tokens + row["token_count"]
        return ExportReport(documents=documents, tokens=tokens)

    def _line(self, row: dict[str, Any]) -> dict[str, Any]:
        known = orjson.loads(row["metadata"]) if row["metadata"] else {}
        line = {name: row[name] for name in ("id", "text", "source", "url", "date", "token_count") if row[name] is not None}
        line["metadata"] = known | {"file": row["file"], "record": row["record"]}
        if self.measures:
            line["measures"] = {name: row[name] for name in self.measures}
        return line

    def _documents(self, context: Context) -> Iterator[pa.RecordBatch]:
        """The documents in batches, the first of them without rows."""
        chosen, tokens = self._chosen(context)
        path = self._fetched(self.part, context)
        schema = pq.read_schema(path)
        types = {name: schema.field(name).type if name in schema.names else pa.float64() for name in self.measures}
        there = [name for name in (*COLUMNS, *self.measures) if name in schema.names]
        yield self._batch(pa.RecordBatch.from_pylist([], pa.schema([schema.field(name) for name in there])), tokens[:0], types)
        for _, batch in read_part(path, 8 << 20, there):
            place = pc.index_in(_keys(batch.column("file"), batch.column("record")), value_set=chosen)
            kept = batch.filter(place.is_valid())
            yield self._batch(kept, tokens[np.asarray(place.drop_null())], types)

    def _batch(self, rows: pa.RecordBatch, tokens: np.ndarray, types: dict[str, pa.DataType]) -> pa.RecordBatch:
        string = pa.large_string()
        columns = {name: rows.column(name).cast(string) for name in ("id", "text", "url")}
        columns |= {
            "source": repeated(self.source, rows.num_rows),
            "date": pa.array([_date(text) for text in rows.column("metadata").to_pylist()], string),
            "token_count": pa.array(tokens, pa.int64()),
            "file": rows.column("file").cast(string),
            "record": rows.column("record"),
            "metadata": rows.column("metadata").cast(string),
        }
        for name, kind in types.items():
            columns[name] = rows.column(name) if name in rows.schema.names else pa.nulls(rows.num_rows, kind)
        return pa.RecordBatch.from_pydict(columns)

    def _chosen(self, context: Context) -> tuple[pa.Array, np.ndarray]:
        """FILE:RECORD and tokens (int64) of each document that went into the split."""
        table = pq.read_table(self._fetched(self.index, context), columns=["start", "end", "src", "loc"]).combine_chunks()
        counts = pc.subtract(table.column("end"), table.column("start")).to_numpy()
        keys = _keys(table.column("src").cast(pa.large_string()), table.column("loc"))
        return keys.combine_chunks() if isinstance(keys, pa.ChunkedArray) else keys, counts

    def _fetched(self, file: FileOfRun, context: Context) -> Any:
        uri = storage.join(self.run_uri, file.path)
        path = storage.fetch(uri, context.cache)
        storage.verify_path(path, file.digest, uri)
        return path


def _keys(files: Any, records: Any) -> Any:
    string = pa.large_string()
    return pc.binary_join_element_wise(files.cast(string), pc.cast(records, string), pa.scalar(":", string))


def _date(metadata: str | None) -> str | None:
    """What the metadata say of the document's date."""
    if not metadata:
        return None
    known = orjson.loads(metadata)
    found = next((known[name] for name in DATES if known.get(name)), None)
    return None if found is None else str(found)
