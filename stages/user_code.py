"""Code of the user's own that a recipe names by its import path: found, loaded, and told apart by its content."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from stages.errors import UserError

_loaded: dict[str, str] = {}  # module name -> hash of the source that was executed


def add_folder(folder: str | Path) -> None:
    """Let functions be found in this folder too, behind all that Python finds already. Idempotent."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def load(function: str) -> Callable[[Any], Any]:
    """The function or class of an import path `package.module:name`; imported anew where its file was edited since.

    Raises UserError where there is no such module or name in it, or where importing it raises.
    """
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
    path = source_of(module)
    return str(path.parents[module.count(".") + (path.name == "__init__.py")])


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


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=10).hexdigest()


def code_digest(function: str) -> str:
    """A hash of the source of a function's module, and of the modules beside it that it imports.

    Beside it: in the folder on Python's path in which the module (or its package) lies, unless that is Python's own or
    one of installed packages. Raises UserError where the module is not found.
    """
    name = function.partition(":")[0]
    first = source_of(name)
    root = first.parents[name.count(".") + (first.name == "__init__.py")]
    whole = hashlib.blake2b(digest_size=16)
    installed = "site-packages" in root.parts or root.is_relative_to(sys.base_prefix)
    waiting, seen = [first], {first}
    while waiting:
        path = waiting.pop()
        source = path.read_bytes()
        whole.update(f"{path.relative_to(root)}\0{len(source)}\0".encode() + source)
        if installed:
            break
        imported = _imported(source.decode(errors="replace"), path.relative_to(root).parent.parts)
        found = {other for module in imported for other in _beside(root, module)}
        waiting += sorted(found - seen, reverse=True)
        seen |= found
    return whole.hexdigest()


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
    digest = _digest(path)
    try:
        module = importlib.import_module(name)
        if _loaded.get(name, digest) != digest:
            # Without the cached bytecode, which is told apart by whole seconds and size alone.
            exec(compile(path.read_text(encoding="utf-8"), str(path), "exec"), vars(module))
    except Exception as error:
        raise UserError(f"function {name}: importing {path} raised {type(error).__name__}: {error}") from error
    _loaded[name] = digest
    return module
