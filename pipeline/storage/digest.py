"""Checksums of whole files, as storages state them, and as this package writes them.

"xxh3:HEX", XXH3-128, is that of files which a run writes and of inputs compared by content; storages state
"sha256:HEX", "md5:HEX", "crc32:HEX"; "git-sha1:HEX", git's hash of a file; "md5-parts-SIZE:HEX-N", which S3 keeps of
an upload in N parts of SIZE bytes: the MD5 over the parts' MD5s.
"""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Protocol

import xxhash

CHUNK = 1 << 20


class Hasher(Protocol):
    def update(self, data: bytes | memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


class _Crc32:
    """CRC-32 as zlib and S3 define it, in the shape of a hashlib object."""

    def __init__(self) -> None:
        self.value = 0

    def update(self, data: bytes | memoryview, /) -> None:
        self.value = zlib.crc32(data, self.value)

    def hexdigest(self) -> str:
        return f"{self.value:08x}"


class _Md5OfParts:
    """The MD5 over the MD5s of parts of `size` bytes, then "-" and their number."""

    def __init__(self, size: int) -> None:
        self.size, self.left, self.count = size, size, 0
        self.part, self.whole = _md5(), _md5()

    def update(self, data: bytes | memoryview, /) -> None:
        view = memoryview(data)
        while view:
            piece, view = view[: self.left], view[self.left :]
            self.part.update(piece)
            self.left -= len(piece)
            if not self.left:
                self._finish_part()

    def _finish_part(self) -> None:
        self.whole.update(self.part.digest())
        self.part, self.left, self.count = _md5(), self.size, self.count + 1

    def hexdigest(self) -> str:
        if self.left < self.size:
            self._finish_part()
        return f"{self.whole.hexdigest()}-{self.count}"


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def hasher(kind: str, size: int) -> Hasher:
    """A hasher of that kind for a file of `size` bytes (git hashes the size before the content)."""
    if kind == "xxh3":
        return xxhash.xxh3_128()
    if kind == "crc32":
        return _Crc32()
    if kind.startswith("md5-parts-"):
        return _Md5OfParts(int(kind.rpartition("-")[2]))
    if kind == "git-sha1":
        return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    return hashlib.new(kind, usedforsecurity=False)


class Check:
    """Hashes a file's bytes in order and tells whether they are those that `digest` states."""

    def __init__(self, digest: str, size: int) -> None:
        self.kind, _, self.wanted = digest.partition(":")
        self._hasher = hasher(self.kind, size)
        self.update = self._hasher.update

    def mismatch(self) -> str:
        """ "" when the bytes are right, else words that say how they differ."""
        found = self._hasher.hexdigest()
        return "" if found == self.wanted else f"its {self.kind} is {found}, not {self.wanted}"


def file_mismatch(path: Path, digest: str) -> str:
    """Checks a whole local file against `digest`; "" when it is right."""
    check = Check(digest, path.stat().st_size)
    with path.open("rb", buffering=0) as file:
        buffer = memoryview(bytearray(CHUNK))
        while count := file.readinto(buffer):
            check.update(buffer[:count])
    return check.mismatch()


def is_digest(version: str) -> bool:
    """True for what `file_digest` gives, of the things that versions of files are."""
    return version.startswith("xxh3:")


def file_digest(path: Path) -> str:
    """The digest of a local file's bytes, "xxh3:HEX"."""
    found = xxhash.xxh3_128()
    buffer = memoryview(bytearray(CHUNK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            found.update(buffer[:count])
    return f"xxh3:{found.hexdigest()}"
