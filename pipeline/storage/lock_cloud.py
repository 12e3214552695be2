"""The lock of a run on Google's or Azure's storage, by their conditional writes (through obstore)."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import obstore
from obstore import exceptions

from pipeline.storage.cloud import store_of
from pipeline.storage.cloud_errors import from_cloud_error
from pipeline.storage.lock import Holder, parse_holder
from pipeline.storage.lock_object import ObjectLock, Refused


class CloudLock(ObjectLock):
    """A held lock on gs:// or az://. A version is the object's ETag, and its generation on Google's storage."""

    def __init__(self, run: str, uri: str) -> None:
        self._store, self._key = store_of(uri, soon=True)  # one request that hangs must not cost the lock
        try:
            super().__init__(run, uri)
        except exceptions.BaseError as error:
            raise from_cloud_error(error, uri, "write") from None

    def _put(self, data: bytes, mode: Any) -> str:
        try:
            return _version(obstore.put(self._store, self._key, data, mode=mode, use_multipart=False))
        except (exceptions.AlreadyExistsError, exceptions.PreconditionError):
            raise Refused from None
        except FileNotFoundError as error:
            if mode == "create":
                raise from_cloud_error(error, self._uri, "write") from None
            raise Refused from None

    def _settle(self) -> None:
        """Nothing: both clouds honour the conditions of writes."""

    def _create(self, data: bytes) -> str:
        return self._put(data, "create")

    def _replace(self, data: bytes, version: str) -> str:
        tag, _, generation = version.partition(" ")
        return self._put(data, {"e_tag": tag} | ({"version": generation} if generation else {}))

    def _read(self) -> tuple[str, Holder, Callable[[], float]] | None:
        try:
            answer = obstore.get(self._store, self._key)
            holder = parse_holder(bytes(answer.bytes()))
        except FileNotFoundError:
            return None
        written = answer.meta["last_modified"]
        return _version(answer.meta), holder, lambda: (self._now() - written).total_seconds()

    def _now(self) -> Any:
        """The server's time: that of an object that is written now."""
        key = f"{self._key.rpartition('/')[0]}/.scratch/clock-{secrets.token_hex(4)}".lstrip("/")
        obstore.put(self._store, key, b"")
        try:
            return obstore.head(self._store, key)["last_modified"]
        finally:
            obstore.delete(self._store, key)

    def _remove(self, version: str) -> None:
        found = self._read()
        if found is None or found[0] != version:
            raise Refused
        obstore.delete(self._store, self._key)


def _version(found: Any) -> str:
    """Of what a write or read was answered: the ETag, and behind a space the generation, where there is one."""
    return " ".join(part for part in (found["e_tag"], found["version"]) if part)
