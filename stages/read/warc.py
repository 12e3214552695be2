"""Reads the pages of a WARC file.

A page becomes a row whose `html` holds the body, transfer and content encodings undone. Plain text (a `conversion`
record of a WET file, a text/plain page) becomes a row whose `text` is decoded already and whose `html` is null.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

import orjson
import pyarrow as pa
from fastwarc.warc import WarcRecord

from stages.charset import decode
from stages.read.builder import BatchBuilder
from stages.read.compression import Members, compression_of
from stages.read.events import Dropped, Event, Problem, Skipped
from stages.read.frames import HEAD_END, MAX_HEAD, Frame, frames
from stages.read.http import BodyError, BodySizeError, decode_body
from stages.read.settings import Part, ReadSpec

PLAIN_TEXT = "text/plain"
_MARKUP = re.compile(rb"[\s\xef\xbb\xbf]*<")
_CHARSET = re.compile(r"(?i)charset\s*=\s*[\"']?\s*([^\s\"';,]+)")
_URL = re.compile(rb"(?i)\nwarc-target-uri[ \t]*:[ \t]*<?([^\r\n>]*)")
_ID = re.compile(rb"(?i)\nwarc-record-id[ \t]*:[ \t]*<?([^\r\n>]*)")


class _Unwanted(Exception):
    """A record that is left out, with the setting that leaves it out."""


class _NotHttp(Exception):
    """A response of another protocol (DNS, FTP)."""


def read(
    stream: BinaryIO, file: str, spec: ReadSpec, batch_bytes: int, on_event: Callable[[Event], None], part: Part
) -> Iterator[pa.RecordBatch]:
    """Batches of PAGE; see stages.read.format.read_batches."""
    builder = BatchBuilder(file, batch_bytes, on_event, pages=True)
    kinds = frozenset(spec.record_types)
    name = PurePosixPath(file).name.encode("utf-8", "replace")
    skipped: dict[str, list[int]] = {}

    def skip(kind: str, size: int) -> None:
        counts = skipped.setdefault(kind, [0, 0])
        counts[0] += 1
        counts[1] += size

    for frame in frames(Members(stream, compression_of(file)), kinds.__contains__, spec.max_record_bytes):
        if frame.problem is None and frame.kind not in kinds:
            skip(frame.kind, frame.length)
            continue
        id, url = _header(_ID, frame.head), _header(_URL, frame.head)
        key = id or (b"%s:%d" % (name, frame.record) if frame.record else None)
        try:
            if frame.problem is not None:
                raise BodyError(frame.problem)
            html, text, charset, metadata = _page(frame, spec)
            builder.add(key or b"", text, url, frame.record or 0, frame.offset, metadata, html, charset)
        except _NotHttp:
            skip(f"{frame.kind} (not HTTP)", frame.length)
        except _Unwanted as reason:
            builder.report(Dropped(file, str(reason), frame.record, frame.offset, frame.length, _str(key), _str(url)))
        except BodyError as error:
            is_document = frame.record is not None and frame.kind in kinds
            offset = frame.problem_offset if frame.problem_offset is not None else frame.offset
            lost = (1, frame.length) if is_document else (0, 0)
            builder.report(Problem(file, str(error), frame.record, offset, *lost, _str(key), _str(url)))
        if builder.full():
            yield builder.take()
    if builder.ids:
        yield builder.take()
    for kind, (records, size) in sorted(skipped.items()):
        on_event(Skipped(file, kind, records, size))


def _page(frame: Frame, spec: ReadSpec) -> tuple[bytes | memoryview | None, bytes, bytes | None, bytes]:
    """html, text, charset and metadata of a record. Raises _Unwanted, _NotHttp or BodyError."""
    if frame.block is None:
        raise _Unwanted("max_record_bytes")
    response = frame.kind == "response"
    record, body = _parse(frame.head, frame.block, http=response)
    fields = record.headers
    metadata: dict[str, object] = {"date": fields.get("WARC-Date"), "ip": fields.get("WARC-IP-Address")}
    content_type = fields.get("Content-Type") or ""
    if response:
        http = record.http_headers
        if http.status_code not in spec.status:
            raise _Unwanted("status")
        content_type = http.get("Content-Type") or ""
        metadata |= {"status": http.status_code, "truncated": fields.get("WARC-Truncated")}
        try:
            body = decode_body(
                body,
                http.get("Transfer-Encoding"),
                http.get("Content-Encoding"),
                spec.max_record_bytes,
                partial=metadata["truncated"] is not None,
            )
        except BodySizeError:
            raise _Unwanted("max_record_bytes") from None
    mime = content_type.partition(";")[0].strip().lower() or (fields.get("WARC-Identified-Payload-Type") or "").lower()
    if not mime and _MARKUP.match(body):
        mime = "text/html"  # the server did not say; markup is taken as a page
    if mime not in spec.mime_types:
        raise _Unwanted("mime_types")
    metadata["content_type"] = mime
    known = orjson.dumps({key: value for key, value in metadata.items() if value is not None})
    found = _CHARSET.search(content_type)
    charset = found[1] if found else None
    if mime == PLAIN_TEXT:
        return None, decode(bytes(body), charset).text.encode("utf-8", "replace"), None, known
    return body, b"", charset.encode("utf-8", "replace") if charset else None, known


def _parse(head: bytes, block: bytes, http: bool) -> tuple[WarcRecord, bytes | memoryview]:
    """The record with its headers parsed, without content; and its body, for a response that behind its HTTP header."""
    try:
        if not http:
            return WarcRecord.from_bytes(_line_ends(head)), block
        end = HEAD_END.search(block, 0, MAX_HEAD)
        if end is None and len(block) >= MAX_HEAD:
            raise BodyError(f"its HTTP header is longer than {MAX_HEAD} bytes")
        http_head = block[: end.end()] if end else block + b"\r\n\r\n"
        record = WarcRecord.from_bytes(_line_ends(head) + _line_ends(http_head))
        if not record.is_http:
            raise _NotHttp
        record.parse_http(auto_decode="none")
        if record.http_headers is not None and record.http_headers.status_code is not None:
            return record, memoryview(block)[end.end() :] if end else b""
    except (OSError, ValueError) as error:
        raise BodyError(f"its header cannot be read: {error}"[:200]) from error
    raise BodyError(f"its HTTP header cannot be read: {block[:40]!r}")


def _line_ends(head: bytes) -> bytes:
    """The header with the line ends that the standard wants, where a sloppy writer put bare newlines."""
    return head if b"\r\n" in head else head.replace(b"\n", b"\r\n")


def _header(pattern: re.Pattern[bytes], head: bytes) -> bytes | None:
    found = pattern.search(head)
    return found[1].strip().decode("utf-8", "replace").encode() if found and found[1].strip() else None


def _str(value: bytes | None) -> str | None:
    return value.decode() if value is not None else None
