"""Records whose Content-Length takes in the beginning of the next one: that one is found, where it stands."""

import io

import pytest

from stages.read import Problem, ReadSpec, read_batches

HTML = b"<html><body><p>Water turns the wheel.</p></body></html>"


def record(number, kind="response", longer=0):
    """A record that says it is `longer` than it is."""
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML if kind == "response" else b"GET / HTTP/1.1\r\n\r\n"
    head = f"WARC/1.1\r\nContent-Length: {len(block) + longer}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Type: {kind}\r\n"
    return head.encode() + b"Content-Type: application/http\r\n\r\n" + block + b"\r\n\r\n"


@pytest.mark.parametrize("kind", ["response", "request"])
@pytest.mark.parametrize("longer", range(1, 40))
def test_the_next_record_is_found_wherever_the_length_ends(kind, longer):
    parts = [record(1), record(2, kind, longer), record(3), record(4)]
    events: list = []
    batches = read_batches(io.BytesIO(b"".join(parts)), "x.warc", ReadSpec(), batch_bytes=1 << 20, on_event=events.append)
    rows = [(row["id"], row["offset"]) for batch in batches for row in batch.to_pylist()]
    begins = [sum(map(len, parts[:number])) for number in range(4)]
    found = [("urn:uuid:1", 0), ("urn:uuid:3", begins[2]), ("urn:uuid:4", begins[3])]
    problems = [(event.record, event.offset, event.documents) for event in events if isinstance(event, Problem)]
    if longer <= 4:  # within the line ends between two records, of which no reader makes much
        assert problems == []
        assert rows == ([*found[:1], ("urn:uuid:2", begins[1]), *found[1:]] if kind == "response" else found)
    else:
        assert rows == found
        assert problems == [(2, begins[1], int(kind == "response"))]
