"""Uploads to S3, each checked on arrival: the server verifies a CRC-32 of every request, and the result's ETag or
checksum and its size are compared with what was read from the file.

Files above one part go up as a multipart upload, which appears at its key only when it is complete; if anything
fails it is aborted, so that no parts stay behind.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import urllib3
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.storage.errors import TransientError, from_os_error
from pipeline.storage.s3_client import client
from pipeline.storage.s3_errors import from_boto_error
from pipeline.storage.s3_objects import SHA256, Receipt, is_plain, split_file, stat_of

PART_BYTES = 16 << 20
MOST_PARTS = 10_000  # S3's limit
UPLOADERS = 4
"""Parts in flight; each is held in memory (PART_BYTES) while it is sent."""

_FAILURES = (ClientError, BotoCoreError, urllib3.exceptions.HTTPError)


def upload_bytes(data: bytes, uri: str) -> None:
    """Puts one object from memory."""
    bucket, key = split_file(uri)
    s3 = client(uri)
    sha256, md5 = hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest()
    try:
        answer = s3.put_object(Bucket=bucket, Key=key, Body=data, Metadata={SHA256: sha256}, **_checksum(s3))
        _check_etag(uri, answer, md5)
    except _FAILURES as error:
        raise from_boto_error(error, uri, "write", s3) from None


def upload(path: Path, uri: str) -> None:
    """Uploads a local file, in parts if it is larger than one."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size <= PART_BYTES:
                upload_bytes(file.read(), uri)
                return
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            _upload_parts(file.fileno(), size, sha256, uri)
    except OSError as error:
        raise from_os_error(error, path, "read") from None


def _upload_parts(descriptor: int, size: int, sha256: str, uri: str) -> None:
    bucket, key = split_file(uri)
    s3 = client(uri)
    place = {"Bucket": bucket, "Key": key}
    part_bytes = max(PART_BYTES, -(-size // MOST_PARTS))
    count = -(-size // part_bytes)
    try:
        begun = s3.create_multipart_upload(**place, Metadata={SHA256: sha256}, **_checksum(s3))
    except _FAILURES as error:
        raise from_boto_error(error, uri, "write", s3) from None
    place["UploadId"] = begun["UploadId"]

    def send(number: int) -> tuple[dict[str, object], bytes]:
        """One part: its receipt, and its MD5."""
        data = os.pread(descriptor, part_bytes, (number - 1) * part_bytes)
        md5 = hashlib.md5(data, usedforsecurity=False)
        answer = s3.upload_part(**place, PartNumber=number, Body=data, **_checksum(s3))
        _check_etag(uri, answer, md5.hexdigest())
        receipt = {"PartNumber": number, "ETag": answer["ETag"]}
        if "ChecksumCRC32" in answer:
            receipt["ChecksumCRC32"] = answer["ChecksumCRC32"]
        return receipt, md5.digest()

    pool = ThreadPoolExecutor(min(UPLOADERS, count), thread_name_prefix="upload")
    parts: list[Future[tuple[dict[str, object], bytes]]] = []
    try:
        parts = [pool.submit(send, number) for number in range(1, count + 1)]
        done = [part.result() for part in parts]
        s3.complete_multipart_upload(**place, MultipartUpload={"Parts": [receipt for receipt, _ in done]})
        _check_whole(uri, s3, bucket, key, size, [md5 for _, md5 in done])
    except BaseException as error:
        pool.shutdown(cancel_futures=True)  # no part may arrive after the abort
        with suppress(*_FAILURES):  # the upload may be gone already; the first error is the one to tell
            s3.abort_multipart_upload(**place)
        if isinstance(error, _FAILURES):
            raise from_boto_error(error, uri, "write", s3) from None
        raise
    finally:
        pool.shutdown()


def _checksum(s3: Any) -> dict[str, str]:
    """Asks for a CRC-32 of each request, unless AWS_REQUEST_CHECKSUM_CALCULATION turns that off (old servers)."""
    return {} if s3.meta.config.request_checksum_calculation == "when_required" else {"ChecksumAlgorithm": "CRC32"}


def _check_etag(uri: str, answer: Receipt, md5: str) -> None:
    etag = answer["ETag"].strip('"')
    if is_plain(answer) and len(etag) == 32 and etag != md5:
        raise TransientError(f"{uri}: arrived damaged: its MD5 is {etag}, not {md5}; run again")


def _check_whole(uri: str, s3: Any, bucket: str, key: str, size: int, md5s: list[bytes]) -> None:
    """Size and ETag of a finished multipart object: MD5 over its parts' MD5s, then "-" and their number."""
    answer = s3.head_object(Bucket=bucket, Key=key)
    stat = stat_of(answer)
    wanted = f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"
    same_shape = len(stat.version) == len(wanted) and stat.version.endswith(f"-{len(md5s)}")
    if stat.size != size:
        raise TransientError(f"{uri}: arrived damaged: {stat.size:,} bytes, not {size:,}; run again")
    if is_plain(answer) and same_shape and stat.version != wanted:
        raise TransientError(f"{uri}: arrived damaged: its ETag is {stat.version}, not {wanted}; run again")
