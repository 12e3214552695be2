"""What kernels must know of a code point: its word-break class and what Python's `str` methods say of it, in one table.

`code_points()` is a flat uint16 table with one entry a code point; a kernel takes it as a `const_uint16` argument:

    bits 0..4   Word_Break class (the constants below)              Unicode 16.0, from the package uniseg
    bit  5      Extended_Pictographic                               Unicode 16.0, from the package uniseg
    bits 6..11  str.isalnum, isalpha, isspace, isupper, isdigit, isdecimal

The values are kept in `unicode_data.py`, so that a run gives the same bytes whatever Python or Unicode version a
machine has. `python -m stages.kernels.unicode_tables` writes that file again from the installed uniseg and the running
Python; do that when the Unicode version that uniseg follows moves on.
"""

from __future__ import annotations

import base64
import functools
import sys
import textwrap
import unicodedata
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from stages.kernels.unicode_data import RUNS

CODE_POINTS = 0x110000

OTHER, CR, LF, NEWLINE, EXTEND, ZWJ, REGIONAL_INDICATOR, FORMAT, KATAKANA, HEBREW_LETTER = range(10)
ALETTER, SINGLE_QUOTE, DOUBLE_QUOTE, MIDNUMLET, MIDLETTER, MIDNUM, NUMERIC, EXTENDNUMLET, WSEGSPACE = range(10, 19)

CLASS = 0x1F
PICTOGRAPHIC, ALNUM, ALPHA, SPACE, UPPER, DIGIT, DECIMAL = (1 << bit for bit in range(5, 12))


@functools.cache
def code_points() -> np.ndarray:
    """The table: uint16[1114112], read-only, indexed by code point."""
    numbers = _read_varints(zlib.decompress(base64.b85decode(RUNS)))
    lengths, values = numbers[0::2], numbers[1::2]
    table = np.repeat(values, lengths).astype(np.uint16)
    if len(table) != CODE_POINTS:
        raise ValueError(f"stages/kernels/unicode_data.py is damaged: it has {len(table)} code points")
    table.flags.writeable = False
    return table


def _read_varints(data: bytes) -> np.ndarray:
    """Numbers written seven bits a byte, low bits first, the high bit set on all bytes of a number but its last."""
    raw = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(raw < 0x80)
    starts = np.concatenate([[0], ends[:-1] + 1])
    place = np.arange(len(raw)) - np.repeat(starts, ends - starts + 1)
    return np.add.reduceat((raw & 0x7F).astype(np.int64) << (7 * place), starts)


def _write_varints(numbers: np.ndarray) -> bytes:
    out = bytearray()
    for number in numbers.tolist():
        while number >= 0x80:
            out.append(number & 0x7F | 0x80)
            number >>= 7
        out.append(number)
    return bytes(out)


def compute(points: Sequence[int] = range(CODE_POINTS)) -> np.ndarray:
    """The table's entries for `points`, computed anew from the installed uniseg and the running Python (seconds)."""
    from uniseg.emoji import extended_pictographic
    from uniseg.wordbreak import word_break

    tests = ["isalnum", "isalpha", "isspace", "isupper", "isdigit", "isdecimal"]
    table = np.zeros(len(points), np.uint16)
    for place, point in enumerate(points):
        char = chr(point)
        value = globals()[word_break(char).name] | extended_pictographic(char) << 5
        for bit, test in enumerate(tests, start=6):
            value |= getattr(char, test)() << bit
        table[place] = value
    return table


def main() -> None:
    """Write unicode_data.py."""
    import uniseg

    table = compute()
    starts = np.concatenate([[0], np.flatnonzero(np.diff(table)) + 1])
    lengths = np.diff(np.append(starts, CODE_POINTS))
    numbers = np.stack([lengths, table[starts].astype(np.int64)], axis=1).ravel()
    text = base64.b85encode(zlib.compress(_write_varints(numbers), 9)).decode()
    lines = "\n".join(f'    "{line}"' for line in textwrap.wrap(text, 110))
    head = f"""All code points' properties as runs (length, value), by `python -m stages.kernels.unicode_tables`.

Word_Break and Extended_Pictographic: Unicode {uniseg.unidata_version}, from uniseg {uniseg.__version__}.
The str methods: Unicode {unicodedata.unidata_version}, from Python {sys.version.split()[0]}.
"""
    Path(__file__).with_name("unicode_data.py").write_text(f'"""{head}"""\n\nRUNS = (\n{lines}\n)\n')


if __name__ == "__main__":
    main()
