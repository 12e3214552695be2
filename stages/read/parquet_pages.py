"""The pages of a column chunk of a Parquet file, from their headers: how large each becomes once it is decompressed.

Source: Apache Parquet's parquet.thrift (PageHeader), written in Thrift's compact protocol. Nothing is decompressed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

HEAD_BYTES = 256  # that a header is looked for in first; statistics can make it longer
MOST_HEAD_BYTES = 16 << 20
DICTIONARY = 2  # parquet.thrift: PageType
_ENTRIES = {5: 1, 7: 1, 8: 1}  # fields of PageHeader that hold a kind's own header, and the field in them that counts


class PageError(Exception):
    """What stands there is no page header."""


@dataclass(frozen=True)
class Page:
    """One page: its bytes once decompressed, and its values (of a repeated column, more than rows)."""

    kind: int
    bytes: int
    values: int


def read_pages(stream: BinaryIO, start: int, stop: int) -> Iterator[Page]:
    """The pages between two places of the file. Raises PageError where there is something else."""
    while start < stop:
        page, header, stored = _read_page(stream, start)
        yield page
        start += header + stored


def _read_page(stream: BinaryIO, start: int) -> tuple[Page, int, int]:
    """The page whose header begins at `start`, the header's bytes, and those of the page as it is stored."""
    size = HEAD_BYTES
    while size <= MOST_HEAD_BYTES:
        stream.seek(start)
        head = stream.read(size)
        try:
            fields, end = _Compact(head).struct()
            kind, bytes, stored = (fields[i] for i in (1, 2, 3))
            own = next((fields[i] for i in _ENTRIES if i in fields), {})
            if min(bytes, stored) < 0:
                raise PageError("a page of negative size")
            return Page(kind, bytes, max(0, own.get(1, 0))), end, stored
        except IndexError:
            if len(head) < size:
                break
            size *= 16
        except (KeyError, TypeError, AttributeError, RecursionError) as error:
            raise PageError("no page header") from error
    raise PageError("the page header does not end")


class _Compact:
    """Reads structs in Thrift's compact protocol; IndexError where the data ends too early."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0
        integer = self._zigzag
        # Types of fields; 1 and 2 are true and false, which have no content.
        self.readers: dict[int, Callable[[], object]] = {3: self._byte, 4: integer, 5: integer, 6: integer}
        self.readers |= {7: lambda: self._skip(8), 8: self._binary, 9: self._list, 10: self._list}
        self.readers |= {12: lambda: self.struct()[0]}

    def struct(self) -> tuple[dict[int, Any], int]:
        """The fields of the struct that begins here, by number, and where it ends."""
        fields: dict[int, Any] = {}
        number = 0
        while head := self._byte():
            kind = head & 15
            number = number + (head >> 4) if head >> 4 else self._zigzag()
            fields[number] = kind == 1 if kind in (1, 2) else self._value(kind)
        return fields, self.at

    def _value(self, kind: int) -> object:
        if kind not in self.readers:
            raise PageError(f"no page header: a field of type {kind}")
        return self.readers[kind]()

    def _byte(self) -> int:
        byte = self.data[self.at]
        self.at += 1
        return byte

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise PageError("no page header: a number of more than 64 bits")

    def _zigzag(self) -> int:
        value = self._varint()
        return value >> 1 ^ -(value & 1)

    def _skip(self, size: int) -> None:
        self.at += size
        if self.at > len(self.data):
            raise IndexError

    def _binary(self) -> None:
        self._skip(self._varint())

    def _list(self) -> None:
        head = self._byte()
        count, kind = head >> 4, head & 15
        if count == 15:
            count = self._varint()
        for _ in range(count):
            self._byte() if kind in (1, 2) else self._value(kind)
