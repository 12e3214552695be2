"""Code of the user's own that a recipe names by its import path: found, loaded, and told apart by its content."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.errors import UserError

_loaded: dict[str, dict[Path, str]] = {}  # module name -> hash of each source that was executed for it, its own and others


def add_folder(folder: str | Path) -> None:
    """Let functions be found in this folder too, behind all that Python finds already. Idempotent."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def is_import_path(text: str) -> bool:
    """Whether it is written as one, `package.module:name`; an address with a port is not."""
    return re.fullmatch(r"\w+(\.\w+)*:\w+", text) is not None


def load(function: str) -> Callable[[Any], Any]:
    """The function or class of an import path `package.module:name`; imported anew where its file, or one beside it that
    it imports, was edited since: a notebook's kernel outlives many edits.

    Raises UserError where it is no import path, where there is no such module or name in it, or where importing it raises.
    """
    if not is_import_path(function):
        raise UserError(f"{function}: not an import path, which is written as package.module:name")
    name, attribute = function.split(":")
    module = _import(name)
    found = getattr(module, attribute, None)
    if not callable(found):
        there = [key for key, value in vars(module).items() if callable(value) and value.__module__ == name]
        raise UserError(f"function {function}: {name} has no {attribute}; it has {', '.join(there) or 'none'}")
    return found


def installed(group: str, name: str) -> str | None:
    """The import path that an installed package gives a name in `headrace.steps` or `headrace.readers`; None for none."""
    found = next(iter(importlib.metadata.entry_points(group=f"headrace.{group}", name=name)), None)
    return found.value if found else None


def named(group: str) -> list[str]:
    """The names that installed packages give in `headrace.steps` or `headrace.readers`."""
    return sorted({found.name for found in importlib.metadata.entry_points(group=f"headrace.{group}")})


def folder_of(module: str) -> str:
    """The folder on Python's path in which a module that was imported lies."""
    return str(_root(module, source_of(module)))


def source_of(name: str) -> Path:
    """The file of a module on Python's path. Raises UserError where there is none."""
    importlib.invalidate_caches()
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        spec = None
    if spec is None or not spec.origin or not Path(spec.origin).is_file():
        raise UserError(
            f"function {name}: there is no module {name} on Python's path or in the recipe's folder; "
            "put the file beside the recipe, or its folder on PYTHONPATH"
        )
    return Path(spec.origin)


def code_digest(function: str) -> str:
    """A hash of the source of a function's module, and of the modules beside it that it imports.

    Beside it: in the folder on Python's path in which the module (or its package) lies, unless that is Python's own or
    one of installed packages. Raises UserError where the module is not found.
    """
    name = function.partition(":")[0]
    root = _root(name, source_of(name))
    whole = hashlib.blake2b(digest_size=16)
    for path, source, _ in _sources(name):
        whole.update(f"{path.relative_to(root)}\0{len(source)}\0".encode() + source)
    return whole.hexdigest()


def _sources(name: str) -> Iterator[tuple[Path, bytes, set[Path]]]:
    """The file of a module and of each beside it that it imports: its path, its source, and which others it imports."""
    first = source_of(name)
    root = _root(name, first)
    installed = "site-packages" in root.parts or root.is_relative_to(sys.base_prefix)
    waiting, seen = [first], {first}
    while waiting:
        path = waiting.pop()
        source, found = path.read_bytes(), set[Path]()
        if not installed:
            imported = _imported(source.decode(errors="replace"), path.relative_to(root).parent.parts)
            found = {other for module in imported for other in _beside(root, module)}
        yield path, source, found
        waiting += sorted(found - seen, reverse=True)
        seen |= found


def _root(name: str, path: Path) -> Path:
    """The folder on Python's path in which a module's file lies."""
    return path.parents[name.count(".") + (path.name == "__init__.py")]


_IMPORT = re.compile(
    r"^[ \t]*(?:from[ \t]+(\.*)([\w.]*)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)|import[ \t]+([\w., \t]+))", re.MULTILINE
)


def _imported(text: str, package: tuple[str, ...]) -> set[str]:
    """Names that a source of `package` imports: modules, what is taken from them, which may be modules too, and packages."""
    found = {".".join(package)}
    for dots, base, names, plain in _IMPORT.findall(text):
        found |= {name.split()[0] for name in plain.split(",") if name.strip()}
        if names:
            base = ".".join([*package[: len(package) - len(dots) + 1], *filter(None, [base])]) if dots else base
            taken = [name.split()[0] for name in names.strip("()").replace("\n", ",").split(",") if name.strip()]
            found |= {base, *(f"{base}.{name}".strip(".") for name in taken)}
    return {".".join(parts[:size]) for name in found for parts in [name.split(".")] for size in range(1, len(parts) + 1)} - {""}


def _beside(root: Path, module: str) -> list[Path]:
    """The file of a module under `root`, if it is there."""
    path = root / Path(*module.split("."))
    return [file for file in (path.with_suffix(".py"), path / "__init__.py") if file.is_file()][:1]


def _import(name: str) -> ModuleType:
    path = source_of(name)
    sources = list(_sources(name))
    now = {path: hashlib.blake2b(source, digest_size=10).hexdigest() for path, source, _ in sources}
    before = _loaded.get(name, now)
    changed = {path for path in now if before.get(path, now[path]) != now[path]}
    while more := {path for path, _, imported in sources if path not in changed and imported & changed}:
        changed |= more
    try:
        for file in changed:
            _forget(file, _root(name, path))
        module = importlib.import_module(name)
    except Exception as error:
        raise UserError(f"function {name}: importing {path} raised {type(error).__name__}: {error}") from error
    _loaded[name] = now
    return module


def _forget(file: Path, root: Path) -> None:
    """Let a module be imported anew, from its source."""
    module = ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
    sys.modules.pop(module, None)
    with suppress(OSError):  # cached bytecode, which Python tells apart by whole seconds and size alone
        Path(importlib.util.cache_from_source(str(file))).unlink(missing_ok=True)
