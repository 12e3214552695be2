"""S3 and servers that speak it: listing, ranged reads, deletion. Uploads are in s3_upload."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypedDict

import urllib3
from botocore.exceptions import BotoCoreError, ClientError

from pipeline.storage.entry import Entry, Stat
from pipeline.storage.errors import Broken, MissingError, redact
from pipeline.storage.s3_client import client
from pipeline.storage.s3_errors import as_broken, error_code, from_boto_error
from pipeline.storage.s3_objects import is_plain, parts_digest, split, split_file, stat_of
from pipeline.storage.s3_upload import upload, upload_bytes

DELETE_BATCH = 1000  # the most that one request may name


def stat(uri: str) -> Stat:
    bucket, key = split_file(uri)
    s3 = client(uri)
    try:
        try:
            return stat_of(s3.head_object(Bucket=bucket, Key=key, ChecksumMode="ENABLED"))
        except ClientError as error:
            if not error_code(error).isdigit():
                raise
            # A HEAD answer has no body and so no reason: ask for one byte to be told it.
            answer = s3.get_object(Bucket=bucket, Key=key, Range="bytes=0-0")
            answer["Body"].close()
            answer["ContentLength"] = int(answer["ContentRange"].rpartition("/")[2])
            return stat_of(answer)
    except (ClientError, BotoCoreError) as error:
        raise from_boto_error(error, uri, "read", s3) from None


class _Listed(TypedDict):
    """An object in a page of a listing."""

    Key: str
    Size: int
    ETag: str


class _Folder(TypedDict):
    Prefix: str


class _Page(TypedDict, total=False):
    """A page of a listing."""

    Contents: list[_Listed]
    CommonPrefixes: list[_Folder]


def _pages(uri: str, bucket: str, prefix: str, delimiter: str) -> Iterator[_Page]:
    s3 = client(uri)
    try:
        pages = s3.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter=delimiter)
        yield from pages
    except (ClientError, BotoCoreError) as error:
        raise from_boto_error(error, uri, "list", s3) from None


def _entries(page: _Page, bucket: str) -> Iterator[Entry]:
    for item in page.get("Contents", []):
        if not item["Key"].endswith("/"):  # a marker that some tools write for an empty folder
            # A listing does not tell how an object is encrypted, so its ETag proves nothing: no digest here.
            yield Entry(f"s3://{bucket}/{item['Key']}", Stat(item["Size"], item["ETag"].strip('"')))


def find_digest(uri: str, stat: Stat) -> str:
    """The checksum of an object that was listed, by up to three HEAD requests; "" if S3 knows none."""
    bucket, key = split_file(uri)
    s3 = client(uri)
    place = {"Bucket": bucket, "Key": key, "IfMatch": f'"{stat.version}"'}
    try:
        answer = s3.head_object(**place, ChecksumMode="ENABLED")
        known = stat_of(answer)
        if known.digest or not is_plain(answer):
            return known.digest
        return parts_digest(known, lambda part: s3.head_object(**place, PartNumber=part))
    except (ClientError, BotoCoreError) as error:
        raise from_boto_error(error, uri, "read", s3) from None


def list_level(folder: str, name_prefix: str) -> tuple[list[str], list[Entry]]:
    bucket, key = split(folder)
    base = key if not key or key.endswith("/") else key + "/"
    folders: list[str] = []
    files: list[Entry] = []
    for page in _pages(folder, bucket, base + name_prefix, "/"):
        folders += [item["Prefix"][len(base) : -1] for item in page.get("CommonPrefixes", [])]
        files += _entries(page, bucket)
    return folders, files


def list_tree(folder: str) -> Iterator[Entry]:
    bucket, key = split(folder)
    prefix = key if not key or key.endswith("/") else key + "/"
    for page in _pages(folder, bucket, prefix, ""):
        yield from _entries(page, bucket)


class S3Body:
    """The body of one GET."""

    def __init__(self, body: Any, start: int) -> None:
        self._body, self.start = body, start

    def read(self, size: int, /) -> bytes:
        try:
            return self._body.read(size)
        except (BotoCoreError, urllib3.exceptions.HTTPError, OSError) as error:
            raise Broken(redact(f"{type(error).__name__}: {error}")) from None

    def close(self) -> None:
        self._body.close()


def has_ranges(uri: str, stat: Stat) -> bool:
    return True


def open_whole(uri: str) -> tuple[Stat, S3Body]:
    """One GET without a condition: its ETag and its bytes are of one version, however often the object is rewritten."""
    bucket, key = split_file(uri)
    s3 = client(uri)
    try:
        answer = s3.get_object(Bucket=bucket, Key=key)
    except (ClientError, BotoCoreError, OSError) as error:
        raise from_boto_error(error, uri, "read", s3) from None
    return stat_of(answer), S3Body(answer["Body"], 0)


def verify(uri: str, stat: Stat) -> None:
    """Each GET is answered from one version, whose ETag was asked for."""


def open_range(uri: str, start: int, stop: int, stat: Stat) -> S3Body:
    bucket, key = split_file(uri)
    s3 = client(uri)
    try:
        answer = s3.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}", IfMatch=f'"{stat.version}"')
    except (ClientError, BotoCoreError, OSError) as error:
        raise as_broken(error, s3) or from_boto_error(error, uri, "read", s3) from None
    found = re.match(r"bytes (\d+)-", answer.get("ContentRange", ""))
    return S3Body(answer["Body"], int(found.group(1)) if found else 0)


def put_file(path: Path, uri: str, keep: bool) -> None:
    upload(path, uri)
    if not keep:
        path.unlink()


def put_bytes(data: bytes, uri: str) -> None:
    upload_bytes(data, uri)


def delete_many(uris: Iterable[str]) -> None:
    buckets: dict[str, list[str]] = {}
    for uri in uris:
        bucket, key = split_file(uri)
        buckets.setdefault(bucket, []).append(key)
    for bucket, keys in buckets.items():
        for i in range(0, len(keys), DELETE_BATCH):
            _delete(bucket, keys[i : i + DELETE_BATCH])


def _delete(bucket: str, keys: list[str]) -> None:
    first = f"s3://{bucket}/{keys[0]}"
    s3 = client(first)
    try:
        answer = s3.delete_objects(Bucket=bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True})
    except (ClientError, BotoCoreError) as error:
        raise from_boto_error(error, first, "delete", s3) from None
    failed = [item for item in answer.get("Errors", []) if item.get("Code") != "NoSuchKey"]
    if failed:
        one = ClientError({"Error": failed[0], "ResponseMetadata": {}}, "DeleteObjects")  # type: ignore[arg-type]
        raise from_boto_error(one, f"s3://{bucket}/{failed[0].get('Key', '')}", "delete", s3)


def delete_tree(folder: str) -> None:
    bucket, key = split(folder)
    prefix = key if not key or key.endswith("/") else key + "/"
    try:
        for page in _pages(folder, bucket, prefix, ""):
            if keys := [item["Key"] for item in page.get("Contents", [])]:
                _delete(bucket, keys)
    except MissingError:
        return


def remove_leftovers(folder: str) -> None:
    """Aborts unfinished multipart uploads under `folder`: S3 keeps, and bills, their parts until then."""
    bucket, key = split(folder)
    prefix = key if not key or key.endswith("/") else key + "/"
    s3 = client(folder)
    try:
        for page in s3.get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=prefix):
            for item in page.get("Uploads", []):
                try:
                    s3.abort_multipart_upload(Bucket=bucket, Key=item["Key"], UploadId=item["UploadId"])
                except ClientError as error:
                    if error_code(error) != "NoSuchUpload":
                        raise
    except (ClientError, BotoCoreError) as error:
        raise from_boto_error(error, folder, "clean", s3) from None
