"""Cuts one large file of plain JSON lines into parts that can be read apart, with every line's ordinal kept."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import BinaryIO

from stages.read.compression import compression_by
from stages.read.json_array import is_array
from stages.read.settings import Part

CHUNK_BYTES = 1 << 20


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
