"""The job that draws a sample of one part's documents, and how any job does: by a hash of the document's id."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.jobs.inputs import part_batches
from pipeline.task import Context
from stages.document import document_hash
from stages.parts import PartWriter

VERSION = 1
COLUMNS = ["id", "text"]


def run(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Write the chosen documents of a part, in their order, to a part of their own."""
    schema = pa.schema([(name, pa.large_string()) for name in COLUMNS])
    with context.output(spec["output"]) as path, PartWriter(path, schema) as file:
        for batch in sampled([spec], spec["purpose"], spec["batch_bytes"], context):
            file.write(batch)
    return {"docs": file.rows}


def sampled(
    parts: list[dict[str, Any]], purpose: str, batch_bytes: int, context: Context
) -> Iterator[pa.RecordBatch]:
    """The documents (id, text) of which the parts' `share` is to be taken for this purpose, in canonical order."""
    for part in parts:
        limit = part["share"] * 2**64
        for _, kept, _ in part_batches(part["path"], part["removals"], context, batch_bytes, COLUMNS):
            names = kept.column("id").to_pylist()
            chosen = np.fromiter((document_hash(name, purpose) < limit for name in names), bool, len(names))
            yield kept.select(COLUMNS).filter(pa.array(chosen))
