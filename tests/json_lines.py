"""JSON read as a source of a recipe is, and JSON lines to read."""

import io
import json

from stages.document import DOCUMENT
from stages.read import ReadSpec, read_batches


def read(raw, name="in/x.jsonl", batch_bytes=1 << 20, part=None, **spec):
    events = []
    stream = io.BytesIO(raw[part.offset : part.offset + part.length] if part else raw)
    batches = list(
        read_batches(stream, name, ReadSpec(**spec), batch_bytes=batch_bytes, on_event=events.append, part=part)
    )
    for batch in batches:
        assert batch.schema == DOCUMENT
        batch.validate(full=True)
    return [row for batch in batches for row in batch.to_pylist()], events


def lines(*values):
    return b"".join((value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n" for value in values)
