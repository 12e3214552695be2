"""Header fields, of WARC records and of HTTP: names in any case, repeated fields, folded lines, any line ends."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

KNOWN = (
    *("content-type", "content-encoding", "transfer-encoding", "content-language", "last-modified"),
    *("x-robots-tag", "tdm-reservation", "tdm-policy"),
    *("warc-record-id", "warc-target-uri", "warc-date", "warc-ip-address", "warc-truncated"),
    *("warc-identified-payload-type", "warc-identified-content-language"),
)
_NAMES = "|".join(KNOWN).encode()
_FIELD = re.compile(rb"\n(" + _NAMES + rb")[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)", re.IGNORECASE)
_FOLD = re.compile(rb"\r?\n[ \t]+")
_STATUS = re.compile(rb"(?:HTTP/\d(?:\.\d+)?|ICY)[ \t]+(\d{3})(?!\d)", re.IGNORECASE)
_ESSENCE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+/[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CHARSET = re.compile(r"(?<![\w-])charset\s*=\s*[\"']?\s*([^\s\"';,]+)", re.IGNORECASE)
_VALUE = re.compile(r"(?:[^,\"]|\"[^\"]*(?:\"|\Z))+")  # what stands between commas that are not within quotes


@dataclass(frozen=True, slots=True)
class Headers:
    """The values of each known field, by its name in lower case; values that are empty are left out."""

    fields: dict[str, list[str]]

    def get(self, name: str) -> str | None:
        """The first value of a field."""
        values = self.fields.get(name)
        return values[0] if values else None

    def joined(self, name: str) -> str | None:
        """All values of a field, as if they stood in one line (RFC 9110, section 5.3)."""
        values = self.fields.get(name)
        return ", ".join(values) if values else None


@dataclass(frozen=True, slots=True)
class ContentType:
    """A media type in lower case, empty where there is none, and the charset that goes with it."""

    mime: str = ""
    charset: str | None = None


def parse_headers(head: bytes) -> tuple[bytes, Headers]:
    """The first line of a header, and those of its fields that this package knows (`KNOWN`)."""
    fields: dict[str, list[str]] = {}
    for name, value in _FIELD.findall(head):
        if text := _text(value):
            fields.setdefault(name.decode().lower(), []).append(text)
    return head.partition(b"\n")[0].rstrip(), Headers(fields)


def _text(value: bytes) -> str:
    if b"\n" in value:
        value = _FOLD.sub(b" ", value)
    try:
        return value.decode("utf-8").strip()
    except UnicodeDecodeError:
        return value.decode("latin-1").strip()


def status_code(first: bytes) -> int | None:
    """The status code of an HTTP response by its first line; None where that is no status line."""
    found = _STATUS.match(first)
    return int(found[1]) if found else None


@lru_cache(1024)  # the same few values stand over millions of pages
def content_type(value: str | None) -> ContentType:
    """What a Content-Type says, several values joined: the last valid one.

    A charset stays in force while the type is repeated without one (Fetch standard, "extract a MIME type").
    """
    found = ContentType()
    for one in _VALUE.findall(value or ""):
        essence = _ESSENCE.match(one.strip())
        if not essence or essence[0] == "*/*":
            continue
        mime, charset = essence[0].lower(), _CHARSET.search(one)
        found = ContentType(mime, charset[1] if charset else found.charset if mime == found.mime else None)
    return found
