"""Cuts a file that is one JSON array into its elements, whatever its size and however it is laid out in lines."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stages.read.lines import Block, Damage, Pieces, TooLong

_SPACE = b" \t\r\n"
_MARK = b"\xef\xbb\xbf"
_HEAD_BYTES = 1 << 16  # of white space that may stand before the array
# A whole string, a bracket or, between elements, a comma; or the quote of a string that goes on behind what has been read.
_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|'
_BETWEEN = re.compile(_STRING + rb'["\[\]{},]', re.DOTALL)
_INSIDE = re.compile(_STRING + rb'["\[\]{}]', re.DOTALL)
_IN_STRING = re.compile(rb'["\\]')


def is_array(head: bytes) -> bool:
    """Whether content that begins with these bytes begins with the bracket of an array."""
    return head.removeprefix(_MARK).lstrip(_SPACE).startswith(b"[")


def begins_array(pieces: Pieces) -> bool:
    """The same of what is read next. Nothing is consumed."""
    head = b""
    while len(head) < _HEAD_BYTES and not head.removeprefix(_MARK).strip(_SPACE) and (piece := pieces.read()):
        head += piece
    pieces.push(head)
    return is_array(head)


def element_blocks(pieces: Pieces, limit: int) -> Iterator[Block | TooLong | Damage]:
    """The elements of the array that the content begins with. Holds no element that is longer than `limit`.

    What stands behind the array is left to the pieces.
    """
    scan = _Scan()
    offset = pieces.offset
    head = pieces.read()  # as `begins_array` left it
    buffer = bytearray(head[head.index(b"[") + 1 :])
    offset += len(head) - len(buffer)
    passed = 0  # bytes of the element that were too many to keep
    while True:
        spans, used = scan.take(buffer)
        if passed and spans:
            yield TooLong(offset - passed, passed + spans[0][1])
            spans, passed = spans[1:], 0
        if spans:
            yield Block([bytes(buffer[a:b]) for a, b in spans], [offset + a for a, _ in spans])
        if not passed:
            used = _stripped(buffer, used, len(buffer))[0]
        del buffer[:used]
        offset, scan.at = offset + used, scan.at - used
        if scan.ended:
            while not buffer and (more := pieces.read()):
                buffer += more.lstrip(_SPACE)
            pieces.push(bytes(buffer))
            return
        if passed or len(buffer) > limit:
            passed, offset, scan.at = passed + len(buffer), offset + len(buffer), scan.at - len(buffer)
            buffer.clear()
        more = pieces.read()
        if not more:
            reason = pieces.damage or "the file ends inside its JSON array"
            yield Damage(reason, offset - passed, passed + len(buffer))
            return
        buffer += more


class _Scan:
    """Where the elements of an array end, over pieces: `at` is where the next search in the buffer begins."""

    def __init__(self) -> None:
        self.at = self.depth = 0
        self.in_string = self.ended = False

    def take(self, buffer: bytearray) -> tuple[list[tuple[int, int]], int]:
        """The elements that end in the buffer, without white space around, and where the next one begins."""
        spans: list[tuple[int, int]] = []
        begin = 0
        while not self.ended:
            if self.in_string and not self._leave_string(buffer):
                break
            if not (token := (_INSIDE if self.depth else _BETWEEN).search(buffer, self.at)):
                self.at = max(self.at, len(buffer))
                break
            self.at = token.end()
            mark = token[0]
            if mark == b'"':
                self.in_string = True
            elif mark in (b"[", b"{"):
                self.depth += 1
            elif self.depth and mark in (b"]", b"}"):
                self.depth -= 1
            elif not self.depth and len(mark) == 1:
                self.ended = mark != b","
                span = _stripped(buffer, begin, token.start())
                if span[0] < span[1] or not self.ended:
                    spans.append(span)
                begin = self.at
        return spans, begin

    def _leave_string(self, buffer: bytearray) -> bool:
        """Go behind the quote that ends the string; False where the buffer does not hold it."""
        while found := _IN_STRING.search(buffer, self.at):
            if found[0] == b'"':
                self.at, self.in_string = found.end(), False
                return True
            self.at = found.end() + 1  # what is escaped may be the first byte of the next piece
        self.at = max(self.at, len(buffer))
        return False


def _stripped(buffer: bytearray, start: int, end: int) -> tuple[int, int]:
    while start < end and buffer[start] in _SPACE:
        start += 1
    while start < end and buffer[end - 1] in _SPACE:
        end -= 1
    return start, end
