"""The end of the ledger, where one writer adds records: to a local file at once, to S3 in small objects every few seconds."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from typing import Protocol

from pipeline import storage
from pipeline.ledger.entry import Record
from pipeline.ledger.index import Builder, encode_index
from pipeline.ledger.lines import Header, encode, header_line
from pipeline.ledger.segment import INDEX, LOG, Name, Segment, Spill, join_covers
from pipeline.storage.errors import from_os_error
from pipeline.storage.local import sync_folder

SEGMENT_BYTES = 64 << 20  # a local segment is closed beyond it
REGION_BYTES = 8 << 20  # a remote one, which has to be written again while it grows
PENDING_SECONDS = 2.0
PENDING_RECORDS = 500
SMALL_OBJECTS = 32  # are put together into one
INDEX_FROM = 256 << 10  # bytes of a remote segment from which on it has an index; smaller ones are read whole

Place = tuple[int, int, int]  # number of the segment, offset, and length of a line


class Tail(Protocol):
    """Where records are added."""

    def append(self, record: Record) -> Place:
        """Add a record; it may be read at once, and is durable after `sync` at the latest."""
        ...

    def sync(self) -> None:
        """All that was added outlasts a kill, and on a local disk a power cut too."""

    def finish(self) -> None:
        """As `sync`; what is added later goes to another segment."""

    def close(self) -> None:
        """The last call."""


class Names:
    """The names of one writer's segments, in order.

    Number 0 is a segment without records, there from `claim` to `drop`: who opens the ledger meanwhile takes a later
    epoch, also where this writer has written nothing yet.
    """

    def __init__(self, folder: str, epoch: int) -> None:
        self.folder, self.epoch, self.writer, self.last = folder, epoch, os.urandom(4).hex(), 0
        self._claimed = f"{folder}/{Name(epoch, 0, self.writer)}{LOG}"

    def claim(self) -> None:
        """Take the epoch."""
        storage.write_bytes(self._claimed, header_line(Name(self.epoch, 0, self.writer).header()))

    def drop(self) -> None:
        """Nothing will be written any more."""
        storage.delete(self._claimed)

    def next(self) -> Name:
        """A new name."""
        self.last += 1
        return Name(self.epoch, self.last, self.writer)


class LocalTail:
    """Appends to RUN/ledger/NAME.log. A line is in the file, and so outlasts a kill, when `append` returns."""

    def __init__(self, folder: str, names: Names, opened: Callable[[Segment], int]) -> None:
        """opened: told of each new segment, and returns its number."""
        self.folder, self.names, self.opened = folder, names, opened
        self._segment: Segment | None = None
        self._number = 0
        self._builder = Builder()

    def append(self, record: Record) -> Place:
        segment = self._segment or self._open()
        data = encode(record)
        offset = segment.bytes
        assert segment.descriptor is not None
        _append(segment.descriptor, data, segment.base + offset, segment.uri)
        segment.bytes += len(data)
        self._builder.take(record, offset, len(data))
        place = self._number, offset, len(data)
        if segment.bytes >= SEGMENT_BYTES:
            self.finish()
        return place

    def _open(self) -> Segment:
        name = self.names.next()
        uri = f"{self.folder}/{name}{LOG}"
        path = storage.local_path(uri)
        header = name.header()
        first = header_line(header)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o666)
        except OSError as error:
            raise from_os_error(error, path, "write") from None
        _append(descriptor, first, 0, uri)
        sync_folder(path.parent)
        self._builder = Builder()
        self._segment = Segment(uri, [name], header, 0, len(first), len(first), self._builder.marks, descriptor)
        self._number = self.opened(self._segment)
        return self._segment

    def sync(self) -> None:
        if self._segment is not None and self._segment.descriptor is not None:
            try:
                os.fsync(self._segment.descriptor)
            except OSError as error:
                raise from_os_error(error, self._segment.uri, "write") from None

    def finish(self) -> None:
        segment = self._segment
        if segment is None:
            return
        self.sync()
        index = self._builder.build(segment.header, segment.base, segment.base + segment.bytes)
        storage.write_bytes(segment.uri.removesuffix(LOG) + INDEX, encode_index(index))
        self._segment = None

    def close(self) -> None:
        self.finish()


def _append(descriptor: int, data: bytes, end: int, uri: str) -> None:
    """Write at the file's end, whole or not at all."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(descriptor, view) :]
    except OSError as error:
        if len(view) < len(data):
            os.ftruncate(descriptor, end)
        raise from_os_error(error, storage.local_path(uri), "write", len(data)) from None


