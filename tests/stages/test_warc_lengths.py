"""Records whose Content-Length takes in the beginning of the next one: that one is found, where it stands."""

import gzip
import io
import itertools

import pytest

from stages.read import Dropped, Problem, ReadSpec, Skipped, read_batches

HTML = b"<html><body><p>Water turns the wheel.</p></body></html>"


def record(number, kind="response", longer=0):
    """A record that says it is `longer` than it is."""
    block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML if kind == "response" else b"GET / HTTP/1.1\r\n\r\n"
    head = f"WARC/1.1\r\nContent-Length: {len(block) + longer}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Type: {kind}\r\n"
    return head.encode() + b"Content-Type: application/http\r\n\r\n" + block + b"\r\n\r\n"


@pytest.mark.parametrize("kind", ["response", "request"])
@pytest.mark.parametrize("longer", [*range(1, 40), *range(112, 124)])
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


def read(data, name="x.warc", **settings):
    events: list = []
    batches = read_batches(io.BytesIO(data), name, ReadSpec(**settings), batch_bytes=1 << 20, on_event=events.append)
    rows = [row for batch in batches for row in batch.to_pylist()]
    return [(row["id"].removeprefix("urn:uuid:"), row["offset"]) for row in rows], events


@pytest.mark.parametrize("name", ["x.warc", "x.warc.gz"])
@pytest.mark.parametrize("kind", ["response", "request"])
def test_a_length_beyond_what_is_kept_costs_its_record_and_no_other(kind, name):
    """Whether it ends within a record, within a header, or behind the file; in .gz as well, where one member holds all."""
    for longer in [*range(900, 1300, 7), 10**6, 10**15]:
        parts = [record(1), record(2, kind, longer), record(3), record(4, kind, longer), *map(record, range(5, 12))]
        data = b"".join(parts)
        begins = [0, *itertools.accumulate(map(len, parts))]
        if any(begins[number] + longer - begin in range(5) for number in (2, 4) for begin in begins):
            continue  # it ends between two records: it is a record that holds others
        rows, events = read(gzip.compress(data, 1) if name.endswith("gz") else data, name, max_record_bytes=800)
        assert [row[0] for row in rows] == ["1", "3", "5", "6", "7", "8", "9", "10", "11"], longer
        if name == "x.warc":
            assert [begins[int(row[0]) - 1] for row in rows] == [row[1] for row in rows]
        problems = [(event.record, event.documents) for event in events if isinstance(event, Problem)]
        assert problems == [(2, int(kind == "response")), (4, int(kind == "response"))]
        skipped = [(event.kind, event.records) for event in events if isinstance(event, Skipped)]
        assert skipped == ([("request (damaged)", 2)] if kind == "request" else [])


def test_records_within_a_large_record_are_none_of_the_files():
    """A record that holds a WARC file, and whose length is right."""
    inner = b"".join(record(number) for number in range(10, 40))
    head = b"WARC/1.1\r\nWARC-Type: response\r\nContent-Length: %d\r\n\r\n" % len(inner)
    data = record(1) + head + inner + b"\r\n\r\n" + record(3, longer=5000) + record(4) + head + inner + b"\r\n\r\n" + record(6)
    rows, events = read(data, max_record_bytes=800)
    assert [row[0] for row in rows] == ["1", "4", "6"]
    assert [event.reason for event in events if isinstance(event, Dropped)] == ["max_record_bytes"] * 2


def test_a_header_that_is_cut_off_is_of_no_kind():
    rows, events = read(record(1) + b"WARC/1.1\r\nWARC-Type: req")
    assert len(rows) == 1
    assert [(type(event), event.record) for event in events] == [(Problem, 2)]
