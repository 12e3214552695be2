"""What the sample may be collected from: the standard library, and the project's own dependencies as installed.

Nothing here imports a package; files are found by where the import system would look. What differs between two machines
with the same versions (files generated at build time, vendored copies for one platform, compiled files) is left out, so
that equal versions give equal bytes.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig
import zlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

# Distribution -> the package it installs: the dependencies in pyproject.toml, and what these always bring along.
PACKAGES = {
    "boto3": "boto3",
    "botocore": "botocore",
    "charset-normalizer": "charset_normalizer",
    "click": "click",
    "fastwarc": "fastwarc",
    "filelock": "filelock",
    "fsspec": "fsspec",
    "huggingface_hub": "huggingface_hub",
    "idna": "idna",
    "jmespath": "jmespath",
    "jsonschema": "jsonschema",
    "llvmlite": "llvmlite",
    "markdown-it-py": "markdown_it",
    "numba": "numba",
    "numpy": "numpy",
    "packaging": "packaging",
    "pyarrow": "pyarrow",
    "pydantic": "pydantic",
    "pygments": "pygments",
    "python-dateutil": "dateutil",
    "pyyaml": "yaml",
    "ray": "ray",
    "requests": "requests",
    "resiliparse": "resiliparse",
    "rich": "rich",
    "s3transfer": "s3transfer",
    "tokenizers": "tokenizers",
    "tqdm": "tqdm",
    "urllib3": "urllib3",
    "zstandard": "zstandard",
}

SUFFIXES = {".py", ".pyi", ".pyx", ".pxd", ".pxi", ".h"}
MAX_FILE = 400_000  # bytes; larger ones are generated tables
_SKIPPED = (
    "__pycache__ site-packages dist-packages lib-dynload test thirdparty thirdparty_files _vendor vendored "
    # Some distributions package these apart from Python:
    "idlelib ensurepip tkinter turtledemo lib2to3 distutils venv"
)
_SKIPPED_FOLDERS = frozenset(_SKIPPED.split())
_SKIPPED_FILES = {
    "__config__.py", "_distributor_init.py", "config.h", "_numpyconfig.h", "sitecustomize.py", "usercustomize.py",
    "turtle.py",
}  # fmt: skip
_SKIPPED_STARTS = ("_sysconfigdata", "_sysconfig_vars", "config-", "_virtualenv", "__editable__")


def version(distribution: str) -> str | None:
    """The installed version, or None where the distribution is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def stdlib_folder() -> Path:
    """Where the standard library's Python sources lie."""
    return Path(sysconfig.get_path("stdlib"))


def package_folder(package: str) -> Path | None:
    """The folder of an installed top-level package, found without importing it; None where there is none."""
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    places = list(spec.submodule_search_locations or []) if spec is not None else []
    return Path(places[0]) if places else None


def _walk(folder: Path, prefix: str) -> Iterator[tuple[str, Path]]:
    for entry in sorted(folder.iterdir(), key=lambda path: path.name):
        name = entry.name
        if name in _SKIPPED_FILES or name.startswith(_SKIPPED_STARTS):
            continue
        if entry.is_dir():
            if name not in _SKIPPED_FOLDERS and not name.endswith((".dist-info", ".egg-info")):
                yield from _walk(entry, f"{prefix}/{name}")
        elif entry.suffix in SUFFIXES and 0 < entry.stat().st_size <= MAX_FILE:
            yield f"{prefix}/{name}", entry


@cache
def source_files(distribution: str) -> tuple[tuple[str, Path], ...]:
    """(path from the package's parent, file) of a distribution's source files in the order of the former.

    "cpython" is the standard library. A distribution that is not installed has none.
    """
    if distribution == "cpython":
        return tuple(_walk(stdlib_folder(), "Lib"))
    package = PACKAGES[distribution]
    folder = package_folder(package)
    return tuple(_walk(folder, package)) if folder is not None and version(distribution) else ()


def service_models() -> list[tuple[str, str, Path]]:
    """(service, API version, file) of each of botocore's service models, in order."""
    folder = package_folder("botocore")
    if folder is None:
        return []
    found = [
        (path.parent.parent.name, path.parent.name, path)
        for path in (folder / "data").glob("*/*/service-2.json*")
        if path.name in ("service-2.json", "service-2.json.gz")
    ]
    return sorted(found, key=lambda entry: entry[:2])


def read_source(path: Path) -> str | None:
    """A source file's text with "\\n" line ends, or None where it is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return None


def describe() -> dict:
    """What the sample depends on: Python, versions, a hash of all files' paths and sizes, and one of this package.

    Two machines with equal descriptions get the same sample, byte for byte.
    """
    digest = hashlib.blake2b(digest_size=16)
    collector = hashlib.blake2b(digest_size=16)
    for path in sorted(Path(__file__).parent.glob("*.py"), key=lambda path: path.name):
        collector.update(path.read_bytes())
    for distribution in ("cpython", *PACKAGES):
        for name, path in source_files(distribution):
            digest.update(f"{name}\0{path.stat().st_size}\n".encode())
    for service, api, path in service_models():
        digest.update(f"{service}/{api}\0{path.stat().st_size}\n".encode())
    return {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": sys.platform,
        "zlib": zlib.ZLIB_RUNTIME_VERSION,
        "packages": {name: version(name) for name in PACKAGES},
        "files": digest.hexdigest(),
        "collector": collector.hexdigest(),
    }


def rank(name: str) -> int:
    """A place for `name` in an order that looks random, the same everywhere: sort by it to shuffle or to sample."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