class RemoteTail:
    """Writes objects of a few records, and puts them together into larger ones as they become many.

    Records also lie in a file of this machine's disk, from which they are read, and put together.
    """

    def __init__(self, folder: str, names: Names, opened: Callable[[Segment], int], spill: Spill) -> None:
        """As of LocalTail. spill: where records lie on this machine; nobody else may add to it."""
        self.folder, self.names, self.opened, self._spill = folder, names, opened, spill
        self._segment: Segment | None = None
        self._number, self._builder = 0, Builder()
        self._sent = 0  # bytes of the segment that lie in objects
        self._pending, self._since = 0, 0.0
        self._wake = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._closed = False
        self._error: Exception | None = None

    def append(self, record: Record) -> Place:
        with self._wake:
            self._raise()
            segment = self._segment or self._open()
            data = encode(record)
            offset = segment.bytes
            self._spill.append(data)
            segment.bytes += len(data)
            self._builder.take(record, offset, len(data))
            place = self._number, offset, len(data)
            if not self._pending:
                self._since = time.monotonic()
            self._pending += 1
            if self._pending >= PENDING_RECORDS or time.monotonic() - self._since >= PENDING_SECONDS:
                self._send()
            elif self._thread is None:
                self._thread = threading.Thread(target=self._send_in_time, name="ledger", daemon=True)
                self._thread.start()
            elif self._pending == 1:
                self._wake.notify()
            return place

    def _open(self) -> Segment:
        self._builder = Builder()
        header = Header(1, [], (self.names.epoch, self.names.last))
        uri = f"{self.folder}/{Name(self.names.epoch, self.names.last + 1, self.names.writer)}{LOG}"
        self._segment = Segment(uri, [], header, 0, 0, self._spill.size, self._builder.marks, spill=self._spill)
        self._number, self._sent = self.opened(self._segment), 0
        return self._segment

    def _send_in_time(self) -> None:
        with self._wake:
            while not self._closed:
                left = self._since + PENDING_SECONDS - time.monotonic() if self._pending else None
                if left is None or left > 0:
                    self._wake.wait(left)
                    continue
                try:
                    self._send()
                except Exception as error:  # told by the next call
                    self._error = error
                    return

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error, self._thread = self._error, None, None
            raise error

    def _send(self) -> None:
        """Write what is not yet in an object, as one."""
        segment = self._segment
        if segment is None or self._sent == segment.bytes:
            return
        name = self.names.next()
        data = self._spill.read(segment.start + self._sent, segment.bytes - self._sent)
        storage.write_bytes(f"{self.folder}/{name}{LOG}", header_line(name.header()) + data)
        self._sent, self._pending = segment.bytes, 0
        segment.names.append(name)
        segment.header.covers = join_covers([*segment.header.covers, *name.header().covers])
        segment.header.at = (name.epoch, name.number)
        if len(segment.names) >= SMALL_OBJECTS or segment.bytes >= REGION_BYTES:
            self._put_together()
        if segment.bytes >= REGION_BYTES:
            self._segment = None

    def _put_together(self) -> None:
        """Write all objects of the segment as one, and remove them."""
        segment = self._segment
        assert segment is not None
        if len(segment.names) < 2 and segment.bytes < INDEX_FROM:
            return
        name, old = self.names.next(), segment.names
        header = Header(1, join_covers([*segment.header.covers, *name.header().covers]), (name.epoch, name.number))
        first = header_line(header)
        if segment.bytes >= INDEX_FROM:
            index = self._builder.build(header, len(first), len(first) + segment.bytes)
            storage.write_bytes(f"{self.folder}/{name}{INDEX}", encode_index(index))
        data = first + self._spill.read(segment.start, segment.bytes)
        storage.write_bytes(f"{self.folder}/{name}{LOG}", data)
        segment.names, segment.header = [name], header
        storage.delete_many(f"{self.folder}/{n}{suffix}" for n in old for suffix in (LOG, INDEX))

    def sync(self) -> None:
        with self._wake:
            self._raise()
            self._send()

    def finish(self) -> None:
        with self._wake:
            self.sync()
            if self._segment is not None:
                self._put_together()
                self._segment = None

    def close(self) -> None:
        try:
            self.finish()
        finally:
            with self._wake:
                self._closed = True
                self._wake.notify_all()
            if self._thread is not None:
                self._thread.join()
