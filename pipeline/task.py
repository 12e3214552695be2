"""What the engine runs: phases of tasks. A task is a function by name, its JSON-able spec, and a content key.

The function takes `(spec, context)` and returns a report: a dict of small JSON values, of which `books` (one entry a
step) must balance. All that it reads and writes goes through its context; outputs land atomically, and only then is
the report written to the ledger under the task's key.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from pipeline import storage
from pipeline.ledger import PARTS
from stages.step import content_key


@dataclass(frozen=True)
class Task:
    """One unit of work.

    key: hash of all that decides the outputs' bytes. name: for people (`map/dclm/00003`). weight: bytes of input, for
    progress. spec: what the function is given. memory: bytes that it needs at most; 0: no more than any task may take.
    """

    key: str
    name: str
    function: str  # "package.module:function"
    spec: dict[str, Any]
    weight: int = 0
    similar: str | None = None  # hash of what decides the measures only: a task of equal `similar` may lend its parts
    memory: int = 0


@dataclass(frozen=True)
class Phase:
    """Tasks that need nothing of one another. The next phase begins when all are done."""

    name: str
    tasks: list[Task]


@dataclass
class Context:
    """A task's hands: where the run's folder is, scratch space on this node, the node's cache."""

    run: str
    scratch: Path
    cache: storage.Cache
    token: str | None = None  # of the lock of the run that the task belongs to
    outputs: list[dict[str, Any]] = field(default_factory=list)

    def uri(self, path: str) -> str:
        """The URI of a path in the run's folder."""
        return storage.join(self.run, path)

    @contextmanager
    def output(self, path: str) -> Iterator[Path]:
        """A local file to write; on a clean exit it appears, whole, at `path` in the run's folder."""
        uri = self.uri(path)
        with storage.open_output(uri, self.scratch) as local:
            yield local
            size, digest = local.stat().st_size, file_digest(local)
            if not path.startswith(f"{PARTS}/"):
                self.still_wanted()
        self.outputs.append({"path": path, "bytes": size, "digest": digest})

    def still_wanted(self) -> None:
        """Raise StorageError where another run has taken the folder over, of which a task of a killed driver knows nothing.

        Asked before files are written whose names are not keyed by their content: it might write over the other run's.
        """
        if self.token is not None:
            storage.check_token(self.run, self.token)

    @contextmanager
    def local(self, path: str) -> Iterator[Path]:
        """A file of the run's folder as a local path, copied to scratch (and removed again) where it is remote."""
        uri = self.uri(path)
        if storage.is_local(uri):
            yield storage.local_path(uri)
            return
        with tempfile.TemporaryDirectory(dir=self.scratch) as folder:
            copy = Path(folder) / Path(path).name
            storage.copy_to(uri, copy)
            yield copy

    def open(self, path: str) -> BinaryIO:
        """A file of the run's folder, opened for reading at any place (Parquet)."""
        return storage.open_random(self.uri(path))


def file_digest(path: Path) -> str:
    """BLAKE2b-128 of a file's bytes, in hex: what tasks that read it are keyed by."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def task_key(function: str, version: int, *parts: Any) -> str:
    """The key of a task: function, its version, and whatever decides the bytes that it writes."""
    return content_key(function, version, *parts)
