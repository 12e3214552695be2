"""How long Google's or Azure's storage asks to be left alone for. obstore makes the requests, but tells no answer's headers.

So where it gave up on an answer of 429 or 503, the same object is asked for once more, by an address that it signs.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any
from urllib.parse import quote

import obstore
import requests

from pipeline.storage.http import TIMEOUT, session
from pipeline.storage.retry import asked_to_wait
from pipeline.storage.uri import scheme

BUSY = (429, 503)
GOOGLE = "https://storage.googleapis.com"
_VALID = timedelta(minutes=5)


def asked_for(store: Any, key: str, uri: str) -> float:
    """Seconds that the storage asks to be left alone for; 0 if it does not say, or is no longer busy."""
    address = _address(store, key, uri)
    if address is None:
        return 0.0
    try:
        with session().get(address, headers={"Range": "bytes=0-0"}, stream=True, timeout=TIMEOUT) as answer:
            return asked_to_wait(answer.headers) if answer.status_code in BUSY else 0.0
    except requests.RequestException:
        return 0.0


def _address(store: Any, key: str, uri: str) -> str | None:
    """A signed address; one without a signature where Google's storage is used without one or by a token."""
    if scheme(uri) == "gs" and (os.environ.get("GOOGLE_BEARER_TOKEN") or os.environ.get("GOOGLE_SKIP_SIGNATURE")):
        return f"{os.environ.get('GOOGLE_BASE_URL', GOOGLE).rstrip('/')}/{uri.split('/')[2]}/{quote(key)}"
    try:
        return obstore.sign(store, "GET", key or "-", _VALID)
    except Exception:  # without a key there is nothing to sign with
        return None
