"""How the page's templates show numbers, names and texts."""

from __future__ import annotations

import re
from typing import Any

from markupsafe import Markup, escape

from stages.units import show_bytes, show_count, show_seconds

THIN = "\u202f"  # narrow no-break space: between groups of digits, and before a unit
NAME_CHARS = 300  # of an id, a URL or a value that is a string

# What a document may hold and a page should not act on: C0 controls are shown by their pictures, other controls, marks that
# turn the writing direction, surrogates and noncharacters by the replacement character.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_UNWANTED = re.compile("[\x80-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def visible(value: Any) -> Any:
    """Text without characters that act instead of being seen, nothing for None; markup and all else as it is."""
    if value is None:
        return ""
    if isinstance(value, str) and not isinstance(value, Markup):
        return _UNWANTED.sub("\ufffd", value.translate(_PICTURES))
    return value


def breakable(name: str) -> Markup:
    """A name of steps and measures that may be broken after its dots and underscores."""
    return Markup("").join(escape(visible(piece)) + Markup("<wbr>") for piece in re.findall(r"[^._/]*[._/]?", name) if piece)


def anchor(*names: str) -> str:
    """A fragment's name of letters, digits and hyphens."""
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") for name in names)


def clip(text: str, chars: int = NAME_CHARS) -> str:
    """The beginning of a long text."""
    return text if len(text) <= chars else text[:chars] + "…"


def shown(v: Any) -> str:
    """A measured value or a side of its limit, whatever its kind."""
    if isinstance(v, list):
        return clip(" or ".join(map(str, v)))
    return clip(v) if isinstance(v, str) else value(v)


def count(n: float) -> str:
    """A whole number, its digits in groups."""
    return f"{round(n):,}".replace(",", THIN)


def many(n: int, one: str) -> str:
    """So many of something: `1 reason`, `2 reasons`."""
    return f"{count(n)} {one}" if n == 1 else f"{count(n)} {one}s"


def short(n: float) -> str:
    """A count with three figures."""
    return show_count(n).replace(",", THIN)


def size(n: float | None) -> str:
    """Bytes with a unit."""
    return "" if n is None else show_bytes(n).replace(" ", THIN)


def seconds(n: float) -> str:
    """A time with its units."""
    if n < 0.1:
        return f"{1000 * n:.0f}{THIN}ms"
    return show_seconds(n).replace(" ", THIN)


def share(part: float, whole: float) -> str:
    """A percentage that tells nothing and everything from nearly so."""
    if not whole:
        return "–"
    percent = 100 * part / whole
    if 0 < percent < 0.1:
        return "<0.1%"
    if 99.9 < percent < 100:
        return ">99.9%"
    return f"{percent:.0f}%" if percent in (0, 100) else f"{percent:.1f}%"


def value(n: float | str | None) -> str:
    """A measured value or a limit, four figures; whole ones with their digits in groups."""
    if n is None:
        return "–"
    if isinstance(n, str | bool):
        return str(n)
    if 1000 <= abs(n) < 1e15 or (abs(n) < 1000 and float(n).is_integer()):
        return count(n)
    return f"{n:.4g}"


def rate(amount: int | None, time: float) -> str:
    """Bytes a second."""
    return f"{size(amount / time)}/s" if amount is not None and time > 0 else "–"
