"""Where compiled kernels lie: one folder a module of kernels, named by all that decides what the compiler makes of it.

    ROOT / ENVIRONMENT / MODULE-DIGEST

ENVIRONMENT names Python, Numba, the processor and the compiler's settings, so that machines and Pythons that share a
home keep their code apart. DIGEST is of the module's source and of all that it imports from this project: an edited
kernel is compiled again, with those that use it, and no other.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import sysconfig
from contextlib import suppress
from functools import cache
from importlib.util import resolve_name
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm
import numba
from numba.core.caching import UserProvidedCacheLocator

from stages.cache import cache_root

PACKAGE = Path(__file__).resolve().parents[1]  # stages/
IMPORT = re.compile(r"^[ \t]*(?:from\s+([\w.]+)\s+import\s+(\([^)]*\)|[^\n]*)|import\s+([^\n]*))", re.MULTILINE)
# They say where compiled code lies, and decide nothing about it.
NOT_CODE = {"stages.cache", "stages.kernels.stored", "stages.kernels.warm"}
# Settings of Numba (environment variables NUMBA_...) that change what it makes of a function.
SETTINGS = (
    "BOUNDSCHECK",
    "DEBUGINFO_DEFAULT",
    "DISABLE_INTEL_SVML",
    "ENABLE_AVX",
    "LOOP_VECTORIZE",
    "OPT",
    "SLP_VECTORIZE",
)


def kernel_root() -> Path:
    """The folder of all compiled kernels; HEADRACE_KERNEL_CACHE moves these alone."""
    base = os.environ.get("HEADRACE_KERNEL_CACHE")
    return Path(base) if base else cache_root() / "kernels"


def environment_folder() -> Path:
    """Where the kernels lie that this Python, Numba and processor can use."""
    return kernel_root() / _environment()


@cache
def _environment() -> str:
    config = numba.config
    processor = config.CPU_NAME or llvm.get_host_cpu_name()
    features = config.CPU_FEATURES
    if features is None:
        try:
            features = llvm.get_host_cpu_features().flatten()
        except RuntimeError:  # LLVM does not know this processor's, and Numba does without
            features = ""
    settings = [(name, str(getattr(config, name, None))) for name in SETTINGS]
    facts = (
        sysconfig.get_config_var("SOABI"),
        llvmlite.__version__,
        llvm.get_process_triple(),
        processor,
        features,
        settings,
    )
    digest = hashlib.blake2b(repr(facts).encode(), digest_size=6).hexdigest()
    return f"{sys.implementation.cache_tag}-numba-{numba.__version__}-{processor}-{digest}"


@cache
def module_key(name: str) -> str | None:
    """A module's name with a digest of its source and of all that it imports; None where it has no file of its own."""
    if _path(name) is None:
        return None
    digest = hashlib.blake2b(digest_size=8)
    for member in sorted(_closure(name)):
        digest.update(member.encode() + _digest(member))
    return f"{name}-{digest.hexdigest()}"


def kernel_modules() -> list[str]:
    """The names of this project's modules that hold kernels, without importing any."""
    names = (f"stages.kernels.{path.stem}" for path in sorted((PACKAGE / "kernels").glob("*.py")))
    return [name for name in names if b"\n@kernel(" in source_of(name)]


def _closure(name: str) -> set[str]:
    """The module and all modules that it imports, directly or through others; of libraries, none but its own package."""
    package = name.partition(".")[0]
    found, waiting = set(), [name]
    while waiting:
        member = waiting.pop()
        if member not in found:
            found.add(member)
            waiting += [
                other for other in _named(member) if other.partition(".")[0] == package or not _of_a_library(other)
            ]
    return {member for member in found - NOT_CODE if _path(member) is not None}


@cache
def _named(name: str) -> tuple[str, ...]:
    """What a module's source names in its imports, also inside functions: modules, and things in modules that may be such."""
    path = _path(name)
    package = name if path and path.name == "__init__.py" else name.rpartition(".")[0]
    names: list[str] = []
    for module, things, plain in IMPORT.findall(source_of(name).decode(errors="replace")):
        if plain:
            names += re.findall(r"([\w.]+)(?:\s+as\s+\w+)?", plain)
        else:
            with suppress(ImportError):  # relative beyond the package: Python would have refused it
                module = resolve_name(module, package)
            names += [module, *(f"{module}.{thing}" for thing in re.findall(r"(\w+)(?:\s+as\s+\w+)?", things))]
    return tuple(found for found in names if found not in NOT_CODE)


@cache
def source_of(name: str) -> bytes:
    """A module's source, read once a process; empty where it has no file."""
    path = _path(name)
    return b"" if path is None else path.read_bytes()


@cache
def _digest(name: str) -> bytes:
    return hashlib.blake2b(source_of(name), digest_size=16).digest()


@cache
def _path(name: str) -> Path | None:
    """The source of a module of this project, or of another one that was imported; None where there is none."""
    if name.partition(".")[0] == "stages":
        inside = PACKAGE.parent.joinpath(*name.split("."))
        return next((path for path in (inside.with_suffix(".py"), inside / "__init__.py") if path.is_file()), None)
    file = getattr(sys.modules.get(name), "__file__", None)
    return Path(file).resolve() if file and file.endswith(".py") and Path(file).is_file() else None


@cache
def _of_a_library(name: str) -> bool:
    """False for this project's modules, and for a user's own that were installed nowhere."""
    path = None if name.partition(".")[0] == "stages" else _path(name)
    if path is None:
        return False
    standard = Path(sysconfig.get_path("stdlib")).resolve()
    return path.is_relative_to(standard) or not {"site-packages", "dist-packages"}.isdisjoint(path.parts)


class Locator(UserProvidedCacheLocator):
    """Numba's cache in the folder that it is given: what lies there was made from these sources, wherever they lie."""

    @classmethod
    def get_suitable_cache_subpath(cls, py_file: str) -> str:
        return ""

    def get_source_stamp(self) -> str:
        return "named by the folder"
