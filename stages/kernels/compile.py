"""How kernels are compiled: once a machine, to a cache on disk, with one fixed signature each.

    @kernel("float64[:](text, offsets)")
    def mean_word_length(data, offsets): ...

A kernel is compiled (or loaded) at its first call, so importing a step is cheap. `warm` compiles all of them ahead, on all
cores, so that workers only load. `stored` says where what was compiled lies: no stale code, no write into the installed
package. `helper` marks functions that only kernels call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numba
from numba import types
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys

from stages.kernels.stored import environment_folder, module_key, source_of

TEXT = types.Array(types.uint8, 1, "C", readonly=True)
OFFSETS = types.Array(types.int64, 1, "C", readonly=True)
NAMES: dict[str, Any] = {name: getattr(types, name) for name in dir(types) if not name.startswith("_")}
NAMES |= {"text": TEXT, "offsets": OFFSETS}
for _name in ("uint8", "uint16", "uint32", "uint64", "int32", "int64", "float32", "float64"):
    NAMES[f"const_{_name}"] = types.Array(getattr(types, _name), 1, "C", readonly=True)  # a read-only 1-D array
    NAMES[f"vec_{_name}"] = types.Array(getattr(types, _name), 1, "C")  # a writable 1-D array

_KERNELS: list[Kernel] = []


class _Stored(FunctionCache):
    """Numba's cache, without the tables of how to compile, which it fills (a third of a second) before it looks.

    Where nothing is stored the compiler fills them itself.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)  # what compiled code allocates arrays with
        return self._load_overload(sig, target_context)


class Kernel:
    """A function compiled at first use, for one signature, and called with arrays of exactly those types.

    It is kept on disk where its module is a file, and else compiled in each process (a notebook's kernels).
    """

    def __init__(self, function: Callable[..., Any], signature: str, fastmath: bool, allocates: bool) -> None:
        self.function, self.signature, self.fastmath, self.allocates = function, signature, fastmath, allocates
        source_of(function.__module__)  # as it is now, while it is imported, and not as it may be at the first call
        self.compiled: Callable[..., Any] | None = None
        self.__doc__, self.__name__ = function.__doc__, function.__name__
        _KERNELS.append(self)

    def load(self) -> None:
        """Compile, or load from the cache."""
        if self.compiled is not None:
            return
        options: dict[str, Any] = {"nogil": True, "fastmath": self.fastmath, "error_model": "numpy"}
        options |= {} if self.allocates else {"_nrt": False}
        home = module_key(self.function.__module__)
        folder = environment_folder() / (home or "")
        with _numba(CACHE_DIR=str(folder), CACHE_LOCATOR_CLASSES="stages.kernels.stored.Locator", DISABLE_JIT=0):
            dispatcher = numba.njit(**options)(self.function)
            if home is not None:
                dispatcher._cache = _Stored(self.function)
            dispatcher.compile(eval(self.signature, NAMES))
        dispatcher.disable_compile()
        self.compiled = dispatcher

    def __call__(self, *args: Any) -> Any:
        if self.compiled is None:
            self.load()
        return self.compiled(*args)  # type: ignore[misc]


@contextmanager
def _numba(**settings: Any) -> Iterator[None]:
    """Settings of Numba for a while. DISABLE_JIT is among them: kernels are written for the compiler and run only compiled."""
    before = {name: getattr(numba.config, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(numba.config, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(numba.config, name, value)


def kernel(signature: str, *, fastmath: bool = False, allocates: bool = True) -> Callable[[Callable[..., Any]], Kernel]:
    """Decorator: compile for this signature. Besides Numba's type names: `text`, `offsets`, `vec_T`, `const_T`.

    `allocates=False`: it makes no arrays, and is compiled without counting references to them (`light`).
    """
    return lambda function: Kernel(function, signature, fastmath, allocates)


def helper(function: Callable[..., Any], *, inline: bool = False, allocates: bool = True) -> Callable[..., Any]:
    """Decorator for a function that kernels call: compiled into each of them, never by itself."""
    options: dict[str, Any] = {} if allocates else {"_nrt": False}
    with _numba(DISABLE_JIT=0):
        dispatcher = numba.njit(nogil=True, error_model="numpy", forceinline=inline, **options)(function)
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


def light(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `helper`, for a function that makes no arrays: references to those that it is given are not counted.

    In a function of many arrays and branches Numba cannot take the counting out again: an atomic instruction for each array
    on each way through it, which costs more than all else in a short one.
    """
    return helper(function, allocates=False)


def light_inlined(function: Callable[..., Any]) -> Callable[..., Any]:
    """As `light` and `inlined`."""
    return helper(function, inline=True, allocates=False)


def loaded_kernels() -> list[Kernel]:
    """The kernels of all modules that were imported so far."""
    return list(_KERNELS)
