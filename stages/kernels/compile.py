"""How kernels are compiled: once a machine, to a cache on disk, with one fixed signature each.

    @kernel("float64[:](text, offsets)")
    def mean_word_length(data, offsets): ...

A kernel is compiled (or loaded) at its first call, so importing a step is cheap. `warm` compiles all of them ahead,
so that workers only load. The cache lies in a folder named by a hash of all kernel sources and Numba's version:
no stale code, no write into the installed package. `helper` marks functions that only kernels call.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pkgutil
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numba
from numba import types

TEXT = types.Array(types.uint8, 1, "C", readonly=True)
OFFSETS = types.Array(types.int64, 1, "C", readonly=True)
NAMES: dict[str, Any] = {name: getattr(types, name) for name in dir(types) if not name.startswith("_")}
NAMES |= {"text": TEXT, "offsets": OFFSETS}
for _name in ("uint8", "uint16", "uint32", "uint64", "int32", "int64", "float32", "float64"):
    NAMES[f"const_{_name}"] = types.Array(getattr(types, _name), 1, "C", readonly=True)  # a read-only 1-D array
    NAMES[f"vec_{_name}"] = types.Array(getattr(types, _name), 1, "C")  # a writable 1-D array

_KERNELS: list[Kernel] = []


def cache_folder() -> Path:
    """Where compiled kernels lie: HEADRACE_KERNEL_CACHE, else the user's cache folder; named by what was compiled."""
    base = os.environ.get("HEADRACE_KERNEL_CACHE")
    root = (
        Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "headrace" / "kernels"
    )
    digest = hashlib.blake2b(f"{numba.__version__}".encode(), digest_size=8)
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.name.encode() + source.read_bytes())
    return root / digest.hexdigest()


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
            numba.config.CACHE_DIR = str(cache_folder())
            signature = eval(self.signature, NAMES)
            self.compiled = numba.njit(signature, cache=True, nogil=True, fastmath=self.fastmath, error_model="numpy")(
                self.function
            )

    def __call__(self, *args: Any) -> Any:
        if self.compiled is None:
            self.load()
        return self.compiled(*args)  # type: ignore[misc]


def kernel(signature: str, *, fastmath: bool = False) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator: compile for this signature. Besides Numba's type names: `text`, `offsets`, `vec_T`, `const_T`."""
    return lambda function: Kernel(function, signature, fastmath)


def helper(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator for a function that kernels call: compiled into each of them, never by itself."""
    dispatcher = numba.njit(nogil=True, error_model="numpy")(function)
    # Numba would compile it again for each constant that an argument may be: half of all compile time.
    general = dispatcher.get_call_template
    dispatcher.get_call_template = lambda args, kws: general(
        tuple(map(types.unliteral, args)), {name: types.unliteral(kind) for name, kind in kws.items()}
    )
    return dispatcher


def warm(on_kernel: Callable[[str, int, int], None] | None = None) -> float:
    """Import every kernel module and compile or load every kernel; returns seconds taken.

    `on_kernel(name, done, total)` is called before each, for progress.
    """
    began = time.perf_counter()
    package = import_module("stages.kernels")
    for module in pkgutil.iter_modules(package.__path__):
        import_module(f"stages.kernels.{module.name}")
    for done, item in enumerate(_KERNELS):
        if on_kernel:
            on_kernel(item.__name__, done, len(_KERNELS))
        item.load()
    return time.perf_counter() - began


def is_warm() -> bool:
    """True when this machine's cache holds compiled kernels for the present sources."""
    return (cache_folder() / "complete").exists()


def ensure_warm(on_kernel: Callable[[str, int, int], None] | None = None) -> None:
    """Compile all kernels unless this machine's cache has them; one process compiles while others wait."""
    if is_warm():
        return
    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not is_warm():
            warm(on_kernel)
            (folder / "complete").touch()
