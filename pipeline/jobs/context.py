"""What a task has at hand: the run's folder, scratch space on this node, and the node's cache."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from pipeline import storage
from pipeline.ledger import Output, Ref
from pipeline.plan.node import INTERIM, Stored

NOBODY = Ref("", "", "", 0)  # of a context outside a run


@dataclass
class Context:
    """A task's way to the files that it reads and writes.

    token: of the lock of the run that the task belongs to. cores: that are the task's. outputs: what it has written so far.
    """

    run: str
    scratch: Path
    cache: storage.Cache
    ref: Ref = NOBODY
    key: str = ""
    token: str | None = None
    cores: int = 1
    outputs: list[Output] = field(default_factory=list)
    _verified: dict[Stored, str] = field(default_factory=dict)  # files that were found to be right, as they were then

    def interim(self, folder: str) -> str:
        """The beginning of the names of this task's interim files: its place in the stage, and its key."""
        return f"{INTERIM}/{folder}/{self.ref.ordinal:05d}-{self.key}"

    def uri(self, path: str) -> str:
        """The URI of a path in the run's folder."""
        return storage.join(self.run, path)

    @contextmanager
    def output(self, path: str) -> Iterator[Path]:
        """A local file to write; on a clean exit it appears, whole, at `path` in the run's folder."""
        uri = self.uri(path)
        with storage.open_output(uri, self.scratch) as local:
            yield local
            size, digest = local.stat().st_size, storage.file_digest(local)
            if not path.startswith(f"{INTERIM}/"):
                self.still_wanted()
        self.outputs.append(Output(path, size, digest))

    def stored(self, path: str) -> Stored:
        """A file that the task has written, with its digest."""
        return next(Stored(output.path, output.digest) for output in reversed(self.outputs) if output.path == path)

    def still_wanted(self) -> None:
        """Raise StorageError where another run has taken the folder over, of which a task of a killed driver knows nothing.

        Asked before files are written whose names are not keyed by their content: it might write over the other run's.
        """
        if self.token is not None:
            storage.check_token(self.run, self.token)

    @contextmanager
    def local(self, file: Stored) -> Iterator[Path]:
        """A file of the run's folder as a local path, copied to scratch (and removed again) where it is remote.

        Raises DamagedError where its bytes are not those that it was written with.
        """
        uri = self.uri(file.path)
        if storage.is_local(uri):
            path = storage.local_path(uri)
            storage.verify_path(path, file.digest)
            yield path
            return
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            copy = Path(folder) / Path(file.path).name
            storage.copy_to(uri, copy)
            storage.verify_path(copy, file.digest, uri)
            yield copy

    def open(self, file: Stored) -> BinaryIO:
        """A file of the run's folder, opened for reading at any place, once its bytes are those that it was written with.

        Raises DamagedError where they are not. A local file that was found right before is not read through again.
        """
        uri = self.uri(file.path)
        if not storage.is_local(uri):
            return storage.open_verified(uri, file.digest, self.scratch)
        if file not in self._verified:
            witness = storage.stat(uri).witness
            storage.verify_path(storage.local_path(uri), file.digest)
            self._verified[file] = witness
        return storage.open_random(uri, version=self._verified[file])

    def open_blocks(self, file: Stored) -> BinaryIO:
        """A file of which a task reads a few blocks that each have a checksum of their own (shuffle files)."""
        return storage.open_random(self.uri(file.path))
