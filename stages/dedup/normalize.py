"""What two texts are compared by: the named normalizations, and the table that their kernels run on.

- `none`: the text as it is.
- `whitespace`: runs of white space become one space, and the ends are stripped.
- `simple`: datatrove's `simplify_text` with its defaults (utils/text.py): lower case; numbers, with one decimal
  separator, become 0; punctuation and control characters become spaces; runs of white space become one space;
  canonical decomposition (NFD) without nonspacing marks.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import unicodedata
import zipfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np

from stages.kernels.normalize import (
    CASED,
    DIGIT,
    DROP,
    EMIT,
    IGNORABLE,
    LENGTH_MASK,
    LENGTH_SHIFT,
    PLACE_SHIFT,
    SEPARATOR,
    SIGMA,
    SPACE,
    simplify,
    squeeze_space,
)
from stages.kernels.stored import kernel_root

Normalization = Literal["none", "whitespace", "simple"]

UNICODE_VERSION = unicodedata.unidata_version  # belongs to the settings that a result depends on

# The characters that datatrove turns into spaces (PUNCTUATION in its utils/text.py), ordered by code point.
PUNCTUATION = (
    "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~«´»–—’“”„…►、。〈〉《》「」【】！％（），．１：；？～∶━"
    + "".join(chr(c) for a, b in ((0, 9), (11, 13), (13, 32), (127, 160)) for c in range(a, b))
)
DECIMAL_SEPARATORS = ".,،٫⎖⎗⎘"


@lru_cache(maxsize=2)
def simple_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(page of each block of 256 code points, entries, bytes to emit) for the kernel `simplify`."""
    pages, entries, emissions = _stored("simple", _simple_table)
    return pages, entries, emissions


def _stored(name: str, build: Callable[[], tuple[np.ndarray, ...]]) -> tuple[np.ndarray, ...]:
    """A table that takes a good part of a second to build, built once a machine and kept beside the kernels."""
    source = hashlib.blake2b(Path(__file__).read_bytes() + UNICODE_VERSION.encode(), digest_size=8).hexdigest()
    path = kernel_root() / f"table-{name}-{source}.npz"
    try:
        with np.load(path) as found:
            return tuple(found[key] for key in found.files)
    except (OSError, EOFError, ValueError, zipfile.BadZipFile):  # not there yet, or damaged
        table = build()
    with contextlib.suppress(OSError):  # a cache that cannot be written is no reason to stop
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.stem}.{os.getpid()}.part.npz")
        np.savez(part, *table)
        part.replace(path)
    return table


def _simple_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    punctuation, separators = frozenset(PUNCTUATION), frozenset(DECIMAL_SEPARATORS)
    emissions = bytearray(256)  # the first 256 places are never read: a single byte is its own place
    places: dict[bytes, int] = {}

    def entry(c: str) -> int:
        lower = c.lower()
        flags = (SEPARATOR if lower in separators else 0) | _case_flags(c)
        if unicodedata.category(lower[0]) == "Nd":  # before punctuation: the list has a digit
            return DIGIT | flags
        if any(x.isspace() or x in punctuation for x in lower):
            return SPACE | flags
        lowers = (lower, "ς") if c == "Σ" else (lower,)  # the form at a word's end stands behind the other
        forms = [_without_marks(x).encode("utf-8", "surrogatepass") for x in lowers]
        if not forms[0]:
            return DROP | flags
        if len(forms[0]) > min(3 * len(c.encode("utf-8", "surrogatepass")), LENGTH_MASK):
            raise ValueError(f"U+{ord(c):04X} becomes longer than the kernel provides for")
        if forms == [c.encode("utf-8", "surrogatepass")] and len(forms[0]) > 1:
            return EMIT | flags  # of length 0: the character's own bytes
        if len(forms[0]) == 1:
            place = forms[0][0]
        else:
            place = places.setdefault(b"".join(forms), len(emissions))
            if place == len(emissions):
                emissions.extend(b"".join(forms))
        sigma = SIGMA if c == "Σ" else 0
        return EMIT | flags | sigma | len(forms[0]) << LENGTH_SHIFT | place << PLACE_SHIFT

    pages, table = _paged(entry, _is_plain)
    return pages, table, np.frombuffer(bytes(emissions), np.uint8)


@lru_cache(maxsize=2)
def space_table() -> tuple[np.ndarray, np.ndarray]:
    """(page of each block of 256 code points, entries) for `squeeze_space`: str.isspace() characters are SPACE."""
    return _paged(lambda c: SPACE if c.isspace() else EMIT, lambda some: "".join(some.split()) == some)


def _paged(entry: Callable[[str], int], is_plain: Callable[[str], bool]) -> tuple[np.ndarray, np.ndarray]:
    """A two-stage table over all code points: equal pages are stored once.

    `is_plain`: whether a page of characters needs no look at each of them, all being EMIT.
    """
    pages = np.zeros(0x1100, np.uint16)
    known: dict[bytes, int] = {}
    stored: list[np.ndarray] = []
    for page in range(0x1100):
        characters = "".join(map(chr, range(page << 8, (page + 1) << 8)))
        values = np.array([EMIT] * 256 if is_plain(characters) else [entry(c) for c in characters], np.uint32)
        pages[page] = known.setdefault(values.tobytes(), len(stored))
        if pages[page] == len(stored):
            stored.append(values)
    return pages, np.concatenate(stored)


def _is_plain(characters: str) -> bool:
    """All are letters without case (Latin-1's two ordinal signs are of this category, and cased), or unassigned."""
    return (
        ord(characters[0]) > 0xFF
        and set(map(unicodedata.category, characters)) <= {"Lo", "Cn", "Co", "Cs"}
        and unicodedata.normalize("NFD", characters) == characters
    )


def _without_marks(text: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")


def _case_flags(c: str) -> int:
    """Cased and case-ignorable, as str.lower() sees them: read off what it makes of a sigma behind the character."""
    if (c + "Σ").lower()[-1] == "ς":
        return CASED
    return IGNORABLE if ("A" + c + "Σ").lower()[-1] == "ς" else 0


def normalize(data: np.ndarray, offsets: np.ndarray, how: Normalization) -> tuple[np.ndarray, np.ndarray]:
    """The texts normalized: bytes, followed by at least 16 bytes of any value (`none`: by none), and n + 1 offsets."""
    if how == "none":
        return data, offsets
    size = int(offsets[-1] - offsets[0])
    out_offsets = np.empty(len(offsets), np.int64)
    if how == "whitespace":
        out = np.empty(size + 16, np.uint8)
        squeeze_space(data, offsets, *space_table(), out, out_offsets)
        return out, out_offsets
    out = np.empty(3 * size + 16, np.uint8)  # pages never written take no memory
    simplify(data, offsets, *simple_table(), out, out_offsets)
    return out, out_offsets
