"""Memory of this process: the most that it held since a moment (resident, as the kernel counts), and giving it back."""

from __future__ import annotations

import ctypes
import resource
from contextlib import suppress
from pathlib import Path

import pyarrow as pa

_PROC = Path("/proc/self")


def reset_peak() -> None:
    """Begin the high-water mark anew, where the kernel lets a process do so (Linux)."""
    with suppress(OSError):
        (_PROC / "clear_refs").write_text("5")


def peak() -> int:
    """Bytes at the high-water mark since the last reset; without /proc, since the process began."""
    with suppress(OSError):
        for line in (_PROC / "status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def release() -> None:
    """Give freed memory back to the system: a worker that stays would hold what its largest task took."""
    pa.default_memory_pool().release_unused()
    with suppress(OSError, AttributeError):  # another C library than glibc has no such function
        ctypes.CDLL(None).malloc_trim(0)
