"""Bodies and headers as servers and crawlers write them: read to their end, or left out with a reason."""

import gzip
import io
import json
import random
import re

import pytest
import zstandard
from fastwarc.stream_io import BrotliWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.read import Dropped, Problem, ReadSpec, Repaired, Skipped, read_batches
from stages.read.headers import ContentType, content_type, parse_headers
from stages.read.http import BodyError, BodySizeError, binary_kind, decode_body

HTML = b"<html><body>" + b"<p>Water turns the wheel, and the wheel turns the stone.</p>\n" * 40 + b"</body></html>"


def record(
    body,
    *headers,
    kind="response",
    type="application/http; msgtype=response",
    end="\r\n",
    extra="",
    uri="http://a.org/1",
):
    """One record: `headers` are lines of the HTTP header."""
    lines = ["HTTP/1.1 200 OK", *headers, "", ""]
    block = end.join(lines).encode() + body if kind == "response" and headers else body
    head = [
        "WARC/1.0",
        f"WARC-Type: {kind}",
        "WARC-Record-ID: <urn:uuid:1>",
        f"WARC-Target-URI: {uri}",
        *([f"Content-Type: {type}"] if type else []),
        *([extra] if extra else []),
        f"Content-Length: {len(block)}",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + block + b"\r\n\r\n"


def read(raw, name="x.warc", **spec):
    events = []
    batches = read_batches(io.BytesIO(raw), name, ReadSpec(**spec), on_event=events.append)
    return [row for batch in batches for row in batch.to_pylist()], events


def html_of(raw, **spec):
    """The only page of a file in which nothing is wrong."""
    rows, events = read(raw, **spec)
    assert events == []
    (row,) = rows
    return row["html"]


def brotli(body):
    target = io.BytesIO()
    with BrotliWriter(target) as writer:
        writer.write(body)
    return target.getvalue()


def chunked(body, size=200, extension="", trailers="", end="\r\n", form="{:x}"):
    out = b""
    for at in range(0, len(body), size):
        piece = body[at : at + size]
        out += f"{form.format(len(piece))}{extension}{end}".encode() + piece + end.encode()
    return out + f"0{extension}{end}{trailers}{end}".encode()


PAGE = "Content-Type: text/html"
GZIP = "Content-Encoding: gzip"
CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize("members", [2, 3, 500])
@pytest.mark.parametrize("behind", [b"", bytes(100), b"junk"])
def test_all_members_of_a_gzip_body(members, behind):
    size = len(HTML) // members + 1
    body = b"".join(gzip.compress(HTML[at : at + size], mtime=0) for at in range(0, len(HTML), size))
    assert html_of(record(body + behind, PAGE, GZIP)) == HTML


def test_a_gzip_body_whose_later_member_is_cut_or_large():
    body = gzip.compress(HTML) + gzip.compress(HTML)
    rows, events = read(record(body[:-30], PAGE, GZIP))
    assert rows == []
    assert [(type(event), event.documents) for event in events] == [(Problem, 1)]
    rows, _ = read(record(body[:-30], PAGE, GZIP, extra="WARC-Truncated: length"))
    assert rows[0]["html"].startswith(HTML)
    rows, events = read(record(body, PAGE, GZIP), max_record_bytes=len(HTML) + 10)
    assert [(type(event), event.reason) for event in events] == [(Dropped, "max_record_bytes")]


def test_a_brotli_body_that_the_crawler_cut():
    body = brotli(HTML + random.Random(3).randbytes(60_000).hex().encode())
    rows, events = read(record(body[:-1000], PAGE, "Content-Encoding: br", extra="WARC-Truncated: time"))
    assert events == []
    assert rows[0]["html"].startswith(HTML)
    assert len(rows[0]["html"]) > 100_000


def test_zstd_bodies_of_several_frames_and_of_frames_to_be_skipped():
    skip = b"\x5a\x2a\x4d\x18\x04\0\0\0skip"
    body = skip * 1500 + zstandard.compress(HTML[:99]) + skip + zstandard.compress(HTML[99:]) + b"junk"
    assert html_of(record(body, PAGE, "Content-Encoding: zstd")) == HTML
    rows, events = read(record(body[:-40], PAGE, "Content-Encoding: zstd"))
    assert rows == []
    assert [(type(event), event.documents) for event in events] == [(Problem, 1)]


@pytest.mark.parametrize("first", ["HTTP/1.1 200", "http/1.1 200 OK", "HTTP/2 200", "ICY 200 OK", "\r\n\r\nHTTP/1.0 200 OK"])
def test_status_lines_as_servers_write_them(first):
    raw = record(HTML, PAGE).replace(b"HTTP/1.1 200 OK", first.encode())
    raw = re.sub(rb"Content-Length: \d+", b"Content-Length: %d" % (len(raw) - raw.index(first.encode()) - 4), raw)
    assert html_of(raw) == HTML


@pytest.mark.parametrize(
    "lines",
    [
        (GZIP, "Content-Encoding: br"),
        ("Content-Encoding: gzip, br",),
        ("content-encoding:gzip,br",),
        ("CONTENT-ENCODING: gzip", "Server: x", "Content-Encoding: identity", "Content-Encoding: br"),
        ("Content-Encoding: gzip,\r\n br",),
        ("Content-Encoding: gzip;q=1.0, 'br'",),
    ],
)
def test_encodings_in_several_lines(lines):
    assert html_of(record(brotli(gzip.compress(HTML)), PAGE, *lines)) == HTML


@pytest.mark.parametrize(
    "how",
    [
        {"extension": ";a=b"},
        {"extension": ' ; a="b; c" ;d'},
        {"trailers": "Expires: never\r\nX-Sum: 1\r\n"},
        {"end": "\n"},
        {"form": "{:X}"},
        {"form": "{:08x}"},
        {"form": "{:x} "},
        {"size": 10_000},
        {"size": 1},
    ],
)
@pytest.mark.parametrize("encoded", [False, True])
def test_chunks_as_the_standard_allows_them(how, encoded):
    lines = [PAGE, CHUNKED, *([GZIP] if encoded else [])]
    body = gzip.compress(HTML) if encoded else HTML
    assert html_of(record(chunked(body, **how), *lines)) == HTML
    assert html_of(record(chunked(body, **how) + b"HTTP/1.1 200 OK\r\n", *lines)) == HTML


@pytest.mark.parametrize("cut", [3, 100, 300, 700])
def test_chunks_cut_off(cut):
    body = chunked(HTML)[:-cut]
    rows, events = read(record(body, PAGE, CHUNKED))
    assert (rows, len(events)) == ([], 1)
    rows, events = read(record(body, PAGE, CHUNKED, extra="WARC-Truncated: time"))
    assert (HTML.startswith(rows[0]["html"]), events) == (True, [])
    assert len(rows[0]["html"]) > len(HTML) - cut


@pytest.mark.parametrize("size", ["fffffff", "7fffffffffffffff", "ffffffffffffffff"])
def test_a_chunk_that_says_more_than_any_file_holds(size):
    rows, events = read(record(f"{size}\r\n".encode() + HTML, PAGE, CHUNKED))
    assert (rows, [(type(event), event.documents) for event in events]) == ([], [(Problem, 1)])
    assert "ends too early" in events[0].reason
    rows, _ = read(record(f"{size}\r\n".encode() + HTML, PAGE, CHUNKED, extra="WARC-Truncated: length"))
    assert rows[0]["html"] == HTML


@pytest.mark.parametrize("change", [str.lower, str.upper, str.title])
def test_names_of_fields_in_any_case(change):
    lines = [PAGE + "; charset=latin-1", GZIP, "X-Robots-Tag: noai"]
    lines = [f"{change(name)} :{value}" for name, _, value in (line.partition(":") for line in lines)]
    raw = record(gzip.compress(HTML), *lines, extra="WARC-Date: 2024")
    for name in ("WARC-Type", "WARC-Record-ID", "WARC-Target-URI", "WARC-Date", "Content-Type", "Content-Length"):
        raw = raw.replace(f"{name}:".encode(), f"{change(name)} :".encode(), 1)
    (row,), events = read(raw)
    assert events == []
    assert (row["html"], row["charset"], row["id"], row["url"]) == (HTML, "latin-1", "urn:uuid:1", "http://a.org/1")
    metadata = {"date": "2024", "status": 200, "content_type": "text/html", "x_robots_tag": "noai"}
    assert json.loads(row["metadata"]) == metadata


@pytest.mark.parametrize("type", ["", "application/http", "text/html", "application/octet-stream"])
def test_a_response_is_http_where_its_block_says_so(type):
    assert html_of(record(HTML, PAGE, type=type)) == HTML


def test_responses_that_are_not_http():
    dns = record(b"20240101\na.org. 300 IN A 192.0.2.1\n", type="text/dns", uri="dns:a.org")
    ftp = record(b"a file", type="", uri="ftp://a.org/file")
    rows, events = read(dns + ftp)
    assert (rows, events) == ([], [Skipped("x.warc", "response (not HTTP)", 2, 41)])
    rows, events = read(record(b"<p>no header", type=""))
    assert rows == []
    assert [event.reason for event in events] == ["its HTTP header cannot be read: b'<p>no header'"]


def test_headers_with_bare_newlines_and_interim_responses():
    assert html_of(record(HTML, PAGE, end="\n")) == HTML
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"
    whole = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n" + HTML
    assert html_of(record(hints + whole)) == HTML
    assert html_of(record(b"HTTP/2 200\r\ncontent-type: text/html\r\n\r\n" + HTML)) == HTML


@pytest.mark.parametrize(
    ("value", "mime", "charset"),
    [
        ("text/html", "text/html", None),
        ("Text/HTML; Charset='UTF-8'", "text/html", "UTF-8"),
        ("text/html, text/html; charset=utf-8", "text/html", "utf-8"),
        ("text/html; charset=gbk, text/html", "text/html", "gbk"),
        ("text/plain; charset=gbk, text/html", "text/html", None),
        ("text/html, */*", "text/html", None),
        ("text/html, nonsense", "text/html", None),
        ('text/html; x="a, b/c"; charset="koi8-r"', "text/html", "koi8-r"),
        ("text/html;charset=", "text/html", None),
        ("text/html charset=utf-8", "text/html", "utf-8"),
        ("", "", None),
        (None, "", None),
        ("," * 60_000, "", None),
    ],
)
def test_content_types(value, mime, charset):
    assert content_type(value) == ContentType(mime, charset)


def test_content_type_in_several_lines():
    assert html_of(record(HTML, "Content-Type: text/plain", PAGE)) == HTML
    (row,), _ = read(record(HTML, "Content-Type: text/html, text/html; charset=utf-8"))
    assert (row["html"], row["charset"]) == (HTML, "utf-8")


def test_fields_that_are_folded_or_not_utf8():
    head = b"WARC/1.0\r\nX-Robots-Tag: noindex,\r\n\tnoai\r\nX-ROBOTS-TAG: all\nContent-Language: d\xe9\r\n\r\n"
    _, fields = parse_headers(head)
    assert fields.joined("x-robots-tag") == "noindex, noai, all"
    assert fields.get("x-robots-tag") == "noindex, noai"
    assert fields.get("content-language") == "dé"


MAGIC = {
    "gzip": gzip.compress(HTML),
    "zstd": zstandard.compress(HTML),
    "pdf": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "zip": b"PK\x03\x04\x14\0",
    "png": b"\x89PNG\r\n\x1a\n",
    "jpeg": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "gif": b"GIF89a\x01\0",
    "binary": b"\x1b" + random.Random(2).randbytes(2000),
}


@pytest.mark.parametrize("kind", MAGIC)
def test_a_body_that_is_no_page_has_a_reason_of_its_own(kind):
    for lines in ([PAGE], [PAGE, "Content-Encoding: br"], ["Content-Type: text/plain"]):
        body = brotli(MAGIC[kind]) if len(lines) > 1 else MAGIC[kind]
        rows, events = read(record(body, *lines), mime_types=["text/html", "text/plain"])
        assert rows == []
        assert [(type(event), event.reason, event.bytes > 0) for event in events] == [(Dropped, f"body.{kind}", True)]


@pytest.mark.parametrize("before", [b"\r\n\r\n ", b"\xef\xbb\xbf"])
def test_what_stands_before_the_first_bytes_of_a_pdf(before):
    _, events = read(record(before + MAGIC["pdf"], PAGE))
    assert [(type(event), event.reason) for event in events] == [(Dropped, "body.pdf")]


def test_pages_that_only_look_binary():
    text = "<p>水は水車小屋のそばを流れ、水車は何世紀も前から回っています</p>" * 20
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "iso-2022-jp", "shift_jis", "utf-8"):
        assert html_of(record(text.encode(encoding), PAGE)) == text.encode(encoding)
    plain = "水は水車小屋のそばを流れる" * 100
    assert html_of(record(plain.encode("utf-16-le"), PAGE + "; charset=utf-16le")) == plain.encode("utf-16-le")


