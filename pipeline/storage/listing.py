"""Lists what a pattern names: a file, a folder with all that lies in it, or a glob.

In a glob, * ? [...] match within one name and ** matches any number of folders; [*] stands for a plain "*". Names that
start with a dot (unfinished files, .git, .gitattributes) are left out unless a name of the pattern before any ** starts
with one. A glob is
walked level by level, so that `segments/*/warc/*.gz` on S3 never lists what lies beside `warc`.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

from pipeline.storage import local
from pipeline.storage.backends import backend
from pipeline.storage.entry import Backend, Entry
from pipeline.storage.errors import MissingError, StorageError, shown
from pipeline.storage.uri import local_path, scheme

_WILD = re.compile(r"[*?\[]")


def list_files(pattern: str | Path) -> list[Entry]:
    """Files that `pattern` names, sorted by URI; [] if there is none.

    Files of a folder are named as the folder was given ("./runs/a" -> "./runs/a/x"); matches of a glob at file:// or ~
    are plain paths. HTTP servers have no listing, so there a pattern is always one file. MissingError for a bucket or
    hub repository that does not exist.
    """
    text = str(pattern)
    kind = scheme(text)
    storage = backend(text)
    if kind in ("http", "https"):
        if "*" in text:
            raise StorageError(f"{shown(text)}: files on a web server cannot be listed; name each file without *")
        found = _one_file(storage, text)
    elif not _WILD.search(text) or (kind == "file" and local_path(text).exists()):
        found = _local(storage, text) if kind == "file" else _remote(storage, kind, text)
    elif kind == "file" and text.startswith(("file://", "~")):
        found = list(_glob(storage, str(local_path(text)) + ("/" if text.endswith("/") else "")))
    else:
        found = list(_glob(storage, text))
    return sorted(found, key=lambda entry: entry.uri)


def _one_file(storage: Backend, uri: str) -> list[Entry]:
    try:
        stat = storage.stat(uri)
    except MissingError:
        return []
    return [Entry(uri, stat)]


def _local(storage: Backend, uri: str) -> list[Entry]:
    path = local_path(uri)
    if not path.is_dir():
        return _one_file(storage, uri)
    base, quoted = uri.rstrip("/") if uri.strip("/") else "", uri.startswith("file://")
    found = []
    for entry in storage.list_tree(str(path)):
        relative = entry.uri[len(str(path)) :].lstrip("/")
        name = f"{base}/{quote(relative) if quoted else relative}"
        found.append(Entry(name, entry.stat))
    return found


def _remote(storage: Backend, kind: str, uri: str) -> list[Entry]:
    if not uri.endswith("/") and _is_below_root(kind, uri) and (found := _one_file(storage, uri)):
        return found
    return [entry for entry in storage.list_tree(uri) if not _hidden(entry.uri[len(uri) :])]


def _is_below_root(kind: str, uri: str) -> bool:
    """False for a bucket or a hub repository as a whole, which is never a file."""
    names = [name for name in uri.partition("://")[2].split("/") if name]
    if kind == "s3":
        return len(names) > 1
    return len(names) > (3 if names[:1] == ["datasets"] else 2)


def _hidden(relative: str) -> bool:
    return any(name.startswith(".") for name in relative.split("/"))


def _glob(storage: Backend, pattern: str) -> Iterator[Entry]:
    head, mark, rest = pattern.partition("://") if "://" in pattern else ("", "", pattern)
    names = rest.split("/")
    first = next(i for i, name in enumerate(names) if _WILD.search(name))
    if head and first == 0:
        raise StorageError(f"{pattern}: the bucket or owner cannot be a pattern; name it")
    base = head + mark + "".join(f"{name}/" for name in names[:first])
    wanted = [name for name in names[first:] if name]
    if pattern.endswith("/"):
        wanted.append("**")
    yield from _walk(storage, base, wanted)


def _walk(storage: Backend, folder: str, names: list[str]) -> Iterator[Entry]:
    """Files under `folder` (which ends with a slash, or is "") that match the pattern's remaining `names`."""
    name, rest = names[0], names[1:]
    if name == "**":
        matches = _tree_pattern(rest)
        for entry in storage.list_tree(folder):
            relative = entry.uri[len(folder) :]
            if matches(relative) and not _hidden(relative):
                yield entry
        return
    if rest and not _WILD.search(name):
        yield from _walk(storage, f"{folder}{name}/", rest)
        return
    matches = re.compile(fnmatch.translate(name)).match
    found = _WILD.search(name)
    folders, files = storage.list_level(folder, name[: found.start()] if found else name)
    wanted_dot = name.startswith(".")
    if not rest:
        yield from (
            entry
            for entry in files
            if matches(entry.uri[len(folder) :]) and (wanted_dot or not _hidden(entry.uri[len(folder) :]))
        )
        return
    for child in folders:
        if matches(child) and (wanted_dot or not child.startswith(".")):
            yield from _walk(storage, f"{folder}{child}/", rest)


def _tree_pattern(names: list[str]) -> Callable[[str], re.Match[str] | None]:
    """A test of relative paths for what follows a ** in a pattern; ** at the end matches everything."""
    text = "(?:[^/]+/)*"
    for i, name in enumerate(names):
        if name == "**":
            text += "(?:[^/]+/)*"
            continue
        text += _component(name) + ("" if i == len(names) - 1 else "/")
    if not names or names[-1] == "**":
        text += "[^/]+"
    return re.compile(text + r"\Z").match


def _component(name: str) -> str:
    """A regular expression for one name: like fnmatch, but * and ? stop at slashes."""
    text, i = "", 0
    while i < len(name):
        if name[i] == "*":
            text += "[^/]*"
        elif name[i] == "?":
            text += "[^/]"
        elif name[i] == "[" and (end := name.find("]", i + 2)) > 0:
            inside = name[i + 1 : end].replace("\\", "\\\\")
            text += f"[{'^' + inside[1:] if inside.startswith('!') else inside}]"
            i = end
        else:
            text += re.escape(name[i])
        i += 1
    return text


def exists(uri: str | Path) -> bool:
    """True for a file, and for a folder that holds one (a local folder may be empty)."""
    text = str(uri)
    kind = scheme(text)
    if kind == "file":
        return local.exists(text)
    storage = backend(text)
    if kind in ("http", "https") or not text.endswith("/"):
        try:
            if kind in ("http", "https") or _is_below_root(kind, text):
                storage.stat(text)
                return True
        except MissingError:
            if kind in ("http", "https"):
                return False
    return next(iter(storage.list_tree(text)), None) is not None
