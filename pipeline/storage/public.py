"""Addresses without what gives access: passwords, tokens and signatures.

`public_name` is the name by which documents, messages and the run's folder know a file. It stays the same when an address is
signed anew, and tells files apart by the rest of their query, such as `?id=5`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)([^/?#]*)([^?#]*)(\?[^#]*)?(#.*)?", re.S)
_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"<>]*?(?=[.,;:)\]]*(?:[\s'\"<>]|$))")
# Parameters of signed addresses (AWS, Google, Alibaba, Tencent, CloudFront, Akamai), and names that say what they hold.
_SECRET = re.compile(
    r"x-(amz|goog|oss|cos|ms|bce)-.*|q-sign-.*|q-ak|googleaccessid|key-pair-id|policy|hdnea|hdnts|sig|sign|pass|jwt|hmac"
    r"|(.*[-_.])?(o?auth|authorization)([-_.].*)?|.*(token|secret|passw|pwd|signature|credential|api[-_]?key|access[-_]?key|session).*"
)
# What goes with a signature and changes with it; of an Azure SAS (its signature is `sig`) all of its parameters.
_WITH_SIGNATURE = {"expires", "expiry", "exp", "e"} | {"st", "se", "sp", "sv", "sr", "ss", "srt", "spr", "sip"}
_WITH_SIGNATURE |= {"skoid", "sktid", "skt", "ske", "sks", "skv", "sdd", "saoid", "suoid", "scid", "ses"}
_LONG = 16  # a parameter of this many characters without a name is taken for a token


def public_name(uri: str) -> str:
    """`uri` without user name, password, and the parameters of its query that give access. Paths are left as they are."""
    if uri.startswith("list:"):  # a list of paths, and what part of it is taken
        address, mark, part = uri.removeprefix("list:").partition("#")
        return f"list:{public_name(address)}{mark}{part}"
    found = _ADDRESS.fullmatch(uri)
    if not found:
        return uri
    scheme, authority, path, query, _ = found.groups()
    name = scheme + authority.rpartition("@")[2] + path
    if scheme.lower() not in ("http://", "https://"):
        return name + uri[found.end(3) :]
    kept = _public_parameters(query[1:].split("&")) if query else []
    return name + ("?" + "&".join(kept) if kept else "")


def _public_parameters(parameters: list[str]) -> list[str]:
    named = [(unquote_plus(p.partition("=")[0]).lower(), p) for p in parameters if p]
    harmless = [(name, p) for name, p in named if not _gives_access(name, p)]
    signed = len(harmless) < len(named)
    return [p for name, p in harmless if not (signed and name in _WITH_SIGNATURE)]


def _gives_access(name: str, parameter: str) -> bool:
    _, mark, value = parameter.partition("=")
    if name == "key":  # of an interface, unless it is the key of an object
        return not re.search(r"[./]|%2f", value, re.I)
    return bool(_SECRET.fullmatch(name)) or (not mark and len(parameter) >= _LONG)


def without_secrets(text: str) -> str:
    """A text (an error, say) with all addresses in it by their public names."""
    return _IN_TEXT.sub(lambda found: public_name(found.group()), text) if "://" in text else text


def public(value: Any) -> Any:
    """Plain JSON values with every string that is an address by its public name."""
    if isinstance(value, str):
        return public_name(value) if "://" in value else value
    if isinstance(value, Mapping):
        return {key: public(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [public(item) for item in value]
    return value
