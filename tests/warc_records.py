"""WARC records to read, and how they are read as a source of a recipe is."""

import gzip
import io

from stages.document import PAGE
from stages.read import Dropped, Problem, ReadSpec, read_batches

PAGE_HTML = b"<html><title>t</title><body><p>Water turns the wheel.</p></body></html>"


def record(
    number, kind="response", body=PAGE_HTML, http="Content-Type: text/html", extra="", status="200 OK", length=None
):
    block = body
    if kind in ("response", "revisit"):
        block = f"HTTP/1.1 {status}\r\n{http}\r\n\r\n".encode() + body
        extra = "Content-Type: application/http; msgtype=response\r\n" + extra
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
        f"WARC-Target-URI: http://a.org/{number}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n{extra}"
        f"Content-Length: {len(block) if length is None else length}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def members(*records):
    return b"".join(gzip.compress(one, mtime=0) for one in records)


def read(raw, name="x.warc.gz", batch_bytes=1 << 20, **spec):
    events = []
    batches = list(
        read_batches(io.BytesIO(raw), name, ReadSpec(**spec), batch_bytes=batch_bytes, on_event=events.append)
    )
    for batch in batches:
        assert batch.schema == PAGE
        batch.validate(full=True)
    return [row for batch in batches for row in batch.to_pylist()], events


def problems(events):
    return [(event.record, event.offset, event.documents) for event in events if isinstance(event, Problem)]


def dropped(events):
    return [(event.record, event.reason) for event in events if isinstance(event, Dropped)]
