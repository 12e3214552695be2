"""The ledger's file format: one record a line, `KIND CHECKSUM BODY`, the body being JSON.

KIND is a letter. CHECKSUM is the CRC-32 of kind and body in hex. In an entry's line the place of its report stands before
the JSON, so that the report is taken as it is, and read only by who asks for it:

    E 5f0c2b1a 412 {"key": ..., "report": {...}}
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

import msgspec
from isal.isal_zlib import crc32

from pipeline.ledger.entry import Basis, Entry, Forget, Record, Release
from stages.errors import UserError

HEADER, ENTRY, BASIS, FORGET, RELEASE = b"S", b"E", b"B", b"F", b"R"
BODY = 11  # where it begins in a line
VERSION = 1
_REPORT = b',"report":'

Cover = tuple[int, str, int, int]
"""Segments that one stands for: epoch, writer, and the first and last number of that writer's."""


class Header(msgspec.Struct):
    """The first line of a segment. at: its place in the order of records, as (epoch, number) of the last one it stands for."""

    version: int
    covers: list[Cover]
    at: tuple[int, int]


class BadLineError(Exception):
    """A line that is not as it was written."""


def line(kind: bytes, body: bytes) -> bytes:
    """One line."""
    return b"%b %08x %b\n" % (kind, crc32(body, kind[0]), body)


def body_of(data: bytes, kind: bytes | None = None) -> memoryview:
    """The body of a line whose checksum is right (and whose kind is the one that is named), or BadLineError."""
    body = memoryview(data)[BODY:-1]
    if data[-1:] != b"\n" or data[1:BODY] != b" %08x " % crc32(body, data[0]) or (kind and data[:1] != kind):
        raise BadLineError("its checksum is wrong")
    return body


def encode(record: Record) -> bytes:
    """The line of a record."""
    if isinstance(record, Entry):
        if b"\n" in bytes(record.report):
            record.report = msgspec.Raw(msgspec.json.format(bytes(record.report), indent=-1))
        data = msgspec.json.encode(record)
        cut = len(data) - 1 - len(bytes(record.report)) - len(_REPORT)
        return line(ENTRY, b"%d %b" % (cut, data))
    kind = {Basis: BASIS, Forget: FORGET, Release: RELEASE}[type(record)]
    return line(kind, msgspec.json.encode(record))


_decode_entry = msgspec.json.Decoder(Entry).decode
_decoders = {
    BASIS: msgspec.json.Decoder(Basis),
    FORGET: msgspec.json.Decoder(Forget),
    RELEASE: msgspec.json.Decoder(Release),
}


def entry_of(data: bytes) -> Entry:
    """The entry in a line; its report stays bytes. Raises BadLineError where the line is damaged, or no entry."""
    body_of(data, ENTRY)
    try:
        start = data.index(b" ", BODY) + 1
        cut = start + int(data[BODY : start - 1])
        entry = _decode_entry(data[start:cut] + b"}")
    except (ValueError, msgspec.DecodeError) as error:
        raise BadLineError(f"no entry of this version: {error}") from None
    entry.report = msgspec.Raw(data[cut + len(_REPORT) : -2])
    return entry


def basis_of(data: bytes) -> Basis:
    """The basis in a line. Raises BadLineError where the line is damaged."""
    return msgspec.json.decode(body_of(data, BASIS), type=Basis)


def scan(stream: BinaryIO, name: str, torn: bool) -> Iterator[tuple[int, int, Header | Record]]:
    """Records of a segment's file from its front, each with its offset and the length of its line.

    torn: a last line without its end is one that a kill cut off, and passed over. Raises UserError where a line is
    damaged, or the last one has no end and `torn` is False.
    """
    offset = 0
    for data in stream:
        try:
            if torn and data[-1:] != b"\n":
                return
            body, kind = body_of(data), data[:1]
            if offset == 0:
                yield offset, len(data), _header(body, kind, name)
            elif kind == ENTRY:
                yield offset, len(data), entry_of(data)
            else:
                yield offset, len(data), _decoders[kind].decode(body)
        except (BadLineError, KeyError, msgspec.DecodeError) as error:
            reason = str(error) if isinstance(error, BadLineError) else "no record of this version"
            raise damaged(name, offset, reason) from None
        offset += len(data)


def _header(body: memoryview, kind: bytes, name: str) -> Header:
    if kind != HEADER:
        raise BadLineError("it does not begin a segment")
    header = msgspec.json.decode(body, type=Header)
    if header.version > VERSION:
        raise UserError(
            f"{name}: made by a newer version of Headrace; use that one, or run the recipe into another --out"
        )
    return header


def header_line(header: Header) -> bytes:
    """The first line of a segment."""
    return line(HEADER, msgspec.json.encode(header))


def damaged(name: str, offset: int, reason: str) -> UserError:
    """The error for a file of the ledger that is not as it was written."""
    folder = name.rpartition("/")[0]
    return UserError(
        f"{name}: damaged at byte {offset:,} ({reason}); put the file back from a copy, or delete {folder}, and all "
        "tasks run again"
    )
