"""All kernels compiled ahead, on all cores, so that workers only load them.

A module of kernels is done once: a file `complete` in its folder (see `stored`) says that each of its kernels is there,
for this Python, Numba and processor.
"""

from __future__ import annotations

import fcntl
import os
import pkgutil
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from stages.kernels.compile import Kernel, loaded_kernels
from stages.kernels.stored import environment_folder, kernel_modules, module_key

COMPLETE = "complete"
PROCESSES = 8  # at most: each takes some 300 MB
_WARM: set[Path] = set()  # folders that held all kernels when this process looked


def kernels() -> list[Kernel]:
    """All kernels of the project, those of steps included, the largest first."""
    import_module("stages.steps")
    package = import_module("stages.kernels")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"stages.kernels.{module.name}")
    return sorted(loaded_kernels(), key=lambda k: -len(k.function.__code__.co_code))


def is_warm() -> bool:
    """True when this machine's cache holds all kernels of the present sources, for this Python and processor.

    A process that found it so does not look again.
    """
    folder = environment_folder()
    if folder not in _WARM and not _missing():
        _WARM.add(folder)
    return folder in _WARM


def ensure_warm(on_kernel: Callable[[int, int], None] | None = None) -> None:
    """Compile the kernels that this machine's cache lacks; one process does it, on all cores, while others wait.

    `on_kernel(done, total)` is called now and then, for progress. Raises OSError where the cache cannot be written, and
    RuntimeError where a kernel does not compile.
    """
    if is_warm():
        return
    folder = environment_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if missing := _missing():
            _compile_all(folder, missing, on_kernel)
            for name in missing:
                (folder / str(module_key(name))).mkdir(exist_ok=True)
                (folder / str(module_key(name)) / COMPLETE).touch()


def _missing() -> list[str]:
    """The modules whose kernels are not all compiled."""
    folder = environment_folder()
    return [name for name in kernel_modules() if not (folder / str(module_key(name)) / COMPLETE).exists()]


def _compile_all(folder: Path, modules: list[str], on_kernel: Callable[[int, int], None] | None) -> None:
    claims = folder / "claims"
    shutil.rmtree(claims, ignore_errors=True)
    claims.mkdir()
    total = len(_kernels_of(modules))
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)}
    command = [sys.executable, "-P", "-m", "stages.kernels.warm", str(claims), *modules]
    said = folder / "said"
    with said.open("w") as file:  # a file, and no pipe: nothing waits for it to be read
        count = min(PROCESSES, os.cpu_count() or 1, total)
        helpers = [subprocess.Popen(command, env=environment, stderr=file) for _ in range(count)]
    while any(helper.poll() is None for helper in helpers):
        if on_kernel:
            on_kernel(max(0, len(list(claims.iterdir())) - len(helpers)), total)
        time.sleep(0.2)
    if any(helper.returncode != 0 for helper in helpers):
        raise RuntimeError(f"kernels could not be compiled:\n{said.read_text(errors='replace')}")


def _kernels_of(modules: list[str]) -> list[Kernel]:
    return [kernel for kernel in kernels() if kernel.function.__module__ in modules]


def _compile_unclaimed(claims: Path, modules: list[str]) -> None:
    """Compile each kernel of these modules that no other process has claimed, until none is left."""
    for item in _kernels_of(modules):
        try:
            (claims / f"{item.function.__module__}.{item.__name__}").touch(exist_ok=False)
        except FileExistsError:
            continue
        item.load()


if __name__ == "__main__":
    _compile_unclaimed(Path(sys.argv[1]), sys.argv[2:])
