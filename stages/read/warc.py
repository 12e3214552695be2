"""Reads the pages of a WARC file.

A page becomes a row whose `html` holds the body, transfer and content encodings undone. Plain text (a `conversion`
record of a WET file, a text/plain page, JSON) becomes a row whose `text` is decoded already and whose `html` is null.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import BinaryIO

import orjson
import pyarrow as pa

from stages.charset import as_utf8, decode
from stages.read.builder import BatchBuilder
from stages.read.compression import Members
from stages.read.events import Dropped, Event, Problem, Repaired, Skipped
from stages.read.frames import HEAD_END, MAX_HEAD, Frame, frames
from stages.read.headers import Headers, content_type, parse_headers, status_code
from stages.read.http import BodyError, BodySizeError, binary_kind, decode_body
from stages.read.settings import PLAIN_TEXT, TEXT_TYPE, Part, ReadSpec

REPAIRED = "text with bytes that mean nothing"
_LINE_END = (b"\r", b"\n")
_MARKUP = re.compile(rb"[\s\xef\xbb\xbf]*<")
# Of a response's header, what says something about the use of the page, or about its text; and of a record's.
_KEPT = {
    "content-language": "content_language",
    "last-modified": "last_modified",
    "x-robots-tag": "x_robots_tag",
    "tdm-reservation": "tdm_reservation",
    "tdm-policy": "tdm_policy",
}
_RECORD_KEPT = {
    "warc-date": "date",
    "warc-ip-address": "ip",
    "warc-identified-content-language": "identified_languages",
    "warc-truncated": "truncated",
}


class _Unwanted(Exception):
    """A record that is left out, with the setting, or the kind of body, that leaves it out."""


class _NotHttp(Exception):
    """A response of another protocol (DNS, FTP)."""


@dataclass(frozen=True, slots=True)
class _Page:
    """What a record holds: a page as bytes, or else a text."""

    html: bytes | memoryview | None
    text: bytes
    charset: str | None
    metadata: dict[str, str | int]
    replaced: int = 0


def read(
    stream: BinaryIO,
    file: str,
    spec: ReadSpec,
    batch_bytes: int,
    on_event: Callable[[Event], None],
    part: Part,
    max_window: int,
) -> Iterator[pa.RecordBatch]:
    """Batches of PAGE; see stages.read.format.read_batches."""
    builder = BatchBuilder(file, batch_bytes, on_event, pages=True)
    kinds, types = frozenset(spec.records_of(file)), frozenset(spec.types_of(file))
    name = PurePosixPath(file).name.encode("utf-8", "replace")
    skipped: Counter[str] = Counter()
    skipped_bytes: Counter[str] = Counter()
    repaired = 0
    members = Members.of_file(stream, file, spec.compression, max_window)
    for frame in frames(members, kinds.__contains__, spec.max_record_bytes):
        if frame.problem is None and frame.kind not in kinds:
            skipped[frame.kind] += 1
            skipped_bytes[frame.kind] += frame.length
            continue
        _, fields = parse_headers(frame.head)
        id, url = _bare(fields.get("warc-record-id")), _bare(fields.get("warc-target-uri"))
        key = id or (b"%s:%d" % (name, frame.record) if frame.record else None)
        try:
            if frame.problem is not None:
                raise BodyError(frame.problem)
            page = _page(frame, fields, spec, types)
            charset = page.charset.encode("utf-8", "replace") if page.charset else None
            metadata = orjson.dumps(page.metadata)
            builder.add(key or b"", page.text, url, frame.record or 0, frame.offset, metadata, page.html, charset)
            repaired += page.replaced > 0
        except _NotHttp:
            skipped[f"{frame.kind} (not HTTP)"] += 1
            skipped_bytes[f"{frame.kind} (not HTTP)"] += frame.length
        except _Unwanted as reason:
            builder.report(
                Dropped(file, str(reason), frame.record or 0, frame.offset, frame.length, _str(key), _str(url))
            )
        except BodyError as error:
            is_document = frame.record is not None and frame.kind in kinds
            offset = frame.problem_offset if frame.problem_offset is not None else frame.offset
            lost = (1, frame.length) if is_document else (0, 0)
            if frame.kind and frame.record is not None and not is_document:
                skipped[f"{frame.kind} (damaged)"] += 1
            damage = frame.problem is not None  # of the file; a body that does not decode is what the server sent
            builder.report(Problem(file, str(error), frame.record, offset, *lost, _str(key), _str(url), damage))
        if builder.full():
            yield builder.take()
    if builder.ids:
        yield builder.take()
    for kind, records in sorted(skipped.items()):
        on_event(Skipped(file, kind, records, skipped_bytes[kind]))
    if repaired:
        on_event(Repaired(file, REPAIRED, repaired))


def _page(frame: Frame, fields: Headers, spec: ReadSpec, types: frozenset[str]) -> _Page:
    """What a record holds. Raises _Unwanted, _NotHttp or BodyError."""
    if frame.block is None:
        raise _Unwanted("max_record_bytes")
    metadata: dict[str, str | int] = _kept(fields, _RECORD_KEPT)
    if frame.kind == "response":
        status, http, body = _response(fields, frame.block)
        if status not in spec.status:
            raise _Unwanted("status")
        metadata |= {"status": status, **_kept(http, _KEPT)}
        found = content_type(http.joined("content-type"))
        body = _decoded(body, http, spec.max_record_bytes, partial="truncated" in metadata)
    else:
        body, found = frame.block, content_type(fields.joined("content-type"))
    mime = found.mime or content_type(fields.get("warc-identified-payload-type")).mime or _assumed(frame.kind, body)
    if mime not in types:
        raise _Unwanted("mime_types")
    if kind := binary_kind(body, found.charset):
        raise _Unwanted(f"body.{kind}")
    if mime:
        metadata["content_type"] = mime
    if TEXT_TYPE.match(mime):
        is_utf8 = frame.kind == "conversion" and not found.charset  # what crawlers convert, they write as UTF-8
        text = as_utf8(bytes(body)) if is_utf8 else decode(bytes(body), found.charset)
        return _Page(None, text.text.encode("utf-8", "replace"), None, metadata, text.replaced)
    return _Page(body, b"", found.charset, metadata)


def _kept(fields: Headers, names: dict[str, str]) -> dict[str, str | int]:
    """The fields of these names that are there, under the names that metadata has for them."""
    return {names[name]: fields.joined(name) or "" for name in names if name in fields.fields}


def _assumed(kind: str, body: bytes | memoryview) -> str:
    """What a body is of which nobody says it: markup is taken as a page, and what a crawler converted as text."""
    if kind == "conversion":
        return PLAIN_TEXT
    return "text/html" if _MARKUP.match(body) else ""


def _response(fields: Headers, block: bytes) -> tuple[int, Headers, memoryview]:
    """Status, header and body of an HTTP response; interim responses (100 Continue) before it are passed over.

    What a response is, its block tells, where its record has no Content-Type, or another one than it should.
    """
    if block.startswith(_LINE_END):  # that some servers send too much: RFC 9112, section 2.2
        block = block.lstrip(b"\r\n")
    view = memoryview(block)
    if block[:5].upper() != b"HTTP/" and _is_other(fields):
        raise _NotHttp
    while True:
        end = HEAD_END.search(view, 0, MAX_HEAD)
        if end is None and len(view) >= MAX_HEAD:
            raise BodyError(f"its HTTP header is longer than {MAX_HEAD} bytes")
        at = end.end() if end else len(view)
        first, http = parse_headers(bytes(view[:at]))
        status, view = status_code(first), view[at:]
        if status is None:
            raise BodyError(f"its HTTP header cannot be read: {first[:40]!r}")
        if status >= 200 or bytes(view[:5]).upper() != b"HTTP/":
            return status, http, view


def _is_other(fields: Headers) -> bool:
    """Whether a response record says that it holds another protocol than HTTP."""
    mime = content_type(fields.joined("content-type")).mime
    scheme = (fields.get("warc-target-uri") or "").lstrip("<").partition(":")[0].lower()
    return mime != "application/http" and (bool(mime) or scheme not in ("http", "https"))


def _decoded(body: memoryview, http: Headers, limit: int, partial: bool) -> bytes | memoryview:
    """The body with its encodings undone. Raises BodyError or _Unwanted."""
    try:
        encodings = http.joined("transfer-encoding"), http.joined("content-encoding")
        return decode_body(body, *encodings, limit, partial=partial)
    except BodySizeError:
        raise _Unwanted("max_record_bytes") from None


def _bare(value: str | None) -> bytes | None:
    """An identifier or address without the brackets that older writers put around it."""
    bare = value.removeprefix("<").partition(">")[0].strip() if value else ""
    return bare.encode("utf-8", "replace") or None


def _str(value: bytes | None) -> str | None:
    return value.decode() if value is not None else None
