"""The prose and documentation that is installed with Python and with the project's dependencies, as plain text.

Docstrings are read from the sources (`ast`), not from imported modules; only numpy, which the project imports anyway,
is asked for the docstrings of its compiled functions.
"""

from __future__ import annotations

import ast
import importlib.metadata
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import Message
from pathlib import Path

from stages.errors import UserError
from stages.sample.environment import PACKAGES, rank, read_source, source_files

# Modules whose pydoc page is the same on every machine with this Python, and of a size that a web page has.
_MODULES = """
abc argparse array asyncio.events asyncio.locks asyncio.queues asyncio.streams asyncio.subprocess asyncio.tasks
asyncio.timeouts base64 bdb binascii bisect cmath cmd code codecs codeop colorsys compileall concurrent.futures
contextlib contextvars copy copyreg csv dataclasses datetime difflib dis email email.charset email.encoders
email.header email.iterators email.message email.parser email.policy email.utils filecmp fileinput fnmatch
fractions ftplib functools gc genericpath getopt getpass gettext glob graphlib gzip hashlib heapq hmac html
html.parser http http.cookiejar http.cookies importlib importlib.abc importlib.metadata importlib.resources
importlib.util itertools json json.decoder json.encoder keyword linecache locale logging.config math mimetypes
modulefinder multiprocessing.managers multiprocessing.pool numbers operator os.path pickle pickletools pkgutil
plistlib poplib pprint profile pstats py_compile pyclbr pydoc queue quopri random re reprlib rlcompleter runpy
sched secrets selectors shelve shlex shutil stat statistics string struct subprocess symtable tabnanny tempfile
textwrap time timeit token tokenize tomllib trace traceback tracemalloc unicodedata unittest.async_case
unittest.loader unittest.result unittest.runner unittest.suite urllib.error urllib.response urllib.robotparser
uuid warnings wave webbrowser wsgiref.handlers wsgiref.headers wsgiref.simple_server wsgiref.util
wsgiref.validate xml.dom.pulldom xml.etree.ElementTree xml.sax.handler xml.sax.saxutils xml.sax.xmlreader zipapp
zipfile zipimport zlib zoneinfo
"""
PYDOC_MODULES = tuple(_MODULES.split())
MAX_PYDOC_PAGE = 100_000  # characters of HTML

_NUMPY_PLACES = (
    "", "linalg", "fft", "ma", "char", "strings", "lib.stride_tricks", "testing", "ndarray", "matrix", "ma.MaskedArray",
)  # fmt: skip
_NUMPY_MATHS = (
    "random.Generator", "random.RandomState", "random.SeedSequence", "random.PCG64",
    "polynomial.polynomial", "polynomial.chebyshev", "polynomial.legendre", "polynomial.hermite",
    "polynomial.hermite_e", "polynomial.laguerre",
)  # fmt: skip


@dataclass(frozen=True)
class Article:
    """A piece of documentation: a dotted name that is unique in its collection, a title and its text."""

    name: str
    title: str
    text: str


class PydocPages:
    """pydoc's pages of `PYDOC_MODULES`, written by a process of its own while other text is collected.

    pydoc imports what it documents; in that process this does no harm.
    """

    def __init__(self) -> None:
        self._out = tempfile.TemporaryFile()  # noqa: SIM115 - not a pipe: one that nobody reads yet would stop the process
        self._err = tempfile.TemporaryFile()  # noqa: SIM115
        kept = {key: value for key, value in os.environ.items() if key in ("SYSTEMROOT", "LD_LIBRARY_PATH", "TEMP")}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-s", "-S", "-B", str(Path(__file__).with_name("pydoc_html.py")), *PYDOC_MODULES],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=self._err,
            env={**kept, "PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC", "COLUMNS": "80"},
        )

    def articles(self) -> list[Article]:
        """The pages (HTML bodies), sorted by module. Waits for the process; raises UserError where it failed."""
        code = self._process.wait()
        self._out.seek(0)
        self._err.seek(0)
        if code:
            lines = self._err.read().decode("utf-8", "replace").split("\n")
            reason = next((line for line in reversed(lines) if line.strip()), "no message")
            raise UserError(f"pydoc could not document the standard library (exit {code}): {reason}")
        rows = [json.loads(line) for line in self._out]
        pages = [Article(row["module"], row["title"], row["body"]) for row in rows]
        return sorted((page for page in pages if len(page.text) <= MAX_PYDOC_PAGE), key=lambda page: page.name)

    def close(self) -> None:
        """End the process, where it still runs, and remove its files."""
        self._process.kill()
        self._process.wait()
        self._out.close()
        self._err.close()


