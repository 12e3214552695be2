"""URIs: which storage one names, and how names are joined to it.

A plain path or file:// is local; s3://BUCKET/KEY, http(s)://HOST/PATH and hf://datasets/ORG/NAME[@REVISION]/PATH are
remote, as are gs://BUCKET/KEY and az://CONTAINER/KEY. Keys, and paths of the hub, are taken as they stand, with no
percent-decoding.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from pipeline.storage.errors import StorageError, shown

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
SCHEMES = ("file", "s3", "gs", "az", "http", "https", "hf")
OTHER_SPELLINGS = {"s3a": "s3", "s3n": "s3", "gcs": "gs", "azure": "az", "adl": "az"}


def scheme(uri: str) -> str:
    """The kind of storage: one of SCHEMES ("file" for plain paths); StorageError for any other."""
    found = _SCHEME.match(uri)
    name = found.group(1).lower() if found else "file"
    if name in OTHER_SPELLINGS:
        better = OTHER_SPELLINGS[name] + uri[uri.index("://") :]
        raise StorageError(f"{shown(uri)}: {name}:// is another tool's spelling; write {shown(better)}")
    if name in ("abfs", "abfss", "wasb", "wasbs"):
        raise StorageError(
            f"{shown(uri)}: {name}:// is Hadoop's spelling; write az://CONTAINER/KEY, and set AZURE_STORAGE_ACCOUNT_NAME"
        )
    if name not in SCHEMES:
        raise StorageError(
            f"{shown(uri)}: unknown kind of storage {name!r}; use a local path, s3://, gs://, az://, https:// or hf://datasets/"
        )
    return name


def is_local(uri: str | Path) -> bool:
    """True for plain paths and file://."""
    return isinstance(uri, Path) or scheme(uri) == "file"


def local_path(uri: str | Path) -> Path:
    """The path that a local URI names; file:// is percent-decoded, ~ is the user's home."""
    text = str(uri)
    if _SCHEME.match(text):
        if scheme(text) != "file":
            raise StorageError(f"{shown(text)}: not a local path")
        host, slash, rest = text[len("file://") :].partition("/")
        if host not in ("", "localhost") or not slash:
            raise StorageError(
                f"{text}: a file:// address of this machine starts with three slashes; write file:///PATH"
            )
        return Path(os.fsdecode(unquote_to_bytes("/" + rest)))
    if not text:
        raise StorageError("an empty path was given; name a file or folder")
    return Path(text).expanduser()


def located(path: str, folder: str | None) -> str:
    """Where a path of a recipe lies: a relative one under the recipe's `folder`, anything else where it says."""
    if folder is None or _SCHEME.match(path) or path.startswith(("/", "~", "sample:")):
        return path
    return f"{folder.rstrip('/')}/{path}"


def as_written(value: Any, folder: str | None) -> Any:
    """JSON values with the strings that `located` made as they were before."""
    if isinstance(value, str):
        return value.removeprefix(f"{folder.rstrip('/')}/") if folder else value
    if isinstance(value, dict):
        return {key: as_written(item, folder) for key, item in value.items()}
    return [as_written(item, folder) for item in value] if isinstance(value, list | tuple) else value


def file_uri(path: Path) -> str:
    """The file:// address of a path, percent-encoded: the one name, in text, of a file whose own is no UTF-8."""
    return f"file://{quote(os.fsencode(path.absolute()))}"


def is_unicode(name: str) -> bool:
    """False for a file name that is no UTF-8, which Python holds as unpaired surrogates."""
    return not any("\ud800" <= char <= "\udfff" for char in name) if not name.isascii() else True


def join(uri: str | Path, *names: str) -> str:
    """`uri` with `names` (which may hold slashes) put under it; "" adds the closing slash of a folder.

    Names that climb out ("..", "/x") are refused with ValueError: they come from manifests, which others write.
    """
    base, query = str(uri), ""
    if scheme(base) in ("http", "https"):
        base, mark, rest = base.partition("?")
        query = mark + rest
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise ValueError(f"not a name under {shown(base)}: {name!r}")
        base = base + name if base.endswith("/") else f"{base}/{name}"
    return base + query


def name_of(uri: str | Path) -> str:
    """The last name of a URI, without an HTTP query string."""
    text = str(uri)
    if scheme(text) in ("http", "https"):
        text = text.partition("?")[0].partition("#")[0]
    return text.rstrip("/").rsplit("/", 1)[-1]


def possible(path: Any) -> Any:
    """A path of a recipe, as it is. Raises ValueError for one that can name nothing."""
    if isinstance(path, str) and (not path.strip() or "\0" in path):
        raise ValueError("names no file and no folder; the recipe's folder is `.`")
    return path
