"""The charset that a page declares in itself: in a <meta>, or in an XML declaration.

Follows the HTML standard's "prescan a byte stream to determine its encoding", over more bytes than its 1,024.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

HEAD_BYTES = 32 << 10  # how far a declaration is looked for: browsers take one that comes late, and begin again

_COMMENT = re.compile(rb"<!--.*?(?:-->|\Z)", re.DOTALL)
_META = re.compile(rb"<meta[\s/]((?:[^>\"']|\"[^\"]*\"|'[^']*')*)", re.IGNORECASE)
_ATTRIBUTE = re.compile(rb"(?<![^\s\"'/])([^\s\"'>/=]++)\s*+=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")
_CONTENT = re.compile(rb"charset\s*=\s*[\"']?\s*([^\s\"';,]+)", re.IGNORECASE)
_CONTENT_TYPE = re.compile(rb"\s*(?:text|application)/[\w.+-]+\s*;", re.IGNORECASE)
_XML = re.compile(rb"\s*<\?xml\b[^>]*?\bencoding\s*=\s*[\"']([^\"'>]+)", re.IGNORECASE)


def declared_in_page(data: bytes) -> Iterator[str]:
    """The charset labels that a page declares, the most binding first; whether they are known is not looked at."""
    head = data[:HEAD_BYTES]
    for meta in _META.finditer(_COMMENT.sub(b"", head)):
        if label := _of_meta(meta[1]):
            yield label.decode("latin-1")
    if found := _XML.match(head):
        yield found[1].decode("latin-1")


def _of_meta(attributes: bytes) -> bytes | None:
    """The charset that one <meta> declares. That a `content` only speaks of a charset does not count."""
    if b"charset" not in attributes.lower():
        return None
    values: dict[bytes, bytes] = {}
    for name, *value in _ATTRIBUTE.findall(attributes):
        values.setdefault(name.lower(), b"".join(value))
    if b"charset" in values:
        return values[b"charset"]
    content = values.get(b"content", b"")
    if values.get(b"http-equiv", b"").strip().lower() == b"content-type" or _CONTENT_TYPE.match(content):
        found = _CONTENT.search(content)
        return found[1] if found else None
    return None
