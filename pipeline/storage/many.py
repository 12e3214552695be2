"""What is known of many files at once, in few requests: those of a folder by a listing of it, others side by side."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.storage.backends import backend
from pipeline.storage.entry import Entry
from pipeline.storage.errors import MissingError
from pipeline.storage.uri import scheme

WITHOUT_LISTING = ("http", "https", "file")
ASKERS = 32
"""Requests under way at a time."""
LISTED_FROM = 4
"""Files of one folder from which on it is listed in place of asking for each."""


def find_files(uris: Sequence[str]) -> list[Entry | None]:
    """Each file's entry, in order; None for one that is not there. StorageError as everywhere."""
    folders: dict[str, list[str]] = {}
    for uri in uris:
        folders.setdefault(uri[: uri.rfind("/") + 1], []).append(uri)
    listed = [f for f, inside in folders.items() if len(inside) >= LISTED_FROM and scheme(f) not in WITHOUT_LISTING]
    alone = [uri for folder, inside in folders.items() if folder not in listed for uri in inside]
    with ThreadPoolExecutor(ASKERS) as pool:
        levels = pool.map(lambda folder: _listing(folder, set(folders[folder])), listed)
        found = {uri: entry for level in levels for uri, entry in level.items()}
        found |= {uri: entry for uri, entry in zip(alone, pool.map(_ask, alone), strict=True) if entry}
    return [found.get(uri) for uri in uris]


def _listing(folder: str, wanted: set[str]) -> dict[str, Entry]:
    try:
        _, files = backend(folder).list_level(folder, "")
    except MissingError:
        return {}
    return {entry.uri: entry for entry in files if entry.uri in wanted}


def _ask(uri: str) -> Entry | None:
    try:
        return Entry(uri, backend(uri).stat(uri))
    except MissingError:
        return None
