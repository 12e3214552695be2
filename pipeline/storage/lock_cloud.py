"""The lock of a run on Google's or Azure's storage, by their conditional writes (through obstore)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, TypeVar

import obstore
from obstore import exceptions

from pipeline.storage.cloud import left_alone, store_of
from pipeline.storage.cloud_errors import from_cloud_error
from pipeline.storage.lock import Holder, parse_holder
from pipeline.storage.lock_object import STALE, ObjectLock, Refused

T = TypeVar("T")


class CloudLock(ObjectLock):
    """A held lock on gs:// or az://. A version is the object's ETag, and its generation on Google's storage."""

    def __init__(self, run: str, uri: str) -> None:
        self._store, self._key = store_of(uri, soon=True)  # one request that hangs must not cost the lock
        self._patience: float | None = None  # as for all requests, until it is held
        try:
            super().__init__(run, uri)
        except exceptions.BaseError as error:
            raise from_cloud_error(error, uri, "write") from None

    def _asking(self, call: Callable[[], T]) -> T:
        return left_alone(self._uri, "write", call, self._patience)

    def _put(self, data: bytes, mode: Any) -> str:
        def put() -> Any:
            return obstore.put(self._store, self._key, data, mode=mode, use_multipart=False)

        try:
            return _version(self._asking(put))
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise Refused from None
        except FileNotFoundError as error:
            if mode == "create":
                raise from_cloud_error(error, self._uri, "write") from None
            raise Refused from None

    def _settle(self) -> None:
        """Both clouds honour the conditions of writes. From now on a request that is to wait is the next heartbeat's."""
        self._patience = 0.0

    def _create(self, data: bytes) -> str:
        return self._put(data, "create")

    def _replace(self, data: bytes, version: str) -> str:
        tag, _, generation = version.partition(" ")
        return self._put(data, {"e_tag": tag} | ({"version": generation} if generation else {}))

    def _read(self) -> tuple[str, Holder, Callable[[], float]] | None:
        try:
            answer = self._asking(lambda: obstore.get(self._store, self._key))
            holder = parse_holder(bytes(answer.bytes()))
        except FileNotFoundError:
            return None
        written = answer.meta["last_modified"]
        return _version(answer.meta), holder, lambda: (self._now() - written).total_seconds()

    def _now(self) -> Any:
        """The server's time: that of an object that is written now."""
        key = f"{self._key.rpartition('/')[0]}/.scratch/clock-{secrets.token_hex(4)}".lstrip("/")
        self._asking(lambda: obstore.put(self._store, key, b""))
        try:
            return self._asking(lambda: obstore.head(self._store, key))["last_modified"]
        finally:
            self._asking(lambda: obstore.delete(self._store, key))

    def _remove(self, version: str) -> None:
        self._patience = STALE  # then it lapses anyway
        found = self._read()
        if found is None or found[0] != version:
            raise Refused
        self._asking(lambda: obstore.delete(self._store, self._key))


def _version(found: Any) -> str:
    """Of what a write or read was answered: the ETag, and behind a space the generation, where there is one."""
    return " ".join(part for part in (found["e_tag"], found["version"]) if part)
