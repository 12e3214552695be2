"""Cuts one large file of JSON lines into parts that can be read apart, with every line's ordinal kept.

A compressed file can be read from where a member (a gzip member, a zstd frame, a bzip2 or xz stream) begins, and from there on:
whoever reads a part that begins within a member decompresses what stands before it in that member, and passes over it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from itertools import groupby
from typing import BinaryIO, NamedTuple

from stages.errors import InputError
from stages.read.compression import MAX_WINDOW, Compression, DamagedError, Members, compression_by
from stages.read.json_array import is_array
from stages.read.settings import Part

CHUNK_BYTES = 1 << 20
NEAR = 4 << 20  # bytes of a member that are decompressed again in no time
SLOW = ("bzip2", "xz")  # to decompress: a second time costs as much as all that is done with the text


def line_parts(stream: BinaryIO, part_bytes: int) -> Iterator[Part]:
    """Parts of about `part_bytes`, cut behind line ends; reads the stream once, as it counts the lines before each.

    A compressed file, whatever its name, cannot be read from its middle, so it is one part; so is a WARC file, and one
    JSON array.
    """
    offset, lines = 0, 0  # of the stream
    head = stream.read(CHUNK_BYTES)
    if is_array(head) or compression_by(head, ""):
        part_bytes = sys.maxsize
    begin, first = 0, 1  # of the part
    while chunk := head or stream.read(CHUNK_BYTES):
        head = b""
        at = 0
        while offset + len(chunk) - begin >= part_bytes:
            cut = chunk.find(b"\n", max(at, begin + part_bytes - offset - 1)) + 1
            if not cut:
                break
            lines += chunk.count(b"\n", at, cut)
            yield Part(offset=begin, length=offset + cut - begin, first_record=first)
            begin, first, at = offset + cut, lines + 1, cut
        lines += chunk.count(b"\n", at)
        offset += len(chunk)
    if offset > begin:
        yield Part(offset=begin, length=offset - begin, first_record=first)


class Member(NamedTuple):
    """Where a member begins: in the file, and in what the file decompresses to."""

    start: int = 0
    content: int = 0


class MemberPart(NamedTuple):
    """A part of a compressed file, counted in decompressed bytes, and the member in which it begins."""

    offset: int
    length: int
    first_record: int
    member: Member


class _Cut(NamedTuple):
    """Where a part may begin: behind a line end. first_record: the ordinal of the line there."""

    offset: int
    first_record: int
    member: Member


def member_parts(
    stream: BinaryIO,
    name: str,
    part_bytes: int,
    in_member: int,
    compression: Compression | None = None,
    max_window: int = MAX_WINDOW,
) -> list[MemberPart]:
    """Parts of about `part_bytes` compressed bytes of a compressed file of JSON lines, which is read once.

    in_member: parts that begin in one member, at most, as each costs that what stands before it in there is decompressed
    again; of bzip2 and xz, that take long for it, parts begin within short streams only. No parts where the file
    is better read as a whole: one that is damaged, holds one JSON array, or is compressed twice.
    """
    members = Members.of_file(stream, name, compression, max_window)
    try:
        cuts, size = _cuts(members, part_bytes)
    except DamagedError:
        return []
    if members.dictionary is not None:  # it stands before the first frame, and all of them need it
        cuts = [cut._replace(member=Member()) for cut in cuts]
    cuts = _thinned(cuts, 1 if members.compression in SLOW else in_member)
    begins = [_Cut(0, 1, Member()), *cuts]
    ends = [cut.offset for cut in begins[1:]] + [size]
    parts = [
        MemberPart(cut.offset, end - cut.offset, cut.first_record, cut.member)
        for cut, end in zip(begins, ends, strict=True)
        if end > cut.offset
    ]
    return parts if len(parts) > 1 else []


def _cuts(members: Members, part_bytes: int) -> tuple[list[_Cut], int]:
    """Behind the first line that ends after each `part_bytes` compressed bytes, or where a member begins there."""
    cuts: list[_Cut] = []
    made, lines, ended = 0, 0, True  # decompressed bytes, lines, and whether the last line is whole
    target = part_bytes
    while members.open():
        member = Member(members.start, made)
        if cuts and cuts[-1].offset == made:
            cuts[-1] = cuts[-1]._replace(member=member)
        elif members.start >= target and ended and made:
            cuts.append(_Cut(made, lines + 1, member))
            target = members.start + part_bytes
        while piece := members.read():
            if not made and (is_array(piece) or compression_by(piece, "")):
                return [], 0
            if members.base + members.at >= target and (cut := piece.find(b"\n") + 1):
                cuts.append(_Cut(made + cut, lines + 2, member))  # the line that was begun, and the one behind it
                target = members.base + members.at + part_bytes
            lines, made, ended = lines + piece.count(b"\n"), made + len(piece), piece.endswith(b"\n")
    return cuts, made


def _thinned(cuts: list[_Cut], in_member: int) -> list[_Cut]:
    """Of the cuts within each long member so many, evenly spaced, that no more parts than `in_member` begin in it."""
    found: list[_Cut] = []
    for member, group in groupby(cuts, lambda cut: cut.member):
        same = list(group)
        if same[-1].offset <= member.content + NEAR:
            found += same
            continue
        inside = [cut for cut in same if cut.offset > member.content]
        count = min(len(inside), in_member - 1)
        found += same[: len(same) - len(inside)]
        found += [inside[(number + 1) * (len(inside) + 1) // (count + 1) - 1] for number in range(count)]
    return found


def open_part(
    stream: BinaryIO,
    name: str,
    lines: tuple[int, int],
    member: Member,
    compression: Compression | None = None,
    max_window: int = MAX_WINDOW,
) -> BinaryIO:
    """The decompressed bytes of a part (its offset and length), from a stream of the file that begins at the part's member.

    Raises InputError while it is read where the file is not what it was cut as.
    """
    return io.BufferedReader(_Content(_pieces_of(stream, name, lines, member, compression, max_window)), 1 << 20)


def _pieces_of(
    stream: BinaryIO, name: str, lines: tuple[int, int], member: Member, compression: Compression | None, max_window: int
) -> Iterator[bytes]:
    offset, left = lines
    before = offset - member.content
    members = Members.of_file(stream, name, compression, max_window)
    try:
        while left and members.open():
            while left and (piece := members.read()):
                if before >= len(piece):
                    before -= len(piece)
                    continue
                piece = piece[before : before + left]
                before, left = 0, left - len(piece)
                yield piece
    except DamagedError as error:
        raise InputError(name, error.reason, offset=offset) from None
    if left:
        raise InputError(name, "the file ends too early", offset=offset)


class _Content(io.RawIOBase):
    """Pieces of bytes as a stream."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self.pieces, self.rest = pieces, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self.rest:
            self.rest = memoryview(next(self.pieces, b""))
        size = min(len(buffer), len(self.rest))
        buffer[:size] = self.rest[:size]
        self.rest = self.rest[size:]
        return size
