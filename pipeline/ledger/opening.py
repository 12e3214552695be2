"""Opens the segments of a run's ledger: lists them, leaves out those that others stand for, and reads their indexes."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from pipeline import storage
from pipeline.ledger.index import Index, decode_index, encode_index, index_log
from pipeline.ledger.lines import damaged
from pipeline.ledger.segment import FOLDER, INDEX, LOG, Name, Segment, Spill, parse_name, superseded
from pipeline.storage.backends import backend
from pipeline.storage.errors import from_os_error
from stages.errors import UserError

PARALLEL = 16  # remote files read at once
BATCH = 64
TRIES = 5  # of a reader, whose segments may be put together by the run while it opens them


@dataclass
class Listing:
    """Files of a ledger's folder: logs and indexes by name."""

    folder: str
    logs: dict[Name, storage.Entry] = field(default_factory=dict)
    indexes: dict[Name, storage.Entry] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """The latest epoch."""
        return max((name.epoch for name in (*self.logs, *self.indexes)), default=0)

    def last_of_writer(self, name: Name) -> bool:
        """True where a writer may have been killed while it added to this log."""
        return not any(n.writer == name.writer and n.epoch == name.epoch and n.number > name.number for n in self.logs)


@dataclass
class Opened:
    """Segments in the order of their records, with their indexes; what of the folder may go; what is to be told."""

    listing: Listing
    segments: list[tuple[Segment, Index]]
    needless: list[str]
    notes: list[str]


def list_ledger(run: str) -> Listing:
    """List a run's ledger. Raises UserError for one that was made by an older version."""
    listing = Listing(storage.join(run, FOLDER))
    for entry in backend(run).list_level(_local_or_uri(listing.folder) + "/", "")[1]:
        file = storage.name_of(entry.uri)
        stem, dot, suffix = file.rpartition(".")
        if suffix == "json" and not file.startswith("."):
            raise UserError(
                f"{listing.folder} was made by an older version of Headrace; run the recipe into another --out, "
                "or delete that folder, and all tasks run again"
            )
        if (name := parse_name(stem)) is not None:
            {LOG: listing.logs, INDEX: listing.indexes}.get(dot + suffix, {})[name] = entry
    return listing


def _local_or_uri(folder: str) -> str:
    return str(storage.local_path(folder)) if storage.is_local(folder) else folder


def open_segments(run: str, spill: Spill) -> Opened:
    """All segments that count, oldest first. Raises UserError for damage and for what another version made."""
    for attempt in range(TRIES):
        listing = list_ledger(run)
        try:
            return _open(listing, spill)
        except storage.MissingError:  # put together with others, and removed, since it was listed
            if attempt + 1 == TRIES:
                raise
    raise AssertionError("unreachable")


def _open(listing: Listing, spill: Spill) -> Opened:
    found: dict[Name, tuple[Segment, Index]] = {}
    notes: list[str] = []
    empty: list[Name] = []
    try:
        for name, index, segment in _all(listing, spill):
            if index is None:
                empty.append(name)
                continue
            extra = listing.logs[name].size - index.log_bytes
            if extra > 0 and name not in listing.indexes:
                notes.append(f"{segment.uri}: its last {extra:,} bytes were cut off by a kill and are not read")
            found[name] = (segment, index)
    except BaseException:
        for segment, _ in found.values():
            segment.close()
        raise
    lost = superseded({name: segment.header for name, (segment, _) in found.items()})
    for name in lost:
        found.pop(name)[0].close()
    needless = [f"{listing.folder}/{name}{LOG}" for name in (*lost, *empty)]
    needless += [
        f"{listing.folder}/{name}{INDEX}" for name in listing.indexes if name in lost or name not in listing.logs
    ]
    order = sorted(found, key=lambda name: (found[name][0].header.at, name))
    return Opened(listing, [found[name] for name in order], needless, notes)


def _all(listing: Listing, spill: Spill) -> Iterator[tuple[Name, Index | None, Segment]]:
    names = sorted(listing.logs)
    if storage.is_local(listing.folder):
        for name in names:
            yield name, *_open_local(listing, name)
        return
    with ThreadPoolExecutor(PARALLEL) as pool:
        for start in range(0, len(names), BATCH):
            batch = names[start : start + BATCH]
            for name, read in zip(batch, pool.map(_remote_reader(listing), batch), strict=True):
                yield name, *_open_remote(listing, name, read, spill)


def _segment(listing: Listing, name: Name, index: Index) -> Segment:
    segment = Segment(f"{listing.folder}/{name}{LOG}", [name], name.header(), index.log_bytes - index.base, index.base)
    segment.header.covers, segment.header.at = index.covers, index.at
    segment.marks = index.marks
    return segment


def _open_local(listing: Listing, name: Name) -> tuple[Index | None, Segment]:
    uri = f"{listing.folder}/{name}{LOG}"
    try:
        descriptor = os.open(storage.local_path(uri), os.O_RDONLY)
    except OSError as error:
        raise from_os_error(error, uri, "read") from None
    try:
        index = None
        if name in listing.indexes:
            with suppress(storage.MissingError):
                index = decode_index(storage.read_bytes(f"{listing.folder}/{name}{INDEX}"))
        if index is None:
            with os.fdopen(os.dup(descriptor), "rb") as stream:
                index = index_log(stream, uri, torn=listing.last_of_writer(name))
            if index is None and not listing.last_of_writer(name):
                raise damaged(uri, 0, "it is empty")
        elif (size := os.fstat(descriptor).st_size) < index.log_bytes:
            raise damaged(uri, size, f"its last {index.log_bytes - size:,} bytes are missing")
    except BaseException:
        os.close(descriptor)
        raise
    if index is None:
        os.close(descriptor)
        return None, Segment(uri, [name], name.header(), 0, 0)
    segment = _segment(listing, name, index)
    segment.descriptor, segment.start = descriptor, index.base
    return index, segment


def _remote_reader(listing: Listing) -> Callable[[Name], tuple[Index | None, bytes]]:
    def read(name: Name) -> tuple[Index | None, bytes]:
        """The index, or without one the whole log."""
        if name in listing.indexes and (index := decode_index(_get(listing.indexes[name]))) is not None:
            return index, b""
        return None, _get(listing.logs[name])

    return read


def _get(entry: storage.Entry) -> bytes:
    with storage.open_stream(entry.uri, stat=entry.stat) as stream:
        return stream.read()


def _open_remote(
    listing: Listing, name: Name, read: tuple[Index | None, bytes], spill: Spill
) -> tuple[Index | None, Segment]:
    index, log = read
    uri, entry = f"{listing.folder}/{name}{LOG}", listing.logs[name]
    if index is None:
        index = index_log(io.BytesIO(log), uri, torn=False)
        if index is None:
            raise damaged(uri, 0, "it is empty")
    elif entry.size != index.log_bytes:
        raise damaged(uri, entry.size, f"it has {entry.size:,} bytes instead of {index.log_bytes:,}")
    segment = _segment(listing, name, index)
    segment.spill, segment.stat = spill, entry.stat
    if log:
        segment.start = spill.append(log[index.base :])
    return index, segment


def seal_left(opened: Opened) -> None:
    """Write the indexes that killed writers left out; from then on, what such a writer still adds does not count."""
    if not storage.is_local(opened.listing.folder):
        return
    for segment, index in opened.segments:
        if segment.names[0] not in opened.listing.indexes:
            storage.write_bytes(segment.uri.removesuffix(LOG) + INDEX, encode_index(index))
