"""HTTP(S): ranged reads of single files. Web servers have no listing, and nothing is written to them.

Bytes are taken as they lie on the server: no content encoding is asked for and none is undone. Credentials come from
where requests looks for them (the address itself, ~/.netrc).
"""

from __future__ import annotations

import base64
import re
import threading
from collections.abc import Callable, Iterator, Mapping

import requests
import urllib3
from requests import Response, exceptions

from pipeline.storage import retry
from pipeline.storage.entry import SIZE_ONLY, Entry, Stat
from pipeline.storage.errors import Broken, ChangedError, MissingError, StorageError, redact, shown
from pipeline.storage.uri import name_of

TIMEOUT = (10, 60)
"""Seconds to connect, and seconds without a byte after which a connection counts as broken."""
BUSY = (408, 425, 429, 500, 502, 503, 504)
COMPRESSED = (".gz", ".zst", ".bz2", ".xz", ".tgz", ".br")

WEAK, DATED = "weak:", "modified:"
"""Start of the versions that are no strong ETag; see `version_of`."""

_threads = threading.local()


def session() -> requests.Session:
    """This thread's session; it keeps connections open between requests."""
    found = getattr(_threads, "session", None)
    if found is None:
        found = _threads.session = requests.Session()
        found.headers["User-Agent"] = "headrace"
    return found


def request(
    method: str,
    url: str,
    uri: str,
    headers: Mapping[str, str] | None = None,
    allow_redirects: bool = True,
    refused: Callable[[str, Response], StorageError | None] = lambda uri, response: None,
) -> Response:
    """One answer of 2xx or 3xx, its body not yet read; tried again with back-off, and when the answer says (`asked_to_wait`).

    refused: may turn an answer of 4xx into a more precise error. Raises StorageError, or Broken when no attempt came
    through.
    """
    sent = {"Accept-Encoding": "identity", **(headers or {})}
    attempt, asked = 0, 0.0
    while True:
        pause = 0.0
        try:
            response = session().request(
                method, url, headers=sent, stream=True, timeout=TIMEOUT, allow_redirects=allow_redirects
            )
            if response.status_code < 400:
                return response
            response.close()
            if response.status_code not in BUSY:
                raise refused(uri, response) or _refusal(uri, response)
            pause = retry.asked_to_wait(response.headers)
            broken = Broken(f"the server answers {response.status_code} {response.reason}", "try again later", pause)
        except exceptions.SSLError as error:
            reason = f"no secure connection ({redact(str(error))})"
            if "certificate" in str(error).lower():
                raise StorageError(f"{shown(uri)}: {reason}; check REQUESTS_CA_BUNDLE") from None
            broken = Broken(reason, "check REQUESTS_CA_BUNDLE, and the network")  # cut off in the middle of a handshake, say
        except (exceptions.ConnectionError, exceptions.Timeout, exceptions.ChunkedEncodingError) as error:
            broken = Broken(f"cannot reach the server ({cause(error)})", "check the address and the network")
        except exceptions.RequestException as error:
            raise StorageError(f"{shown(uri)}: cannot be read: {redact(str(error))}; check the address") from None
        if pause and asked < retry.ASKED_IN_ALL:
            asked += max(pause, 1.0)
        else:
            attempt += 1
            if attempt >= retry.OPEN_ATTEMPTS:
                raise broken
        retry.wait(max(attempt, 1), pause)


def cause(error: Exception) -> str:
    """A few words for why there was no connection."""
    text = str(error).lower()
    for sign, words in (
        ("name or service not known", "its name is not known"),
        ("failed to resolve", "its name cannot be looked up"),
        ("refused", "connection refused"),
        ("timed out", "no answer in time"),
        ("unreachable", "network unreachable"),
        ("reset", "connection reset"),
        ("without response", "connection closed"),
    ):
        if sign in text:
            return words
    return type(error).__name__


def _refusal(uri: str, response: Response) -> StorageError:
    code = response.status_code
    if code in (404, 410):
        return MissingError(f"{shown(uri)}: no such file on the server ({code}); check the address")
    if code in (401, 403, 407):
        fix = "check the address (a signed one expires, and a run's folder keeps none); passwords are read from ~/.netrc"
        return StorageError(f"{shown(uri)}: the server refuses access ({code}); {fix}")
    if code in (412, 416):
        return _changed(uri)
    return StorageError(f"{shown(uri)}: the server answers {code} {response.reason}; check the address")


def _changed(uri: str) -> ChangedError:
    return ChangedError(f"{shown(uri)}: changed while it was being read; start the run again")


