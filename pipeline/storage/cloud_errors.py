"""What went wrong on Google's or Azure's storage, in one sentence: errors of obstore become StorageErrors."""

from __future__ import annotations

import re

from pipeline.storage.errors import Broken, ChangedError, MissingError, StorageError, redact, shown
from pipeline.storage.uri import scheme

_STATUS = re.compile(r"status code: (\d+)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_ENDPOINT = re.compile(r"(https?://[^/\s?]+)")
_BUSY = {408, 429, 500, 502, 503, 504}
_SETTINGS = {
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (a key's file), or GOOGLE_SKIP_SIGNATURE=true for public buckets",
}


def from_cloud_error(error: Exception, uri: str, action: str) -> StorageError:
    """The StorageError for what obstore raised while `action` ("read", "write", "list", ...) ran on `uri`."""
    if isinstance(error, StorageError):
        return error
    kind, name, text = scheme(uri), type(error).__name__, str(error)
    code = found[1] if (found := _CODE.search(text)) else ""
    if code in ("ContainerNotFound", "NoSuchBucket") or (action == "list" and _status(text) == 404):
        what = "container" if kind == "az" else "bucket"
        return MissingError(f"{shown(uri)}: there is no {what} {uri.split('/')[2]!r}; create it or correct the name")
    if isinstance(error, FileNotFoundError):
        return MissingError(f"{shown(uri)}: no such object; check {'container' if kind == 'az' else 'bucket'} and key")
    if name == "PreconditionError":
        return ChangedError(f"{shown(uri)}: changed while it was being used; start the run again")
    if (
        name in ("PermissionDeniedError", "UnauthenticatedError")
        or _status(text) in (401, 403)
        or "token request" in text
    ):
        return StorageError(
            f"{shown(uri)}: the credentials found may not {action} it, or there are none ({_cause(text)}); set {_SETTINGS[kind]}"
        )
    if _passes(text):
        return broken(error).given_up(uri)
    fix = f"; set {_SETTINGS[kind]}" if action == "reach" else ""
    return StorageError(f"{shown(uri)}: cannot {action} it: {_cause(text)}{fix}")


def broken(error: Exception) -> Broken:
    """What obstore raised, as what another attempt may mend."""
    text = str(error)
    where = found[1] if (found := _ENDPOINT.search(text)) else "the storage"
    if status := _status(text):
        return Broken(f"{where} keeps answering {status}", "try again later")
    return Broken(f"cannot reach {where} ({_cause(text)})", "check the network, and the endpoint if one is set")


def is_busy(error: Exception) -> bool:
    """Whether obstore raised an answer that may say how long to wait."""
    return _status(str(error)) in (429, 503)


def _passes(text: str) -> bool:
    """Whether another attempt may meet something else: a busy server, a connection that was not made or broke."""
    status = _status(text)
    return status in _BUSY if status else "HTTP error" in text or "error sending request" in text or "body" in text


def _status(text: str) -> int:
    return int(found[1]) if (found := _STATUS.search(text)) else 0


def _cause(text: str) -> str:
    """What of an error's text people need: not the dump of its source, the page that came with it, nor the request's address."""
    first = text.partition("Debug source")[0].partition("<?xml")[0]
    code = found[1] if (found := _CODE.search(text)) else ""
    return redact(f"{first.rpartition(' - ')[2].strip(' :.')} {code}".strip())
