"""What is known of a stored file without reading it, and what every kind of storage can do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pipeline.storage.public import public_name

SIZE_ONLY = "size:"
"""Start of the versions that hold no more than the size."""


def is_size_only(version: str) -> bool:
    """True where the storage tells the file's size and nothing else, so that another of that size is not noticed."""
    return version.startswith(SIZE_ONLY)


@dataclass(frozen=True, slots=True)
class Stat:
    """Size in bytes and a fingerprint of the content; equal versions mean equal content.

    version is the ETag on S3 and HTTP (or else the date and size), the content hash on the hub, and modification time,
    size and inode on a local disk (module version says why).
    digest, where the storage tells one, is the checksum of the whole file, as module digest writes it.
    witness: what readers are given to compare: the version, and on a local disk the ctime too.
    """

    size: int
    version: str
    digest: str = ""
    witness: str = ""

    def __post_init__(self) -> None:
        if not self.witness:
            object.__setattr__(self, "witness", self.version)


@dataclass(frozen=True, slots=True)
class Entry:
    """One listed file."""

    uri: str
    stat: Stat

    @property
    def name(self) -> str:
        """What documents and messages call the file: the URI without passwords and signatures."""
        return public_name(self.uri)

    @property
    def size(self) -> int:
        return self.stat.size

    @property
    def version(self) -> str:
        return self.stat.version

    @property
    def witness(self) -> str:
        return self.stat.witness


class Body(Protocol):
    """The bytes of one response. `start` is the offset of its first byte, which may be before the one asked for."""

    start: int

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, empty at the end; raises Broken when the connection breaks."""
        ...

    def close(self) -> None: ...


class Backend(Protocol):
    """What the module of one kind of storage offers to the functions over all of them."""

    def stat(self, uri: str) -> Stat: ...

    def list_level(self, folder: str, name_prefix: str) -> tuple[list[str], list[Entry]]:
        """Names of the folders, and files, right under `folder` whose name starts with `name_prefix`."""
        ...

    def list_tree(self, folder: str) -> Iterator[Entry]:
        """All files under `folder`, at any depth; none if it does not exist."""
        ...


class Remote(Backend, Protocol):
    """A storage that is read through ranged requests."""

    def has_ranges(self, uri: str, stat: Stat) -> bool:
        """True if parts of the file can be asked for; may cost a request."""
        ...

    def find_digest(self, uri: str, stat: Stat) -> str:
        """A checksum of the whole file that `stat` lacks, or ""; may cost requests, so only downloads ask for it."""
        ...

    def open_whole(self, uri: str) -> tuple[Stat, Body | None]:
        """What the file is now, with the body of the same answer where one request gives both (else None)."""
        ...

    def verify(self, uri: str, stat: Stat) -> None:
        """ChangedError if the file is another by now, where one answer may hold bytes of both; may cost a request."""

    def open_range(self, uri: str, start: int, stop: int, stat: Stat) -> Body:
        """Bytes [start, stop) of that very version; ChangedError if the file is another by now."""
        ...


class Writable(Backend, Protocol):
    """A storage that runs can write to."""

    def put_file(self, path: Path, uri: str, keep: bool) -> None: ...

    def put_bytes(self, data: bytes, uri: str) -> None: ...

    def delete_many(self, uris: Iterable[str]) -> None: ...

    def delete_tree(self, folder: str) -> None: ...

    def remove_leftovers(self, folder: str) -> None: ...
