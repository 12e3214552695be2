"""How objects are named, and what S3 tells of their content.

The ETag of an object is made of MD5s unless it is encrypted with a key of KMS or the customer: of one that was
uploaded in one piece it is its MD5, of one uploaded in N parts the MD5 over the parts' MD5s, then "-N".
Source: Amazon S3 API Reference, "Object"; Amazon S3 User Guide, "Checking object integrity".
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import Required, TypedDict

from pipeline.storage.entry import Stat
from pipeline.storage.errors import StorageError, shown

SHA256 = "headrace-sha256"
"""Metadata key under which uploads of this package keep the file's SHA-256."""

_MD5 = re.compile(r"[0-9a-f]{32}")
_MD5_OF_PARTS = re.compile(r"[0-9a-f]{32}-([1-9]\d*)")


def split(uri: str) -> tuple[str, str]:
    """Bucket and key. The key is taken as it stands."""
    bucket, _, key = uri.partition("://")[2].partition("/")
    if not bucket:
        raise StorageError(f"{uri}: names no bucket; write s3://BUCKET/KEY")
    if "@" in bucket:
        raise StorageError(
            f"{shown(uri)}: AWS credentials are not read from an address; set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY"
        )
    return bucket, key


def split_file(uri: str) -> tuple[str, str]:
    bucket, key = split(uri)
    if not key or key.endswith("/"):
        raise StorageError(f"{uri}: names a folder, not an object; name an object")
    return bucket, key


class Receipt(TypedDict, total=False):
    """What is read of S3's answer to a PUT."""

    ETag: Required[str]
    ServerSideEncryption: str
    SSECustomerAlgorithm: str


class Answer(Receipt, total=False):
    """What is read of S3's answer to a HEAD or GET of an object."""

    ContentLength: Required[int]
    Metadata: dict[str, str]
    ChecksumType: str
    ChecksumSHA256: str
    ChecksumCRC32: str


def stat_of(answer: Answer) -> Stat:
    """Stat from the answer to a HEAD or GET of an object."""
    etag = answer["ETag"].strip('"')
    return Stat(answer["ContentLength"], etag, _digest(answer, etag))


def _digest(answer: Answer, etag: str) -> str:
    """The checksum of the whole object, if the answer holds one that can be computed here."""
    if own := answer.get("Metadata", {}).get(SHA256):
        return f"sha256:{own}"
    if answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT":
        for field, kind in (("ChecksumSHA256", "sha256"), ("ChecksumCRC32", "crc32")):
            value = answer.get(field, "")
            if value and "-" not in value:
                return f"{kind}:{base64.b64decode(value).hex()}"
    return f"md5:{etag}" if _MD5.fullmatch(etag) and is_plain(answer) else ""


def is_plain(answer: Receipt) -> bool:
    """True when the ETag is made of MD5s."""
    return answer.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in answer


def parts_digest(stat: Stat, head_part: Callable[[int], Answer]) -> str:
    """The checksum that the ETag of a multipart upload is, if its parts are of one size (but for the last); else "".

    head_part: the answer to a HEAD of one part (1, 2, ...). Size of the first and of the last part decide.
    """
    found = _MD5_OF_PARTS.fullmatch(stat.version)
    if not found:
        return ""
    count = int(found.group(1))
    part_bytes = _size_of_part(head_part(1), stat.size, count)
    last = stat.size - (count - 1) * part_bytes
    if not 0 < last <= part_bytes or (count > 1 and _size_of_part(head_part(count), stat.size, count) != last):
        return ""
    return f"md5-parts-{part_bytes}:{stat.version}"


def _size_of_part(answer: Answer, whole: int, count: int) -> int:
    """0 from a server that knows no parts and answers for the whole object."""
    size = int(answer["ContentLength"])
    return 0 if size == whole and count > 1 else size