def version_of(response: Response, size: int) -> str:
    """Fingerprint from the headers: the ETag, or else when it was last modified, with the size.

    A strong ETag stands alone. A weak one (of equal meaning, not of equal bytes: RFC 9110, 8.8.1) and a date, which tells
    whole seconds, are taken with the size; a server that tells neither leaves the size alone.
    """
    etag = response.headers.get("ETag", "").strip()
    if etag and not etag.startswith("W/"):
        return etag.strip('"')
    if etag:
        return f"{WEAK}{etag[2:]}, {size}"
    date = response.headers.get("Last-Modified", "").strip()
    return f"{DATED}{date}, {size}" if date else f"{SIZE_ONLY}{size}"


def size_of(response: Response) -> int | None:
    """Size of the whole file, from the answer to a HEAD or a ranged GET; None if the server does not tell."""
    if response.status_code == 206:
        total = response.headers.get("Content-Range", "").rpartition("/")[2]
        return int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isdigit() else None


def digest_of(response: Response) -> str:
    """The checksum of the whole file that the headers state: Repr-Digest (RFC 9530) or Content-MD5 (RFC 1864)."""
    if found := re.search(r"\bsha-256=:([A-Za-z0-9+/=]+):", response.headers.get("Repr-Digest", "")):
        return f"sha256:{base64.b64decode(found.group(1)).hex()}"
    md5 = response.headers.get("Content-MD5", "")
    if md5 and response.status_code == 200:
        return f"md5:{base64.b64decode(md5).hex()}"
    return ""


def stat(uri: str) -> Stat:
    try:
        try:
            response = request("HEAD", uri, uri)
        except StorageError as error:
            if isinstance(error, MissingError):
                raise
            response = request("GET", uri, uri, {"Range": "bytes=0-0"})  # some servers refuse HEAD
        else:
            if size_of(response) is None:
                response = request("GET", uri, uri, {"Range": "bytes=0-0"})
    except Broken as broken:
        raise broken.given_up(uri) from None
    response.close()
    size = size_of(response)
    if size is None:
        raise StorageError(
            f"{shown(uri)}: the server does not tell the file's size, so a download could not be checked; "
            "download it by other means and name the local file"
        )
    _check_encoding(uri, response)
    return Stat(size, version_of(response, size), digest_of(response))


def _check_encoding(uri: str, response: Response) -> None:
    """A server may label a .gz file as encoded, which is harmless; anything else encoded is not the file itself."""
    encoding = response.headers.get("Content-Encoding", "identity").lower()
    if encoding not in ("", "identity") and not name_of(uri).lower().endswith(COMPRESSED):
        raise StorageError(
            f"{shown(uri)}: the server sends it encoded ({redact(encoding)}) though asked not to; "
            "download it by other means and name the local file"
        )


def list_level(folder: str, name_prefix: str) -> tuple[list[str], list[Entry]]:
    raise StorageError(f"{shown(folder)}: files on a web server cannot be listed; name each file")


def list_tree(folder: str) -> Iterator[Entry]:
    raise StorageError(f"{shown(folder)}: files on a web server cannot be listed; name each file")


class HttpBody:
    """The body of one answer."""

    def __init__(self, response: Response, start: int) -> None:
        self._response, self.start = response, start

    def read(self, size: int, /) -> bytes:
        try:
            return self._response.raw.read(size, decode_content=False)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Broken(f"the connection broke ({cause(error)})") from None

    def close(self) -> None:
        self._response.close()


def find_digest(uri: str, stat: Stat) -> str:
    return ""  # `stat` already tells all that there is


def has_ranges(uri: str, stat: Stat) -> bool:
    return ranged(uri, uri, {})


def ranged(url: str, uri: str, headers: Mapping[str, str]) -> bool:
    """True if the server answers a request for one byte with one byte."""
    try:
        response = request("GET", url, uri, {**headers, "Range": "bytes=0-0"})
    except Broken as broken:
        raise broken.given_up(uri) from None
    response.close()
    return response.status_code == 206


def open_whole(uri: str) -> tuple[Stat, None]:
    return stat(uri), None


def verify(uri: str, stat_read: Stat) -> None:
    """A server may send bytes of a file that is being written over, under the headers of the old one."""
    if stat(uri).version != stat_read.version:
        raise _changed(uri)


def open_range(uri: str, start: int, stop: int, stat: Stat) -> HttpBody:
    strong = not stat.version.startswith((WEAK, DATED, SIZE_ONLY))
    condition = {"If-Range": f'"{stat.version}"'} if strong else {}
    response = request("GET", uri, uri, {"Range": f"bytes={start}-{stop - 1}", **condition})
    size = size_of(response)
    if size is not None and (size != stat.size or version_of(response, size) != stat.version):
        response.close()
        raise _changed(uri)
    _check_encoding(uri, response)
    return body_of(response, uri)


def body_of(response: Response, uri: str) -> HttpBody:
    """The body with the offset at which it really starts: servers without ranges send the file from its beginning."""
    if response.status_code != 206:
        return HttpBody(response, 0)
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if not found:
        response.close()
        raise StorageError(f"{shown(uri)}: the server sends several ranges where one was asked for; name a local copy")
    return HttpBody(response, int(found.group(1)))