def test_what_responses_say_about_use_is_kept():
    lines = {
        "X-Robots-Tag": "noai, noimageai",
        "TDM-Reservation": "1",
        "TDM-Policy": "https://a.org/policy.json",
        "Content-Language": "de-AT",
        "Last-Modified": "Tue, 03 Sep 2024 00:00:00 GMT",
    }
    (row,), _ = read(record(HTML, PAGE, *(f"{name}: {value}" for name, value in lines.items()), "Server: x"))
    kept = {name.lower().replace("-", "_"): value for name, value in lines.items()}
    assert json.loads(row["metadata"]) == {"status": 200, "content_type": "text/html", **kept}
    (row,), _ = read(record(HTML, PAGE, "X-Robots-Tag: noindex", "X-Robots-Tag: bot: noai"))
    assert json.loads(row["metadata"])["x_robots_tag"] == "noindex, bot: noai"


@pytest.mark.parametrize("name", ["x.warc.wet", "CC-MAIN.warc.wet.gz", "x.wet.gz"])
def test_a_wet_file_is_plain_text(name):
    raw = record(b"software: x", kind="warcinfo", type="application/warc-fields")
    raw += record(
        "Mühle\n".encode(), kind="conversion", type="text/plain", extra="WARC-Identified-Content-Language: deu"
    )
    raw += record(b"no type", kind="conversion", type="")
    raw += record(b"M\xc3hle und M\xc3\xbchle", kind="conversion", type="text/plain")
    rows, events = read(gzip.compress(raw) if name.endswith(".gz") else raw, name)
    assert [(row["html"], row["text"]) for row in rows] == [
        (None, "Mühle\n"),
        (None, "no type"),
        (None, "M\ufffdhle und Mühle"),
    ]
    assert json.loads(rows[0]["metadata"]) == {"identified_languages": "deu", "content_type": "text/plain"}
    assert events == [Skipped(name, "warcinfo", 1, 11), Repaired(name, "text with bytes that mean nothing", 1)]
    assert not ReadSpec().holds_pages(name)
    assert ReadSpec().holds_pages("x.warc.gz")


