"""The hub without a network (HF_HUB_OFFLINE): files that huggingface_hub's own cache holds, as `hf download` put them there.

CACHE/datasets--ORG--NAME/snapshots/COMMIT/PATH leads to blobs/HASH; refs/REVISION holds the commit of a branch. The hash is
the version, as it is on the hub, so a run goes on offline that was begun with a network.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.storage.entry import Stat
from pipeline.storage.errors import ChangedError, MissingError, from_os_error

if TYPE_CHECKING:
    from pipeline.storage.hub import Place


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE was set when the process began."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def digest(etag: str) -> str:
    """A content hash of the hub as module digest writes checksums; "" for what is none."""
    if re.fullmatch(r"[0-9a-f]{64}", etag):
        return f"sha256:{etag}"
    return f"git-sha1:{etag}" if re.fullmatch(r"[0-9a-f]{40}", etag) else ""


def snapshot(place: Place, uri: str) -> Path:
    """The folder of a repository's files at its revision. Raises MissingError where the cache has none."""
    from huggingface_hub import constants

    repo = Path(constants.HF_HUB_CACHE) / "--".join([f"{place.kind}s", *place.repo.split("/")])
    ref = repo / "refs" / place.revision
    commit = ref.read_text().strip() if ref.is_file() else place.revision
    folder = repo / "snapshots" / commit
    if not folder.is_dir():
        raise MissingError(
            f"{uri}: HF_HUB_OFFLINE is set, and the hub's cache {constants.HF_HUB_CACHE} does not hold {place.repo} at "
            f"revision {place.revision}; unset it, or run `hf download` where there is a network"
        )
    return folder


def _stat(path: Path) -> Stat:
    blob = path.resolve()
    return Stat(blob.stat().st_size, blob.name, digest(blob.name))


def _file(place: Place, uri: str) -> Path:
    path = snapshot(place, uri) / place.path
    if not path.is_file():
        raise MissingError(f"{uri}: HF_HUB_OFFLINE is set, and the hub's cache does not hold this file; unset it, or run "
                           "`hf download` where there is a network")
    return path


def stat(place: Place, uri: str) -> Stat:
    return _stat(_file(place, uri))


def tree(place: Place, uri: str, recursive: bool) -> Iterator[tuple[str, Stat | None]]:
    """Paths under a folder, with what is known of a file (None: a folder)."""
    root = snapshot(place, uri)
    found = sorted((root / place.path).glob("**/*" if recursive else "*"))
    for path in found:
        yield path.relative_to(root).as_posix(), _stat(path) if path.is_file() else None


class FileBody:
    """A file of the cache as the body of an answer."""

    def __init__(self, path: Path, start: int) -> None:
        self.start = start
        try:
            self._file = path.open("rb")
            self._file.seek(start)
        except OSError as error:
            raise from_os_error(error, path, "read") from None

    def read(self, size: int, /) -> bytes:
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()


def open_range(place: Place, uri: str, start: int, stat: Stat) -> FileBody:
    path = _file(place, uri)
    if _stat(path).version != stat.version:
        raise ChangedError(
            f"{uri}: the hub's cache holds another version of it; name a revision (@COMMIT), or start the run again"
        )
    return FileBody(path, start)
