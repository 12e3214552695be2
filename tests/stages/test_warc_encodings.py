"""Bodies of WARC responses: encodings are undone, or were already; a damaged body costs its page."""

import gzip
import io
import random
import zlib

import pytest
import zstandard
from fastwarc.stream_io import BrotliWriter
from warc_records import PAGE_HTML, members, problems, read, record


def _chunked(body):
    return (
        b"".join(b"%x\r\n%s\r\n" % (len(body[i : i + 20]), body[i : i + 20]) for i in range(0, len(body), 20))
        + b"0\r\n\r\n"
    )


def _brotli(body):
    target = io.BytesIO()
    with BrotliWriter(target) as writer:
        writer.write(body)
    return target.getvalue()


def _bare_deflate(body):
    deflate = zlib.compressobj(wbits=-15)
    return deflate.compress(body) + deflate.flush()


ENCODED = {
    "Content-Encoding: gzip": gzip.compress,
    "Content-Encoding: x-gzip": gzip.compress,
    "Content-Encoding: GZIP": gzip.compress,
    "Content-Encoding: deflate": zlib.compress,
    "Content-Encoding: deflate ": _bare_deflate,
    "Content-Encoding: br": _brotli,
    "Content-Encoding: zstd": zstandard.compress,
    "Content-Encoding: identity": bytes,
    "Content-Encoding: gzip, gzip": lambda body: gzip.compress(gzip.compress(body)),
    "Transfer-Encoding: chunked": _chunked,
    "Transfer-Encoding: chunked\r\nContent-Encoding: gzip": lambda body: _chunked(gzip.compress(body)),
}


@pytest.mark.parametrize("header", ENCODED)
def test_encodings_are_undone_or_were_already(header):
    http = f"Content-Type: text/html\r\n{header}"
    for body in (ENCODED[header](PAGE_HTML), PAGE_HTML):
        rows, events = read(members(record(1, body=body, http=http)))
        assert events == []
        assert [row["html"] for row in rows] == [PAGE_HTML]


@pytest.mark.parametrize(
    ("header", "body"),
    [
        ("Content-Encoding: gzip", gzip.compress(random.Random(1).randbytes(500))[:-100]),
        ("Content-Encoding: zstd", zstandard.compress(PAGE_HTML * 10)[:-5]),
        ("Content-Encoding: secret", b"\0\1\2"),
        ("Content-Encoding: br", b"\xff\0\1\2\3"),
        ("Transfer-Encoding: chunked", _chunked(PAGE_HTML)[:-30]),
        ("Transfer-Encoding: chunked", _chunked(PAGE_HTML).replace(b"\r\n14\r\n", b"\r\nzz\r\n")),
    ],
)
def test_a_damaged_body_costs_its_page(header, body):
    rows, events = read(members(record(1, body=body, http=f"Content-Type: text/html\r\n{header}"), record(2)))
    assert [row["record"] for row in rows] == [2]
    assert problems(events) == [(1, 0, 1)]
    assert [event.damage for event in events] == [False]  # the file itself is whole, and was read to its end
