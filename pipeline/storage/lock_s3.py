"""The lock of a run on S3, by If-None-Match and If-Match.

Servers that ignore the conditions are recognised when a lock is taken (a second creation succeeds). There the lock is
only advisory: it is written, and after SETTLE seconds must still be there; a warning says so. Two runs that start
within SETTLE seconds of each other are still told apart, but a stalled network can let two in.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime

from botocore.exceptions import BotoCoreError, ClientError

from pipeline.storage.lock import Holder, parse_holder, taken
from pipeline.storage.lock_object import ObjectLock, Refused, log
from pipeline.storage.s3_client import client
from pipeline.storage.s3_errors import error_code, from_boto_error, status_of
from pipeline.storage.s3_objects import split_file

SETTLE = 2.0
"""Seconds."""


class S3Lock(ObjectLock):
    """A held lock on S3."""

    def __init__(self, run: str, uri: str) -> None:
        self._bucket, self._key = split_file(uri)
        self._s3 = client(uri, soon=True)  # one request that hangs must not cost the lock
        self._conditional = True
        try:
            super().__init__(run, uri)
        except (ClientError, BotoCoreError) as error:
            raise from_boto_error(error, uri, "write", self._s3) from None

    def _put(self, data: bytes, **condition: str) -> str:
        """Writes the lock; the new ETag."""
        try:
            return self._s3.put_object(Bucket=self._bucket, Key=self._key, Body=data, **condition)["ETag"]
        except ClientError as error:
            if _condition_failed(error) or error_code(error) == "NoSuchKey":
                raise Refused from None
            raise

    def _create(self, data: bytes) -> str:
        try:
            return self._put(data, IfNoneMatch="*")
        except ClientError as error:
            if not _unsupported(error):
                raise
        found = self._read()
        if found is not None:
            self._refuse_if_alive(*found[1:])
        return self._put(data)

    def _replace(self, data: bytes, version: str) -> str:
        if self._conditional:
            return self._put(data, IfMatch=version)
        found = self._read()
        if found is not None and found[1].token != self.token:
            raise Refused
        return self._put(data)

    def _read(self) -> tuple[str, Holder, Callable[[], float]] | None:
        try:
            answer = self._s3.get_object(Bucket=self._bucket, Key=self._key)
        except ClientError as error:
            if error_code(error) in ("NoSuchKey", "404"):
                return None
            raise
        with answer["Body"] as body:
            holder = parse_holder(body.read())
        now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
        return answer["ETag"], holder, (now - answer["LastModified"]).total_seconds

    def _settle(self) -> None:
        """Creating what exists must fail, where the server honours conditions; else see that no other run wrote after us."""
        try:
            self._version = self._put(self._content(), IfNoneMatch="*")
        except Refused:
            return
        except ClientError as error:
            if not _unsupported(error):
                raise
        self._conditional = False
        where = self._s3.meta.endpoint_url
        log.warning("%s: %s has no conditional writes, so the run's lock is only advisory", self._run, where)
        time.sleep(SETTLE)
        found = self._read()
        if found is None or found[1].token != self.token:
            raise taken(self._run, found[1] if found else Holder())

    def _remove(self, version: str) -> None:
        try:
            condition = {"IfMatch": version} if self._conditional else {}
            self._s3.delete_object(Bucket=self._bucket, Key=self._key, **condition)
        except ClientError as error:
            if _condition_failed(error):
                raise Refused from None
            if not _unsupported(error):
                raise
            self._s3.delete_object(Bucket=self._bucket, Key=self._key)


def _condition_failed(error: ClientError) -> bool:
    return error_code(error) in ("PreconditionFailed", "ConditionalRequestConflict") or status_of(error) in (409, 412)


def _unsupported(error: ClientError) -> bool:
    return error_code(error) == "NotImplemented" or status_of(error) == 501