def test_wat_and_resource_records():
    raw = record(b'{"Envelope": 1}', kind="metadata", type="application/json")
    rows, events = read(raw, "x.warc.wat")
    assert (rows, events) == ([], [Skipped("x.warc.wat", "metadata", 1, 15)])
    (row,), events = read(raw, "x.warc.wat", record_types=["metadata"], mime_types=["application/json"])
    assert (row["html"], row["text"], events) == (None, '{"Envelope": 1}', [])
    raw = record(HTML, kind="resource", type="text/html; charset=gbk")
    (row,), events = read(raw, record_types=["response", "resource"])
    assert (row["html"], row["charset"], events) == (HTML, "gbk", [])


PACKED = [HTML, gzip.compress(HTML), brotli(HTML), zstandard.compress(HTML), chunked(HTML), chunked(gzip.compress(HTML))]
CODINGS = st.lists(st.sampled_from(["gzip", "br", "deflate", "zstd", "chunked", "identity", "x", ""]), max_size=3)


@given(st.sampled_from(PACKED), st.binary(max_size=9), st.integers(0, 3000), CODINGS, CODINGS, st.booleans())
@settings(max_examples=400, deadline=None)
def test_no_body_raises_anything_else(body, noise, at, transfer, content, partial):
    """Whatever is in a body, it is decoded, or refused with a reason, or too large."""
    body = body[: at % len(body)] + noise + body[at % len(body) :]
    try:
        found = decode_body(body, ", ".join(transfer), ", ".join(content), 10_000, partial=partial)
        assert len(found) <= 10_000
        binary_kind(found, None)
    except BodyError as error:
        assert str(error)
    except BodySizeError:
        pass
