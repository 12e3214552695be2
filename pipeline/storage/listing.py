"""Lists what a pattern names: a file, a folder with all that lies in it, or a glob.

In a glob, * ? [...] match within one name, ** matches any number of folders, and {a,b} stands for either; [*] stands for
a plain "*", [{] for a plain "{". Names that begin with a dot or an underscore (unfinished files, `_SUCCESS`,
`_temporary`, .git) and checksums (*.crc) are left out, as Hadoop and Arrow do, unless the pattern itself names them.
A glob is walked level by level, so that `segments/*/warc/*.gz` on S3 never lists what lies beside `warc`.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

from pipeline.storage import local
from pipeline.storage.backends import backend
from pipeline.storage.braces import alternatives
from pipeline.storage.entry import Backend, Entry, Stat
from pipeline.storage.errors import MissingError, StorageError, shown
from pipeline.storage.uri import file_uri, is_unicode, local_path, scheme

_WILD = re.compile(r"[*?\[]")


def list_files(pattern: str | Path) -> list[Entry]:
    """Files that `pattern` names, sorted by URI; [] if there is none.

    Files of a folder are named as the folder was given ("./runs/a" -> "./runs/a/x"); matches of a glob at file:// or ~
    are plain paths; a local file whose name is no UTF-8 is named by its file:// address, percent-encoded. HTTP servers
    have no listing, so there a pattern is always one file. MissingError for a bucket or hub repository that does not
    exist. StorageError where some alternatives of {a,b} name files and another names none, and for local links to nothing,
    pipes and devices.
    """
    text = str(pattern)
    kind = scheme(text)
    several = alternatives(text) if "{" in text and not (kind == "file" and local_path(text).exists()) else [text]
    if len(several) == 1:
        return _list(text, kind)
    found = {one: list_files(one) for one in several}
    if any(found.values()) and (missing := next((one for one, files in found.items() if not files), None)):
        raise StorageError(f"{shown(text)}: nothing found at {shown(missing)}, one of the names that it stands for")
    return sorted({entry.uri: entry for files in found.values() for entry in files}.values(), key=lambda e: e.uri)


def _list(text: str, kind: str) -> list[Entry]:
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
    if kind == "file":
        for entry in found:
            local.check_file(entry.uri, entry.stat)
    return sorted(map(_named, found), key=lambda entry: entry.uri)


def _named(entry: Entry) -> Entry:
    """The entry under a name that can be written as text."""
    return entry if is_unicode(entry.uri) else replace(entry, uri=file_uri(Path(entry.uri)))


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
        if _hidden(relative):
            continue
        name = f"{base}/{quote(os.fsencode(relative)) if quoted else relative}"
        found.append(replace(entry, uri=name if is_unicode(name) else file_uri(Path(entry.uri))))
    return found


def _remote(storage: Backend, kind: str, uri: str) -> list[Entry]:
    if not uri.endswith("/") and _is_below_root(kind, uri) and (found := _one_file(storage, uri)):
        return found
    return [entry for entry in storage.list_tree(uri) if not _hidden(entry.uri[len(uri) :])]


def _is_below_root(kind: str, uri: str) -> bool:
    """False for a bucket or a hub repository as a whole, which is never a file."""
    names = [name for name in uri.partition("://")[2].split("/") if name]
    if kind in ("s3", "gs", "az"):
        return len(names) > 1
    return len(names) > (3 if names[:1] == ["datasets"] else 2)


def _hidden(relative: str, named: Sequence[str] = ()) -> bool:
    """Whether a name in the path is one that is left out, and none of the patterns `named` names it."""
    return any(
        _is_left_out(name) and not any(_names(pattern, name) for pattern in named) for name in relative.split("/")
    )


def _is_left_out(name: str) -> bool:
    return name.startswith((".", "_")) or name.endswith(".crc")


def _names(pattern: str, name: str) -> bool:
    """Whether a pattern names what is otherwise left out: by the character or the ending that leaves it out."""
    told = pattern[:1] == name[:1] if name.startswith((".", "_")) else pattern.endswith(".crc")
    return told and fnmatch.fnmatchcase(name, pattern)


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
            if matches(relative) and not _hidden(relative, rest):
                yield entry
        return
    if rest and not _WILD.search(name):
        yield from _walk(storage, f"{folder}{name}/", rest)
        return
    matches = re.compile(fnmatch.translate(name)).match
    found = _WILD.search(name)
    folders, files = storage.list_level(folder, name[: found.start()] if found else name)
    if not rest:
        for entry in files:
            last = entry.uri[len(folder) :]
            if matches(last) and not _hidden(last, [name]):
                yield entry
        return
    for child in folders:
        if matches(child) and not _hidden(child, [name]):
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


def listed(uri: str, size: int, version: str) -> Stat | None:
    """All that readers need to know of a file that was listed, so that opening it costs no request; None: they ask again.

    The hub's listings tell the hash of the content, and its requests are few. Elsewhere asking again costs little, and may
    tell a checksum of the whole file.
    """
    if scheme(uri) != "hf":
        return None
    from pipeline.storage import hub

    return hub.known(size, version)


def revisions(uris: Iterable[str]) -> dict[str, str]:
    """The commit of each repository on the hub that these URIs or patterns name, as it was when they were looked up."""
    on_hub = [uri for uri in uris if uri.startswith("hf://")]
    if not on_hub:
        return {}
    from pipeline.storage import hub  # and with it a client for the web, which runs without the hub do not need

    return hub.commits(on_hub)


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
