"""Digests of the bytes of inputs, for runs that compare content (`run.check_inputs: content`).

A file is read once and its digest kept in the run's folder, under a hash of its name and its witness: what is listed the same
way again is not read again. A file that was copied, restored or touched is read once more, and is the same if its bytes are.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Protocol

import orjson

from pipeline.storage.digest import CHUNK, hasher
from pipeline.storage.listing import exists
from pipeline.storage.stream import open_stream, read_bytes
from pipeline.storage.uri import join, scheme
from pipeline.storage.writing import write_bytes

NAME = "input_digests.json"
READERS = 4
SAVE_SECONDS = 30.0


class Listed(Protocol):
    """A listed file: `storage.Entry`, or whatever else tells these of it."""

    @property
    def uri(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def witness(self) -> str: ...


class ContentDigests:
    """The digests that a run's folder remembers, and those computed here."""

    def __init__(self, run: str) -> None:
        self._place = join(run, NAME)
        self._known: dict[str, str] = {}
        if exists(self._place):
            try:
                found = orjson.loads(read_bytes(self._place))
            except ValueError:
                found = None  # torn or damaged: all files are read again
            self._known = found if isinstance(found, dict) else {}

    def of(self, files: Sequence[Listed]) -> list[str]:
        """A digest for each file ("xxh3:HEX", or the hub's own hash), those that are not known by reading them whole.

        Raises ChangedError where a file is not the one that was listed, and StorageError as everywhere. What was computed
        until then is kept. Digests of files that are not among `files` are forgotten.
        """
        keys = [_key(file) for file in files]
        self._known = {key: self._known[key] for key in keys if key in self._known}
        missing = {key: file for key, file in zip(keys, files, strict=True) if key not in self._known}
        if missing:
            try:
                self._compute(missing.items())
            finally:
                self._save()
        return [self._known[key] for key in keys]

    def _compute(self, missing: Iterable[tuple[str, Listed]]) -> None:
        saved = time.monotonic()
        with ThreadPoolExecutor(READERS, thread_name_prefix="digest") as pool:
            running = {pool.submit(content_digest, file): key for key, file in missing}
            try:
                for done in as_completed(running):
                    self._known[running[done]] = done.result()
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self._save()
                        saved = time.monotonic()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def _save(self) -> None:
        write_bytes(self._place, orjson.dumps(self._known, option=orjson.OPT_INDENT_2))


def _key(file: Listed) -> str:
    return hashlib.blake2b(
        f"{file.name}\0{file.witness}".encode("utf-8", "surrogateescape"), digest_size=16
    ).hexdigest()


def content_digest(file: Listed) -> str:
    """The digest of a listed file's bytes, or on the hub, which keeps files by their hash, its version."""
    return file.version if scheme(file.uri) == "hf" else digest_of(file.uri, file.witness)


def digest_of(uri: str, version: str | None = None) -> str:
    """The digest of a file's bytes wherever it lies, "xxh3:HEX", as `file_digest` gives it. version: as for open_stream."""
    found = hasher("xxh3", 0)
    buffer = bytearray(CHUNK)
    with open_stream(uri, version=version) as stream:
        while count := stream.readinto(buffer):  # type: ignore[attr-defined]
            found.update(memoryview(buffer)[:count])
    return f"xxh3:{found.hexdigest()}"
