"""Turns the bytes of a page or text file into characters."""

from __future__ import annotations

import codecs

from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


def decode(data: bytes, declared: str | None = None) -> str:
    """The text of `data`, from the first of these that fits without an error.

    1. a byte order mark; 2. UTF-8 (a last character cut in two is dropped: crawlers cut long pages off);
    3. `declared`, the charset of the HTTP header; 4. the charset of the page's <meta>; 5. Resiliparse's detector,
    where bytes that do not fit are dropped.
    UTF-8 goes before the declarations because text in another encoding is practically never valid UTF-8, while
    declarations are often wrong; escape sequences of ISO-2022, which are, leave it to them.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    if b"\x1b" not in data:
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            if error.reason == "unexpected end of data" and error.start >= len(data) - 3:
                return data[: error.start].decode("utf-8")
    for name in (declared, detect_encoding(data, from_html_meta=True)):
        encoding = map_encoding_to_html5(name.strip(" \"'"), fallback_utf8=False) if name else None
        if encoding:
            try:
                return data.decode(encoding)
            except (UnicodeDecodeError, LookupError):
                continue
    return detect(data)


def detect(data: bytes, declared: str | None = None) -> str:
    """The text of `data` by Resiliparse's detector alone, whatever was declared."""
    return bytes_to_str(data, detect_encoding(data) or "utf-8")
