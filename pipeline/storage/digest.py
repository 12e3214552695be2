"""Checksums of whole files, as storages state them ("sha256:HEX", "md5:HEX", "crc32:HEX", "git-sha1:HEX")."""

from __future__ import annotations

import hashlib
import zlib
from pathlib import Path
from typing import Protocol

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


def hasher(kind: str, size: int) -> Hasher:
    """A hasher of that kind for a file of `size` bytes (git hashes the size before the content)."""
    if kind == "crc32":
        return _Crc32()
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
