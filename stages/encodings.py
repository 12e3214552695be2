"""The encodings of the WHATWG Encoding Standard: by their labels (webencodings), and decoded (encoding_rs, through endec)."""

from __future__ import annotations

import codecs
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, lru_cache

import endec
import webencodings

REPLACEMENT = "\ufffd"
UTF16 = frozenset({"utf-16le", "utf-16be"})
MULTI_BYTE = frozenset({"gbk", "gb18030", "big5", "euc-jp", "iso-2022-jp", "shift_jis", "euc-kr"})
# Names of Python that are no labels of the standard; detectors, too, answer with names of Python.
_PYTHON = {
    "big5hkscs": "big5",
    "cp874": "windows-874",
    "cp932": "shift_jis",
    "cp949": "euc-kr",
    "cp950": "big5",
    "euc_jp": "euc-jp",
    "euc_kr": "euc-kr",
    "iso2022_jp": "iso-2022-jp",
    "mac-cyrillic": "x-mac-cyrillic",
    "mac-roman": "macintosh",
}


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text, and how many of its characters were put in place of bytes that mean nothing in its encoding."""

    text: str
    replaced: int = 0

    def without_cut(self) -> Decoded:
        """Without the character that the end of the bytes cut in two: crawlers cut long pages off. It still counts."""
        return Decoded(self.text.removesuffix(REPLACEMENT), self.replaced) if self.replaced else self


@lru_cache(1000)
def name_of(label: str | None) -> str | None:
    """The standard's name of an encoding, lower case; None for a label that neither it nor Python knows."""
    label = label.strip(" \t\r\n\f\"'") if label else ""
    found = webencodings.lookup(label)
    if found is None and label:
        with suppress(LookupError, ValueError):
            python_name = codecs.lookup(label).name
            found = webencodings.lookup(_PYTHON.get(python_name, python_name))
    return found.name.lower() if found else None


@cache
def table_of(name: str) -> str:
    """The characters of the 256 bytes, in an encoding of one byte a character."""
    return endec.decode(bytes(range(256)), name, "replace", bom="ignore")


def decode_as(data: bytes, name: str) -> Decoded:
    """`data` in the encoding of this name."""
    if name == "utf-8":
        text = data.decode("utf-8", "replace")
        return Decoded(text, text.count(REPLACEMENT) - data.count(b"\xef\xbf\xbd"))
    if name.startswith("utf-32"):
        text = data.decode(name, "replace")
    elif name in MULTI_BYTE or name in UTF16:
        try:
            return Decoded(endec.decode(data, name, bom="ignore"))
        except UnicodeError:
            text = endec.decode(data, name, "replace", bom="ignore")
    else:
        text = codecs.charmap_decode(data, "strict", table_of(name))[0]  # type: ignore[arg-type]  ten times as fast
    return Decoded(text, text.count(REPLACEMENT))
