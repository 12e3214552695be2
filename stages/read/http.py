"""HTTP bodies as crawls hold them: with the server's encodings undone, or undone already, whatever the header says."""

from __future__ import annotations

import io
import re
import zlib

from fastwarc.stream_io import BrotliReader, ChunkedReader, ZstdReader

_CHUNK_SIZE = re.compile(rb"\s*[0-9a-fA-F]{1,8}[ \t]*(;[^\r\n]*)?\r?\n")
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


class BodyError(Exception):
    """A body that its declared encoding does not decode."""


class BodySizeError(Exception):
    """A body that is larger than allowed once it is decoded."""


def decode_body(
    body: bytes | memoryview, transfer: str | None, content: str | None, limit: int, *, partial: bool = False
) -> bytes | memoryview:
    """The body without the encodings that its headers Transfer-Encoding and Content-Encoding name.

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


def _names(header: str | None) -> list[str]:
    return [name.strip().lower() for name in header.split(",")] if header else []


def _is_text(body: bytes | memoryview) -> bool:
    return _CONTROLS.search(body, 0, 512) is None


def _chunked(body: bytes, limit: int, partial: bool) -> bytes:
    if not _CHUNK_SIZE.match(body):
        return body
    return _read(ChunkedReader(io.BytesIO(body)), limit, partial, "chunked")


def _gzip(body: bytes, limit: int, partial: bool) -> bytes:
    return _inflate(body, 31, limit, partial, "gzip") if body.startswith(b"\x1f\x8b") else body


def _deflate(body: bytes, limit: int, partial: bool) -> bytes:
    """Both that the standard calls deflate (zlib's format) and the bare deflate that some servers send."""
    if len(body) >= 2 and body[0] & 15 == 8 and int.from_bytes(body[:2], "big") % 31 == 0:
        return _inflate(body, 15, limit, partial, "deflate")
    return body if _is_text(body) else _inflate(body, -15, limit, partial, "deflate")


def _inflate(body: bytes, bits: int, limit: int, partial: bool, name: str) -> bytes:
    decoder = zlib.decompressobj(bits)
    try:
        decoded = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise BodyError(f"its {name} body is damaged: {error}") from error
    if len(decoded) > limit:
        raise BodySizeError
    if not decoder.eof and not partial:
        raise BodyError(f"its {name} body ends too early")
    return decoded


def _brotli(body: bytes, limit: int, partial: bool) -> bytes:
    # Brotli has no magic number: text that does not decode was decoded before.
    try:
        return _read(BrotliReader(io.BytesIO(body)), limit, partial, "brotli")
    except BodyError:
        if _is_text(body):
            return body
        raise


def _zstd(body: bytes, limit: int, partial: bool) -> bytes:
    if not body.startswith(b"\x28\xb5\x2f\xfd"):
        return body
    return _read(ZstdReader(io.BytesIO(body)), limit, partial, "zstd")


def _read(reader: BrotliReader | ChunkedReader | ZstdReader, limit: int, partial: bool, name: str) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        while size <= limit and (part := reader.read(min(1 << 20, limit + 1 - size))):
            parts.append(part)
            size += len(part)
    except OSError as error:
        if not partial:
            raise BodyError(f"its {name} body is damaged: {error}"[:200]) from error
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
