"""The code's part of a key: digests of the modules that a task runs, and versions of the libraries that they name.

The modules are those of the job and of its steps with all that they import inside `stages` and `pipeline.jobs`. What only
moves bytes (`pipeline.storage`, the engine) is not among them: what is read and written is told by digests. The registry
of steps (`stages.steps`) is none either, for it names every step there is.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import re
import sys
import unicodedata
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from stages.user_code import source_of

# Import name -> distribution, of libraries whose version may change the bytes of a result.
LIBRARIES = {
    "chardetng_py": "chardetng-py",
    "datatrove": "datatrove",
    "endec": "endec",
    "fastokens": "fastokens",
    "fasttext": "fasttext-community",
    "fastwarc": "fastwarc",
    "pyarrow": "pyarrow",
    "pydivsufsort": "pydivsufsort",
    "resiliparse": "resiliparse",
    "tokenizers": "tokenizers",
    "webencodings": "webencodings",
}
PACKAGES = ("stages.", "pipeline.jobs.")
REGISTRIES = frozenset({"stages.steps"})
_BY_NAME = re.compile(r"""["'](stages\.[\w.]+)["']""")  # a module that is run by its name, in a process of its own
_DATA = re.compile(r"""with_name\(["']([\w.]+)["']\)""")  # a file beside the module that it reads, such as a model
_IMPORT = re.compile(r"^[ \t]*(?:from[ \t]+([\w.]+)[ \t]+import[ \t]+(\([^)]*\)|[^\n#]*)|import[ \t]+([\w., \t]+))", re.MULTILINE)


@cache
def code_of(module: str) -> tuple[tuple[str, str], ...]:
    """The components that the code of a module gives to a key: `code MODULE` -> digest, `library NAME` -> version."""
    found: dict[str, str] = {"library unicode": unicodedata.unidata_version}
    waiting = [module]
    seen = {module}
    while waiting:
        name = waiting.pop()
        digest, imports = _read(name)
        found[f"code {name}"] = digest
        for imported in imports:
            top = imported.partition(".")[0]
            if top in LIBRARIES:
                found[f"library {top}"] = library_version(top)
            elif imported.startswith(PACKAGES) and imported not in REGISTRIES and imported not in seen:
                seen.add(imported)
                waiting.append(imported)
    return tuple(sorted(found.items()))


def code_of_all(modules: Iterable[str]) -> dict[str, str]:
    """`code_of` of several modules together."""
    found: dict[str, str] = {}
    for module in modules:
        found.update(code_of(module))
    return dict(sorted(found.items()))


def code_used_by(module: str) -> dict[str, str]:
    """`code_of_all` of the project's modules that a user's module imports; its own source counts by `Step.code`."""
    return code_of_all(name for name in _imports(source_of(module).read_text(), module) if name.startswith(PACKAGES))


@cache
def library_version(name: str) -> str:
    """The installed version of a library, by the name that it is imported by; "none" where it is not installed."""
    try:
        return importlib.metadata.version(LIBRARIES[name])
    except importlib.metadata.PackageNotFoundError:
        return "none"


def versions() -> dict[str, str]:
    """What made a run, for its manifest: versions of Headrace, Python, its Unicode data and the libraries."""
    try:
        own = importlib.metadata.version("headrace")
    except importlib.metadata.PackageNotFoundError:
        own = "unknown"
    python = ".".join(map(str, sys.version_info[:3]))
    named = {name: version for name in sorted(LIBRARIES) if (version := library_version(name)) != "none"}
    return {"headrace": own, "python": python, "unicode": unicodedata.unidata_version, **named}


@cache
def _read(module: str) -> tuple[str, tuple[str, ...]]:
    """The digest of a source with the data beside it that it reads, and the modules that it imports (also in functions)."""
    source = _source(module).read_bytes()
    text = source.decode()
    package = module if _source(module).name == "__init__.py" else module.rpartition(".")[0]
    found = _imports(text, package)
    whole = hashlib.blake2b(source, digest_size=8)
    for beside in dict.fromkeys(_DATA.findall(text)):
        if (data := _source(module).with_name(beside)).is_file() and data.suffix != ".py":
            whole.update(data.read_bytes())
    return whole.hexdigest(), tuple(found)


def _imports(text: str, package: str) -> dict[str, None]:
    found: dict[str, None] = {name: None for name in _BY_NAME.findall(text) if _is_module(name)}
    for base, names, plain in _IMPORT.findall(text):
        for name in plain.split(",") if plain else ():
            found[name.split()[0]] = None
        if not base:
            continue
        base = base if not base.startswith(".") else f"{package}.{base.lstrip('.')}".rstrip(".")
        found[base] = None
        if _is_file(base):
            continue  # what it names are things in that module
        for name in names.strip("()").replace("\n", ",").split(","):
            if name.strip() and _is_module(f"{base}.{name.split()[0]}"):
                found[f"{base}.{name.split()[0]}"] = None
    return found


@cache
def _is_file(name: str) -> bool:
    """Whether this is a module of the project that is no package."""
    return name.startswith(PACKAGES) and (_root(name) / Path(*name.split("."))).with_suffix(".py").is_file()


@cache
def _is_module(name: str) -> bool:
    if not name.startswith(PACKAGES):
        return False
    return _is_file(name) or (_root(name) / Path(*name.split(".")) / "__init__.py").is_file()


@cache
def _root(name: str) -> Path:
    """The folder in which the top package of a module lies."""
    top = name.partition(".")[0]
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {top}")
    return Path(next(iter(spec.submodule_search_locations))).parent


@cache
def _source(module: str) -> Path:
    path = _root(module) / Path(*module.split("."))
    file = path.with_suffix(".py")
    if file.is_file():
        return file
    if (path / "__init__.py").is_file():
        return path / "__init__.py"
    spec = importlib.util.find_spec(module)  # a module outside the project: a test's job, a user's function
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"no module {module}")
    return Path(spec.origin)
