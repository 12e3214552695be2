"""What training asks of the machine: signals, a lock on its folder, and memory that is used again."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError


@contextlib.contextmanager
def signals() -> Iterator[list[int]]:
    """Collect SIGTERM and SIGINT instead of dying of them. A second SIGINT is not collected. A second SIGTERM is, and
    changes nothing: a cluster's scheduler and torchrun both send one, and torchrun another once one process has ended."""
    received: list[int] = []
    previous = {}

    def note(number: int, _frame: Any) -> None:
        received.append(number)
        if number == signal.SIGINT:
            signal.signal(number, previous[number])

    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError):  # not in the main thread
            previous[number] = signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


TORCHRUN_SECONDS = 30
"""How long torchrun waits, after it has passed a signal on, before it kills (torch/distributed/launcher/api.py)."""


def torchrun_too_hasty(seconds: float) -> str | None:
    """What to set where torchrun would kill before a save of so many seconds is done; None if it would wait, or if this
    process is not its. A flag of torchrun's own is not seen from here, its variable is."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    waits = os.environ.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "")
    waits_s = int(waits) if waits.isdigit() else TORCHRUN_SECONDS
    if seconds < 0.5 * waits_s:
        return None
    enough = 60 * (1 + int(2 * seconds) // 60)
    return (
        f"a save takes {seconds:.0f} s, and torchrun kills {waits_s} s after it was told to stop; "
        f"start it with TORCH_ELASTIC_SHUTDOWN_TIMEOUT={enough} (or torchrun --shutdown-timeout {enough})"
    )


@contextlib.contextmanager
def only_one(out: Path) -> Iterator[None]:
    """Hold the folder against a second training into it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        handle = os.open(out / ".lock", os.O_CREAT | os.O_RDWR)
    except OSError as error:
        raise TrainerError(f"{out}: cannot be written ({error.strerror})") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise TrainerError(
                f"{out}: another training (or materialize) is writing there; wait for its end, or name another --out"
            ) from None
        yield
    finally:
        os.close(handle)


def device(name: str | None) -> str:
    """The device to work on: the one named, else cuda where there is a GPU. Raises TrainerError for one that is not."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name not in ("cpu", "cuda"):
        raise TrainerError(f"--device {name}: cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise TrainerError("--device cuda: torch finds no GPU here; leave --device out to take the CPU")
    return name


def reuse_memory() -> None:
    """Tell glibc to keep freed memory. A training step frees and takes the same large blocks again and again; handed
    back to the system each time, they cost a page fault for every 4 KiB."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        libc = ctypes.CDLL(None)
        trim_threshold, mmap_max = -1, -4
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(mmap_max, 0)
