"""Arrays that a step looks things up in (hashes of a list of domains, of n-grams): made once a machine, then mapped."""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from stages.cache import cache_root
from stages.errors import UserError

Arrays = dict[str, np.ndarray]


def machine_arrays(key: str, build: Callable[[], Arrays]) -> Arrays:
    """The arrays named by `key` (which must say all that they depend on), read-only and shared by all processes.

    They are mapped from `.npy` files in the cache folder; where this machine has none, one process calls `build` while
    the others wait. Raises UserError where the folder cannot be written, and whatever `build` raises.
    """
    folder = cache_root() / "lists"
    target = folder / key
    try:
        if not target.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / f"{key}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not target.is_dir():
                    _write(target, build())
        return {file.stem: np.load(file, mmap_mode="r") for file in sorted(target.glob("*.npy"))}
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"cannot keep lists in {folder}: {reason}; set HEADRACE_CACHE to a folder with room") from error


def _write(target: Path, arrays: Arrays) -> None:
    draft = Path(tempfile.mkdtemp(prefix=f"{target.name}.", dir=target.parent))
    try:
        for name, array in arrays.items():
            np.save(draft / f"{name}.npy", array)
        draft.chmod(0o755)  # mkdtemp's own mode shuts other users of the machine's cache out
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
