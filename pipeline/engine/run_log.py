"""What a run writes down of itself beside its results, in RUN/logs/: how far it is, each attempt at a task that failed,
and what tasks printed."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec

from pipeline import storage
from pipeline.progress import Standing
from pipeline.storage import StorageError, without_secrets
from stages.errors import UserError

if TYPE_CHECKING:  # `status` reads what is written here, and has no need of all that a task is made of
    from pipeline.engine.attempts import Failed
    from pipeline.plan.node import Node

LOGS = "logs"
FAILED = f"{LOGS}/failed"
PRINTED = f"{LOGS}/printed"
PROGRESS = f"{LOGS}/progress.json"
MOST = 1000  # tasks of which a run tells: where more fail, these tell why
SECONDS = 10.0  # between two writes of how far the run is
LOCAL_SECONDS = 2.0  # where they cost no request


class RunLog:
    """Writes to RUN/logs/. A run does not end because it cannot tell of itself: what storage refuses here is left out."""

    def __init__(self, run: str) -> None:
        self.run = run
        self._texts: dict[str, str] = {}
        self._printed: set[str] = set()
        self._told = time.monotonic()

    def begin(self) -> None:
        """Remove what an earlier run told: it is of no use to this one's reader."""
        with suppress(StorageError):
            storage.delete_tree(storage.join(self.run, LOGS))

    def end(self) -> None:
        """All is done: how far it is needs no telling any more. What failed on the way, and what was printed, stays."""
        with suppress(StorageError):
            if self._texts or self._printed:
                storage.delete(storage.join(self.run, PROGRESS))
            else:
                storage.delete_tree(storage.join(self.run, LOGS))

    @property
    def folder(self) -> str:
        """Where attempts that failed are told of."""
        return storage.join(self.run, FAILED)

    def failed(self, node: Node, failed: Failed) -> None:
        """Add an attempt to the file of its task: RUN/logs/failed/TASK.txt."""
        if node.key not in self._texts and len(self._texts) >= MOST:
            return
        error = failed.error
        words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        more = [*getattr(error, "__notes__", []), "tried again" if failed.again else "given up"]
        moment = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
        text = "\n".join([f"{moment}, attempt {failed.attempts} at {node.ref}: {words}", *more, ""])
        self._texts[node.key] = self._texts.get(node.key, "") + without_secrets(text)
        self._write(f"{FAILED}/{_name(node)}.txt", self._texts[node.key].encode())

    def printed(self, node: Node, text: str) -> None:
        """Write what a task printed to RUN/logs/printed/TASK.txt."""
        if text.strip() and len(self._printed) < MOST:
            self._printed.add(node.key)
            self._write(f"{PRINTED}/{_name(node)}.txt", without_secrets(text).encode())

    def standing(self, standing: Callable[[], Standing]) -> None:
        """Say how far the run is, every few seconds."""
        if time.monotonic() - self._told > (LOCAL_SECONDS if storage.is_local(self.run) else SECONDS):
            self._write(PROGRESS, msgspec.json.encode(standing()))
            self._told = time.monotonic()

    def stopped(self, standing: Standing) -> None:
        """The run ends before its time: say how far it came."""
        self._write(PROGRESS, msgspec.json.encode(standing))

    def _write(self, path: str, data: bytes) -> None:
        with suppress(StorageError):
            storage.write_bytes(storage.join(self.run, path), data)


def _name(node: Node) -> str:
    return f"{node.ref}".replace("/", "-")


def read_standing(run: str) -> Standing | None:
    """How far a run said it was; None where it said nothing."""
    with suppress(StorageError, msgspec.DecodeError):
        return msgspec.json.decode(storage.read_bytes(storage.join(run, PROGRESS)), type=Standing)
    return None
