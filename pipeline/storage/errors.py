"""Storage errors: one sentence that names the URI, the cause and the fix, and never a secret.

Messages of other libraries are quoted only through `redact`, and errors are raised `from None`: their own text may
hold presigned URLs, which would otherwise reach a log or a quarantined traceback.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from pipeline.storage.public import public_name
from stages.errors import UserError

PASSING = {errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO, errno.EHOSTUNREACH, errno.ENETUNREACH}
"""What a network file system answers while its server is away."""
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")
_QUERY = re.compile(r"\?[^\s'\"<>)\]]*")
_SECRET = re.compile(
    r"(?i)\b(?:(authorization|token|secret|password|signature|x-amz-[\w-]+)\s*[:=]\s*(?:(?:bearer|basic)\s+)?"
    r"|(bearer|basic)\s+)[^\s)'\",]+"
)


class StorageError(UserError):
    """Files that cannot be listed, read or written."""


class TransientError(StorageError):
    """What may pass: a busy server, a connection that broke, no network. The task is tried again (pipeline/engine/attempts.py).

    asked: seconds that the server asks to be left alone for; 0 if it does not say.
    """

    def __init__(self, text: str, asked: float = 0.0) -> None:
        super().__init__(text)
        self.asked = asked

    def __reduce__(self) -> tuple:
        return (TransientError, (str(self), self.asked), vars(self))


class MissingError(StorageError):
    """The file, object, folder or bucket does not exist."""


class ChangedError(StorageError):
    """The file is no longer the one that was listed, or changed while it was being read."""


class DamagedError(StorageError):
    """A file that the run wrote holds other bytes now. uri: the file's, so that it can be made anew."""

    def __init__(self, text: str, uri: str = "") -> None:
        super().__init__(text)
        self.uri = uri

    def __reduce__(self) -> tuple:
        return (DamagedError, (str(self), self.uri))


class Broken(Exception):
    """A transfer that failed in a way that trying again may mend. Internal: it becomes a TransientError (`given_up`).

    fix: what the user can do if trying again does not help. asked: as in TransientError.
    """

    def __init__(self, reason: str, fix: str = "check the network and run again", asked: float = 0.0) -> None:
        super().__init__(reason)
        self.reason, self.fix, self.asked = reason, fix, asked

    def given_up(self, uri: str) -> TransientError:
        """The error for `uri` once no further attempt is made at it."""
        return TransientError(f"{shown(uri)}: {self}; {self.fix}", self.asked)


def redact(text: str) -> str:
    """`text` without user names, passwords, tokens or query strings (where presigned URLs keep their signature)."""
    text = _SECRET.sub(r"\1\2 removed", _QUERY.sub("", _USERINFO.sub("", text)))
    return " ".join(text.split())[:300]


def shown(uri: str) -> str:
    """`uri` as messages show it: by its public name."""
    return public_name(uri)


def no_space(path: str | Path, needed: int, what: str = "") -> StorageError:
    """The error for a disk without room: names the path, the bytes needed and the bytes free."""
    folder = Path(path)
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free = f"{shutil.disk_usage(folder).free:,} bytes"
    except OSError:
        free = "an unknown number of bytes"
    needed_words = f"{needed:,} bytes needed{f' for {shown(what)}' if what else ''}, " if needed else ""
    return StorageError(
        f"{path}: no space left: {needed_words}{free} free; free some space or choose a folder on another disk"
    )


def from_os_error(error: OSError, path: str | Path, action: str, needed: int = 0) -> StorageError:
    """The StorageError for an error of the operating system while `action` ("read", "write", ...) ran on `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(path, needed)
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return MissingError(f"{path}: no such file or folder; check the path")
    if error.errno in (errno.EACCES, errno.EPERM):
        return StorageError(f"{path}: no permission to {action} it; change its permissions or choose another path")
    if error.errno == errno.EROFS:
        return StorageError(f"{path}: the file system is read-only; choose another path")
    if error.errno == errno.EISDIR:
        return StorageError(f"{path}: is a folder, not a file; name a file")
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return StorageError(f"{path}: too many open files; raise the limit (ulimit -n) or use fewer workers")
    reason = os.strerror(error.errno) if error.errno else str(error)
    if error.errno in PASSING:
        return TransientError(f"{path}: cannot {action} it: {reason}; check the file system's server")
    return StorageError(f"{path}: cannot {action} it: {reason}")
