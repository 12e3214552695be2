"""WARC: whole files are read whole, damage costs what it touches and is located, nothing is lost unsaid."""

import gzip
import io
import json
import random
import re
import tracemalloc

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from warc_records import PAGE_HTML, dropped, members, problems, read, record

from stages.read import ReadSpec, Skipped, read_batches

WHOLE = [
    record(1, "warcinfo", b"software: x"),
    record(2),
    record(3, "request", b"GET /"),
    record(4, body=b"<p>\xe4</p>"),
]


@pytest.mark.parametrize("name", ["x.warc", "x.warc.gz", "x.warc.zst", "one.warc.gz"])
def test_a_whole_file(name):
    raws = {
        "x.warc": b"".join(WHOLE),
        "x.warc.gz": members(*WHOLE),
        "x.warc.zst": b"".join(zstandard.compress(one) for one in WHOLE),
        "one.warc.gz": gzip.compress(b"".join(WHOLE), mtime=0),
    }
    rows, events = read(raws[name], name)
    assert [(row["id"], row["url"], row["record"], row["html"], row["text"]) for row in rows] == [
        ("urn:uuid:2", "http://a.org/2", 2, PAGE_HTML, ""),
        ("urn:uuid:4", "http://a.org/4", 4, b"<p>\xe4</p>", ""),
    ]
    known = {"date": "2024-01-01T00:00:00Z", "status": 200, "content_type": "text/html"}
    assert json.loads(rows[0]["metadata"]) == known
    assert [(event.kind, event.records) for event in events if isinstance(event, Skipped)] == [
        ("request", 1),
        ("warcinfo", 1),
    ]
    assert len(events) == 2
    starts = {
        "x.warc": [len(WHOLE[0]), sum(map(len, WHOLE[:3]))],
        "x.warc.gz": [len(members(WHOLE[0])), len(members(*WHOLE[:3]))],
        "one.warc.gz": [None, None],
    }
    if name in starts:
        assert [row["offset"] for row in rows] == starts[name]


def test_batches_are_bounded_and_keep_order():
    raw = members(*[record(i, body=b"<p>" + bytes([65 + i % 26]) * 1000) for i in range(50)])
    events = []
    batches = list(read_batches(io.BytesIO(raw), "x.warc.gz", ReadSpec(), batch_bytes=5000, on_event=events.append))
    assert [batch.num_rows for batch in batches] == [5] * 10
    assert [i for batch in batches for i in batch.column("record").to_pylist()] == list(range(1, 51))


@pytest.mark.parametrize("kind", ["plain", "members", "one member"])
def test_every_cut_is_reported_and_costs_only_what_it_touches(kind):
    records = [record(1), record(2, "request", b"GET /"), record(3)]
    parts = {"plain": records, "members": [members(one) for one in records], "one member": None}[kind]
    raw = b"".join(parts) if parts else gzip.compress(b"".join(records), mtime=0)
    name = "x.warc" if kind == "plain" else "x.warc.gz"
    ends = [sum(map(len, parts[: i + 1])) for i in range(3)] if parts else []
    for cut in range(1, len(raw)):
        rows, events = read(raw[:cut], name)
        whole = sum(end - (4 if kind == "plain" else 0) <= cut for end in ends)
        if parts:  # the two line ends that close a record hold nothing
            assert [row["record"] for row in rows] == [i for i in (1, 3) if i <= whole]
        boundary = cut in ends or (kind == "plain" and any(end - 4 <= cut <= end for end in ends))
        assert len(problems(events)) == (0 if boundary else 1), cut