def topics() -> list[Article]:
    """The chapters of the language reference that pydoc's `help` shows, as plain text, sorted by name."""
    from pydoc_data.topics import topics as chapters

    found = []
    for name in sorted(chapters):
        text = chapters[name].strip()
        title = next((line.strip() for line in text.splitlines() if line.strip()), name)
        found.append(Article(name, title.strip('"*= '), text + "\n"))
    return found


def module_articles(distribution: str, min_chars: int, limit_chars: int | None = None) -> Iterator[Article]:
    """One article a module: its docstring, then those of its classes and functions, each under its name.

    Modules come as their paths rank. One with less than `min_chars` of docstrings has no article; reading ends after
    `limit_chars` of text.
    """
    total = 0
    for path, file in sorted(source_files(distribution), key=lambda entry: rank(entry[0])):
        if file.suffix != ".py" or "/tests/" in path or "/test/" in path:
            continue
        source = read_source(file)
        # Parsing is what costs: only files with enough text between triple quotes are parsed.
        if source is None or sum(map(len, source.split('"""')[1::2])) < min_chars:
            continue
        try:
            tree = ast.parse(source)
        except (SyntaxError, ValueError):
            continue
        name = path.removesuffix(".py").removesuffix("/__init__").removeprefix("Lib/").replace("/", ".")
        sections = list(_sections(tree, name))
        text = "\n\n".join(sections) + "\n"
        if len(text) < min_chars:
            continue
        yield Article(name, name, text)
        total += len(text)
        if limit_chars is not None and total >= limit_chars:
            return


def _sections(node: ast.AST, name: str, depth: int = 0) -> Iterator[str]:
    text = ast.get_docstring(node) if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) else None
    if text and (depth == 0 or len(text) > 60):
        text = text.strip()
        yield text if depth == 0 else f"{name}\n\n{text}"
    for child in getattr(node, "body", ()):
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            yield from _sections(child, child.name if depth == 0 else f"{name}.{child.name}", depth + 1)


def module_docstrings(distribution: str, min_chars: int) -> Iterator[Article]:
    """The docstring of each module that has one of at least `min_chars` characters."""
    for path, file in source_files(distribution):
        source = read_source(file) if file.suffix == ".py" else None
        if source is None:
            continue
        # What stands before the docstring's end is a module of its own: there is no need to parse the rest.
        end = source.find('"""', source.find('"""') + 3) + 3
        try:
            text = ast.get_docstring(ast.parse(source[:end]))
        except (SyntaxError, ValueError):
            continue
        if text and len(text) >= min_chars:
            name = path.removesuffix(".py").removesuffix("/__init__").removeprefix("Lib/").replace("/", ".")
            yield Article(name, name, text.strip() + "\n")


def readmes() -> list[Article]:
    """Each collected distribution's long description, as its authors wrote it for the package index."""
    found = []
    for name in PACKAGES:
        try:
            metadata = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        text = metadata.get_payload() if isinstance(metadata, Message) else None
        if not isinstance(text, str) or len(text.strip()) < 400:
            text = metadata["Description"] or ""
        if len(text.strip()) >= 400:
            found.append(Article(name, name, text.replace("\r\n", "\n").strip() + "\n"))
    return found


def licences() -> list[Article]:
    """The licence texts that the collected distributions carry, each distinct text once."""
    found: dict[str, Article] = {}
    for name in PACKAGES:
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in sorted(files, key=str):
            if ".dist-info/" not in str(file) or not re.match(r"(?i)(licen[cs]e|copying|notice)", file.name):
                continue
            path = Path(str(file.locate()))
            text = read_source(path) if path.is_file() and path.stat().st_size < 200_000 else None
            if text and len(text) > 300:
                found.setdefault(
                    text.strip(), Article(f"{name}/{file.name}", f"Licence of {name}", text.strip() + "\n")
                )
    return list(found.values())


def numpy_articles(maths: bool) -> list[Article]:
    """numpy's docstrings, one article a function: of the mathematical namespaces, or of the others."""
    import numpy

    found: dict[str, Article] = {}
    for place in _NUMPY_MATHS if maths else _NUMPY_PLACES:
        owner = numpy
        for part in place.split(".") if place else ():
            owner = getattr(owner, part)
        for name in sorted(dir(owner)):
            if name.startswith("_"):
                continue
            member = getattr(owner, name)
            # The docstrings of scalar types tell this machine's word sizes.
            if inspect.ismodule(member) or (inspect.isclass(member) and issubclass(member, numpy.generic)):
                continue
            text = inspect.getdoc(member)
            if isinstance(text, str) and len(text) >= 300 and text not in found:
                path = ".".join(part for part in ("numpy", place, name) if part)
                found[text] = Article(path, name, text + "\n")
    return list(found.values())
