"""HTTP bodies as crawls hold them: with the server's encodings undone, or undone already, whatever the header says."""

from __future__ import annotations

import codecs
import io
import re
import zlib

from fastwarc.stream_io import BrotliReader

from stages.charset import controls, utf16
from stages.read.compression import Compression, DamagedError, Members

PIECE_BYTES = 8 << 10  # of a brotli body, decoded at once: one that is cut gives nothing of the piece that it is cut in
HEAD_BYTES = 1024  # looked at to tell what a body is
BINARY = 0.08  # share of controls above which they are no text: compressed data have 11%, text none, UTF-16 5% and less
_CHUNK = re.compile(rb"\s*([0-9a-fA-F]{1,16})[ \t]*(?:;[^\n]*)?\r?\n")  # size and extensions: RFC 9112, section 7.1
_CHUNK_END = re.compile(rb"[ \t]*\r?\n")
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
# What a body begins with that still has its encoding; before a zstd frame may stand one to be skipped.
_BEGINS = {"gzip": re.compile(rb"\x1f\x8b"), "zstd": re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")}
_WINDOW = 128 << 20  # bytes that a zstd body may ask to be held; RFC 9659 allows 8 MB

# What a body may be that is no text, whatever its Content-Type says.
_MAGIC = {
    b"\x1f\x8b\x08": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"%PDF-": "pdf",
    b"PK\x03\x04": "zip",
    b"\x89PNG\r\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"GIF87a": "gif",
    b"GIF89a": "gif",
}


_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)  # what follows such a mark may hold any byte


class BodyError(Exception):
    """A body that its declared encoding does not decode."""


class BodySizeError(Exception):
    """A body that is larger than allowed once it is decoded."""


def decode_body(
    body: bytes | memoryview, transfer: str | None, content: str | None, limit: int, *, partial: bool = False
) -> bytes | memoryview:
    """The body without the encodings that its headers Transfer-Encoding and Content-Encoding name, several joined.

    Many crawlers store the decoded body under the server's headers: a body that does not look encoded is returned
    as it is. `partial`: the crawler says that it cut the body off; what is there is then decoded.
    Raises BodyError for a damaged body and an unknown encoding, BodySizeError above `limit` bytes.
    """
    names = [*reversed(_names(transfer)), *reversed(_names(content))]
    for name in names:
        if name in _UNDO:
            body = _UNDO[name](bytes(body), limit, partial)
        elif name not in ("", "identity", "none") and not _is_text(body):
            raise BodyError(f"its encoding {name!r} is not known")
    if len(body) > limit:
        raise BodySizeError
    return body


def binary_kind(body: bytes | memoryview, charset: str | None) -> str | None:
    """What a decoded body is by its first bytes ("gzip", "pdf", "binary" ...), where that is surely no text."""
    head = bytes(body[:HEAD_BYTES])
    begin = head.removeprefix(codecs.BOM_UTF8).lstrip()
    for magic, kind in _MAGIC.items():
        if begin.startswith(magic):
            return kind
    is_binary = controls(head) > len(head) * BINARY and not head.startswith(_WIDE) and not utf16(head, charset)
    return "binary" if is_binary else None


def _names(header: str | None) -> list[str]:
    """Encodings in their order, without parameters (`gzip;q=1.0`), which are not for answers but are there."""
    return [name.partition(";")[0].strip(" \t\"'").lower() for name in header.split(",")] if header else []


def _is_text(body: bytes | memoryview) -> bool:
    return _CONTROLS.search(body, 0, 512) is None


def _chunked(body: bytes, limit: int, partial: bool) -> bytes:
    """Chunks joined; what follows the last of them (trailers) is left out."""
    if not _CHUNK.match(body):
        return body
    parts: list[bytes] = []
    at = size = 0
    while found := _CHUNK.match(body, at):
        length = int(found[1], 16)
        if not length:
            return b"".join(parts)
        parts.append(body[found.end() : found.end() + length])
        size += len(parts[-1])
        if size > limit:
            raise BodySizeError
        at = min(found.end() + length, len(body))
        end = _CHUNK_END.match(body, at)
        if end is None:
            break
        at = end.end()
    if partial:
        return b"".join(parts)
    if at >= len(body):
        raise BodyError("its chunked body ends too early")
    raise BodyError(f"its chunked body is damaged: no chunk begins at byte {at:,}, but {body[at : at + 20]!r}")


def _gzip(body: bytes, limit: int, partial: bool) -> bytes:
    return _members(body, "gzip", limit, partial)


def _zstd(body: bytes, limit: int, partial: bool) -> bytes:
    return _members(body, "zstd", limit, partial)


def _members(body: bytes, name: Compression, limit: int, partial: bool) -> bytes:
    """All members of a gzip or zstd stream; what follows them and is no member is left out, as browsers and gzip do."""
    begins = _BEGINS[name]
    if not begins.match(body):
        return body
    members = Members(io.BytesIO(body), name, _WINDOW)
    parts: list[bytes] = []
    size = 0
    try:
        while members.open():
            while piece := members.read():
                parts.append(piece)
                size += len(piece)
                if size > limit:
                    raise BodySizeError
    except DamagedError as error:
        if begins.match(body, error.offset) and not partial:
            raise BodyError(f"its {name} body is damaged: {error.reason}") from error
    return b"".join(parts)


def _deflate(body: bytes, limit: int, partial: bool) -> bytes:
    """Both that the standard calls deflate (zlib's format) and the bare deflate that some servers send."""
    if len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0:
        return _inflate(body, 15, limit, partial)
    return body if _is_text(body) else _inflate(body, -15, limit, partial)


def _inflate(body: bytes, bits: int, limit: int, partial: bool) -> bytes:
    decoder = zlib.decompressobj(bits)
    try:
        decoded = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise BodyError(f"its deflate body is damaged: {error}") from error
    if len(decoded) > limit:
        raise BodySizeError
    if not decoder.eof and not partial:
        raise BodyError("its deflate body ends too early")
    return decoded


def _brotli(body: bytes, limit: int, partial: bool) -> bytes:
    reader = BrotliReader(io.BytesIO(body))
    parts: list[bytes] = []
    size = 0
    try:
        while size <= limit and (part := reader.read(min(PIECE_BYTES, limit + 1 - size))):
            parts.append(part)
            size += len(part)
    except OSError as error:
        if _is_text(body):  # Brotli has no magic number: text that does not decode was decoded before
            return body
        if not partial:
            raise BodyError(f"its brotli body is damaged: {error}"[:200]) from error
    if size > limit:
        raise BodySizeError
    return b"".join(parts)


_UNDO = {
    "chunked": _chunked,
    "gzip": _gzip,
    "x-gzip": _gzip,
    "deflate": _deflate,
    "br": _brotli,
    "zstd": _zstd,
}