DAMAGE = {
    "content": lambda raw: raw[: len(raw) // 2] + bytes([raw[len(raw) // 2] ^ 0xFF]) + raw[len(raw) // 2 + 1 :],
    "checksum": lambda raw: raw[:-6] + bytes([raw[-6] ^ 1]) + raw[-5:],
    "cut": lambda raw: raw[: len(raw) * 2 // 3],
    "junk behind": lambda raw: raw + b"junk" * 300,
    "zeros within": lambda raw: raw[:1000] + bytes(200) + raw[1200:],
    "zeros in the header": lambda raw: raw[:50] + bytes(200) + raw[250:],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_member_costs_itself(damage):
    noise = random.Random(0).randbytes(3000).hex().encode()
    good = [members(record(i, body=noise)) for i in range(1, 6)]
    raw = b"".join([*good[:2], DAMAGE[damage](good[2]), *good[3:]])
    rows, events = read(raw)
    expected = [1, 2, 3, 4, 5] if damage == "junk behind" else [1, 2, 4, 5]
    assert [row["id"][-1] for row in rows] == [str(i) for i in expected]
    assert len(problems(events)) == 1
    at = len(good[0]) + len(good[1]) + (len(good[2]) if damage == "junk behind" else 0)
    found = problems(events)[0]
    assert found[1] == at
    assert found[2] == (0 if damage in ("junk behind", "zeros in the header") else 1)


@pytest.mark.parametrize("name", ["x.warc", "x.warc.gz"])
@pytest.mark.parametrize("length", [10, 100_000, 10**15, "abc", -1, ""])
def test_a_wrong_content_length_costs_its_record(name, length):
    records = [record(1), record(2, length=length), record(3), record(4)]
    raw = members(*records) if name.endswith(".gz") else b"".join(records)
    rows, events = read(raw, name)
    assert [row["id"][-1] for row in rows] == ["1", "3", "4"]
    assert len(problems(events)) == 1
    start = len(members(records[0])) if name.endswith(".gz") else len(records[0])
    assert problems(events)[0] == (2, start, 1)


def test_line_ends_too_many_and_too_few_are_forgiven():
    raw = b"\r\n" + record(1) + b"\r\n\r\n\r\n" + record(2)[:-2] + record(3)[:-4] + record(4)
    rows, events = read(raw, "x.warc")
    assert [row["id"][-1] for row in rows] == ["1", "2", "3", "4"]
    assert events == []
    rows, events = read(b"".join(WHOLE).replace(b"\r\n", b"\n"), "x.warc")
    assert problems(events)  # bare newlines make the lengths wrong; with right lengths they are read:
    bare = record(1).split(b"HTTP/1.1")[0].replace(b"\r\n", b"\n") + b"HTTP/1.1" + record(1).split(b"HTTP/1.1")[1]
    assert [row["id"] for row in read(bare, "x.warc")[0]] == ["urn:uuid:1"]


def test_garbage_and_nothing():
    assert read(b"", "x.warc") == ([], [])
    for raw, name in (
        (b"", "x.warc.gz"),
        (b"no warc " * 1000, "x.warc"),
        (b"no gzip", "x.warc.gz"),
        (gzip.compress(b"no warc"), "x.warc.gz"),
    ):
        rows, events = read(raw, name)
        assert rows == []
        assert problems(events) == [(None, 0, 0)]
    rows, events = read(b"WARC/1.0\r\nX: " + b"y" * 100_000 + b"\r\n\r\n" + record(2), "x.warc")
    assert [row["record"] for row in rows] == [2]
    assert problems(events) == [(1, 0, 0)]


def test_a_body_that_the_crawler_cut_is_kept_as_far_as_it_goes():
    body = gzip.compress(PAGE_HTML + random.Random(1).randbytes(500).hex().encode())[:-100]
    http = "Content-Type: text/html\r\nContent-Encoding: gzip"
    rows, events = read(members(record(1, body=body, http=http, extra="WARC-Truncated: length\r\n")))
    assert rows[0]["html"].startswith(PAGE_HTML)
    assert json.loads(rows[0]["metadata"])["truncated"] == "length"
    assert events == []


def _dns(number):
    """A look-up as Heritrix records it."""
    block = b"20240101000000\na.org.\t300\tIN\tA\t192.0.2.1\n"
    return record(number, "request", block, extra="Content-Type: text/dns\r\n").replace(b"request", b"response")


def test_what_is_left_out_is_named():
    raw = members(
        record(1, status="404 Not Found"),
        record(2, http="Content-Type: image/png"),
        record(3, body=b"x" * 2000),
        record(4, body=gzip.compress(bytes(10_000_000)), http="Content-Type: text/html\r\nContent-Encoding: gzip"),
        record(5, http="Server: x"),
        record(6, body=b"%PDF", http="Server: x"),
        record(7, "resource", b"<p>r", extra="Content-Type: text/html\r\n"),
        _dns(8),
        record(9, status="no status"),
    )
    rows, events = read(raw, max_record_bytes=1500)
    assert [row["record"] for row in rows] == [5]
    assert dropped(events) == [
        (1, "status"),
        (2, "mime_types"),
        (3, "max_record_bytes"),
        (4, "max_record_bytes"),
        (6, "mime_types"),
    ]
    assert problems(events) == [(9, len(raw) - len(members(record(9, status="no status"))), 1)]
    assert {event.kind for event in events if isinstance(event, Skipped)} == {"resource", "response (not HTTP)"}
    rows, events = read(raw, status=(200, 404), mime_types=("image/png",))
    assert [row["record"] for row in rows] == [2]


def test_charset_of_the_header_and_plain_text():
    text = "Mühle".encode("latin-1")
    raw = members(
        record(1, body=text, http='Content-Type: text/html; charset="ISO-8859-1"'),
        record(2, body=text, http="Content-Type: text/plain; charset=iso-8859-1"),
        record(3, "conversion", "Mühle".encode(), extra="Content-Type: text/plain\r\n"),
    )
    spec = {"record_types": ("response", "conversion"), "mime_types": ("text/html", "text/plain")}
    rows, events = read(raw, **spec)
    assert events == []
    assert [(row["html"], row["charset"], row["text"]) for row in rows] == [
        (text, "ISO-8859-1", ""),
        (None, None, "Mühle"),
        (None, None, "Mühle"),
    ]


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_no_damage_crashes_or_hangs_or_duplicates(data):
    """Pages that come out of a damaged file are pages of the file, in order and whole, or named as problems."""
    name = data.draw(st.sampled_from(["x.warc", "x.warc.gz", "x.warc.zst"]))
    bodies = [b"<p>%d " % i + b"water " * (i * 5) for i in range(6)]
    records = [record(i, body=body) for i, body in enumerate(bodies)]
    packed = {"x.warc": records, "x.warc.gz": [members(one) for one in records]}
    raw = bytearray(b"".join(packed.get(name, [zstandard.compress(one) for one in records])))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        size = data.draw(st.integers(1, 60))
        what = data.draw(st.sampled_from(["change", "remove", "insert"]))
        noise = random.Random(size).randbytes(size)
        raw[at : at + (0 if what == "insert" else size)] = b"" if what == "remove" else noise
    rows, events = read(bytes(raw), name)
    numbers = [row["record"] for row in rows]
    assert numbers == sorted(set(numbers))
    if name == "x.warc.gz":  # the checksum of each member tells
        assert [row["html"] for row in rows] == [body for body in bodies if body in {row["html"] for row in rows}]
    assert len(rows) + len(events) >= 1


@pytest.mark.parametrize("head", ["content_length", "wrong_length"])
def test_damage_met_while_searching_for_the_next_record_is_a_problem_too(head):
    """A record that contradicts itself, in a member that also ends too early: one does not hide the other."""
    one = record(1, body=b"<p>first")
    broken = record(2, body=b"<p>second " + random.Random(1).randbytes(300_000))
    wrong = b"Content-Length: none" if head == "content_length" else b"Content-Length: 5"
    broken = re.sub(rb"Content-Length: \d+", wrong, broken, count=1)
    cut = members(broken)[:-1000]
    rows, events = read(members(one) + cut, "x.warc.gz")
    assert [row["record"] for row in rows] == [1]
    reasons = [event.reason for event in events]
    assert len(reasons) == 2
    assert "Content-Length" in reasons[0]
    assert "ends inside this gzip member" in reasons[1]


def test_memory_does_not_grow_with_the_file():
    one = members(record(1, body=b"<p>" + random.Random(0).randbytes(40_000).hex().encode()))
    peaks = []
    for copies in (50, 500):
        tracemalloc.start()
        stream = io.BytesIO(one * copies)
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        count = 0
        for batch in read_batches(stream, "x.warc.gz", ReadSpec(), batch_bytes=1 << 20, on_event=print):
            count += batch.num_rows
        peaks.append(tracemalloc.get_traced_memory()[1] - held)
        tracemalloc.stop()
        assert count == copies
    assert peaks[1] < peaks[0] * 1.2
    assert peaks[1] < 8 << 20


def test_a_record_far_over_the_limit_is_not_held():
    huge = record(2, body=bytes(60_000_000))
    for name, raw in (("x.warc.gz", members(record(1), huge, record(3))), ("x.warc", record(1) + huge + record(3))):
        tracemalloc.start()
        rows, events = read(raw, name, max_record_bytes=1_000_000)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert [row["record"] for row in rows] == [1, 3]
        assert dropped(events) == [(2, "max_record_bytes")]
        assert peak < 75_000_000  # two pieces of what 32 KiB of deflate can hold at most


# pages, documents dropped, problems as (record, offset, documents)
EDGE = {
    "allenai-sample-0000.warc.gz": (22, 0, []),
    "chatnoir-eu-block-sized-records.warc": (0, 0, []),  # three records without a type
    "chatnoir-eu-clipped.warc.gz": (0, 0, [(1, 0, 1)]),  # ends inside its only member
    "chatnoir-eu-warcfile.warc": (16, 0, []),
    "iipc-cc.warc.gz": (1, 0, []),
    "webrecorder-dupes.warc.gz": (1, 2, []),
    "webrecorder-example-digest.warc": (0, 0, []),  # requests only
    "webrecorder-example-resource.warc.gz": (0, 0, []),  # a resource, which is read on demand
    "webrecorder-example-trunc.warc": (0, 0, [(3, 1197, 1)]),  # Content-Length two bytes short
    "webrecorder-example-url-agnostic-orig.warc.gz": (1, 0, []),
    "webrecorder-example-wget-1-14.warc.gz": (1, 0, []),
    "webrecorder-example-wrong-chunks.warc.gz": (1, 0, []),  # says chunked, is not
    "webrecorder-example.warc": (1, 1, [(5, 4061, 0)]),  # a request with a Content-Length three bytes short
    "webrecorder-example.warc.gz": (1, 0, []),
    "webrecorder-example2.warc.gz": (1, 0, []),
    "webrecorder-iana.warc.gz": (16, 32, []),
    "webrecorder-post-test.warc.gz": (0, 3, []),
}


def test_edge_files(shared_data):
    files = sorted(path.name for path in (shared_data / "warc-edge").iterdir())
    assert files == sorted(EDGE)
    for name, expected in EDGE.items():
        rows, events = read((shared_data / "warc-edge" / name).read_bytes(), name)
        assert (len(rows), len(dropped(events)), problems(events)) == expected, name
    resource = (shared_data / "warc-edge" / "webrecorder-example-resource.warc.gz").read_bytes()
    rows, _ = read(resource, record_types=("resource",))
    assert [row["url"] for row in rows] == ["http://example.com/"]


def test_web_pages(shared_data):
    truth = json.loads((shared_data / "web-extraction-truth.json").read_text())
    found = []
    for name in ("web-a.warc.gz", "web-b.warc.gz"):
        rows, events = read((shared_data / name).read_bytes(), name, batch_bytes=4 << 20)
        assert [type(event) for event in events] == [Skipped]
        found += [row["url"] for row in rows]
    assert sorted(found) == sorted(truth)
