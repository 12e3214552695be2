"""Elements of HTML and SVG as text, everything escaped that is not an element; and numbers as the page shows them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import Any

from stages.units import show_bytes, show_count, show_seconds

VOID = frozenset(("br", "col", "link", "meta", "wbr"))
THIN = "\u202f"  # narrow no-break space: between groups of digits, and before a unit

# What a document may hold and a page should not act on: C0 controls are shown by their pictures, other controls, marks that
# turn the writing direction, surrogates and noncharacters by the replacement character.
_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {127: 0x2421}
_UNWANTED = re.compile("[\x80-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


class Html(str):
    """Markup that may stand in the page as it is."""

    __slots__ = ()


Child = Any  # Html, text or a number (escaped), None (nothing), or an iterable of these


def visible(text: str) -> str:
    """Text without characters that act instead of being seen."""
    return _UNWANTED.sub("\ufffd", text.translate(_PICTURES))


def render(child: Child) -> Html:
    """Anything that may stand in an element, as markup."""
    if isinstance(child, Html):
        return child
    if child is None:
        return Html("")
    if isinstance(child, str):
        return Html(escape(visible(child), quote=True))
    if isinstance(child, Iterable):
        return Html("".join(map(render, child)))
    return Html(escape(str(child), quote=True))


def tag(name: str, /, *children: Child, **attributes: Any) -> Html:
    """An element. `class_` is class, `_` in a name is `-`; an attribute that is None or False is left out, True stands alone."""
    parts = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is True:
            parts.append(key)
        elif value is not None and value is not False:
            parts.append(f'{key}="{render(str(value))}"')
    opening = " ".join(parts)
    if name in VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{render(children)}</{name}>")


def breakable(name: str) -> list[Html]:
    """A name of steps and measures that may be broken after its dots and underscores."""
    return [Html(f"{render(piece)}<wbr>") for piece in re.findall(r"[^._/]*[._/]?", name) if piece]


def anchor(*names: str) -> str:
    """A fragment's name of letters, digits and hyphens."""
    return "-".join(re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") for name in names)


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
