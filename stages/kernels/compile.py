"""How kernels are compiled: once a machine, to a cache on disk, with one fixed signature each.

    @kernel("float64[:](text, offsets)")
    def mean_word_length(data, offsets): ...

A kernel is compiled (or loaded) at its first call, so importing a step is cheap. `ensure_warm` compiles all of them ahead,
on all cores, so that workers only load. The cache lies in a folder named by a hash of all kernel sources and Numba's version:
no stale code, no write into the installed package. `helper` marks functions that only kernels call.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pkgutil
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numba
from numba import types
from numba.core.caching import UserProvidedCacheLocator

from stages.cache import cache_root

TEXT = types.Array(types.uint8, 1, "C", readonly=True)
OFFSETS = types.Array(types.int64, 1, "C", readonly=True)
NAMES: dict[str, Any] = {name: getattr(types, name) for name in dir(types) if not name.startswith("_")}
NAMES |= {"text": TEXT, "offsets": OFFSETS}
for _name in ("uint8", "uint16", "uint32", "uint64", "int32", "int64", "float32", "float64"):
    NAMES[f"const_{_name}"] = types.Array(getattr(types, _name), 1, "C", readonly=True)  # a read-only 1-D array
    NAMES[f"vec_{_name}"] = types.Array(getattr(types, _name), 1, "C")  # a writable 1-D array

_KERNELS: list[Kernel] = []


@cache
def cache_folder() -> Path:
    """Where compiled kernels lie, in a folder named by what was compiled; HEADRACE_KERNEL_CACHE moves these alone."""
    base = os.environ.get("HEADRACE_KERNEL_CACHE")
    root = Path(base) if base else cache_root() / "kernels"
    checked = " checked" if numba.config.BOUNDSCHECK else ""
    digest = hashlib.blake2b(f"{numba.__version__}{checked}".encode(), digest_size=8)
    for source in sorted(Path(__file__).parents[1].rglob("*.py")):
        content = source.read_bytes()
        if source.parent == Path(__file__).parent or b"@kernel(" in content:
            digest.update(source.name.encode() + content)
    return root / digest.hexdigest()


class Locator(UserProvidedCacheLocator):
    """Numba's cache without the checkout's path in it: what is compiled is found by what its sources hold, not where."""

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        return Path(py_file).parent.name


class Kernel:
    """A function compiled at first use, for one signature, and called with arrays of exactly those types."""

    def __init__(self, function: Callable[..., Any], signature: str, fastmath: bool) -> None:
        self.function, self.signature, self.fastmath = function, signature, fastmath
        self.compiled: Callable[..., Any] | None = None
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        _KERNELS.append(self)

    def load(self) -> None:
        """Compile, or load from the cache."""
        if self.compiled is None:
            names = ("CACHE_DIR", "CACHE_LOCATOR_CLASSES")
            before = [getattr(numba.config, name) for name in names]
            numba.config.CACHE_DIR = str(cache_folder())
            numba.config.CACHE_LOCATOR_CLASSES = f"{__name__}.Locator"
            signature = eval(self.signature, NAMES)
            try:
                options: dict[str, Any] = {"nogil": True, "fastmath": self.fastmath, "error_model": "numpy"}
                dispatcher = numba.njit(cache=True, **options)(self.function)
                dispatcher.compile(signature)
                dispatcher.disable_compile()
                self.compiled = dispatcher
            finally:
                for name, value in zip(names, before, strict=True):
                    setattr(numba.config, name, value)

    def __call__(self, *args: Any) -> Any:
        if self.compiled is None:
            self.load()
        return self.compiled(*args)  # type: ignore[misc]


def kernel(signature: str, *, fastmath: bool = False) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator: compile for this signature. Besides Numba's type names: `text`, `offsets`, `vec_T`, `const_T`."""
    return lambda function: Kernel(function, signature, fastmath)


def helper(function: Callable[..., Any], *, inline: bool = False) -> Callable[..., Any]:
    """Decorator for a function that kernels call: compiled into each of them, never by itself."""
    dispatcher = numba.njit(nogil=True, error_model="numpy", forceinline=inline)(function)
    # Numba would compile it again for each constant that an argument may be: half of all compile time.
    general = dispatcher.get_call_template
    dispatcher.get_call_template = lambda args, kws: general(
        tuple(map(types.unliteral, args)), {name: types.unliteral(kind) for name, kind in kws.items()}
    )
    return dispatcher


def inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `helper`, but put into the very place of each call: for what inner loops call.

    LLVM decides about a helper by its size, and a call costs more than it looks: an array is passed as seven values.
    """
    return helper(function, inline=True)


def kernels() -> list[Kernel]:
    """All kernels of the project, those of steps included, the largest first."""
    import_module("stages.steps")
    package = import_module("stages.kernels")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"stages.kernels.{module.name}")
    return sorted(_KERNELS, key=lambda k: -len(k.function.__code__.co_code))


def is_warm() -> bool:
    """True when this machine's cache holds compiled kernels for the present sources."""
    return (cache_folder() / "complete").exists()


def ensure_warm(on_kernel: Callable[[int, int], None] | None = None) -> None:
    """Compile all kernels unless this machine's cache has them; one process does it, on all cores, while others wait.

    `on_kernel(done, total)` is called now and then, for progress.
    """
    if is_warm():
        return
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_warm():
            _compile_all(folder, on_kernel)
            (folder / "complete").touch()


def _compile_all(folder: Path, on_kernel: Callable[[int, int], None] | None) -> None:
    claims = folder / "claims"
    shutil.rmtree(claims, ignore_errors=True)
    claims.mkdir()
    total = len(kernels())
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p)}
    command = [sys.executable, "-m", "stages.kernels.compile", str(claims)]
    said = folder / "said"
    with said.open("w") as file:  # a file, and no pipe: nothing waits for it to be read
        helpers = [subprocess.Popen(command, env=environment, stderr=file) for _ in range(min(8, os.cpu_count() or 1))]
    while any(helper.poll() is None for helper in helpers):
        if on_kernel:
            on_kernel(max(0, len(list(claims.iterdir())) - len(helpers)), total)
        time.sleep(0.2)
    if any(helper.returncode != 0 for helper in helpers):
        raise RuntimeError(f"kernels could not be compiled:\n{said.read_text(errors='replace')}")


def _compile_unclaimed(claims: Path) -> None:
    """Compile each kernel that no other process has claimed, until none is left."""
    for item in kernels():
        try:
            (claims / f"{item.function.__module__}.{item.__name__}").touch(exist_ok=False)
        except FileExistsError:
            continue
        item.load()


if __name__ == "__main__":
    from stages.kernels.compile import _compile_unclaimed as compile_unclaimed  # the module's one list, not __main__'s

    compile_unclaimed(Path(sys.argv[1]))
