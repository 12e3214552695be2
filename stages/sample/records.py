"""The seven sources' records, before they are written: one type for all text sources, and how text is set as LaTeX."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

DATE = "2024-01-01T00:00:00.000Z"  # stands where the originals have the time of collection


@dataclass(frozen=True)
class Record:
    """A document of a text source; `meta` holds what its source keeps beside the text."""

    id: str
    text: str
    meta: dict[str, Any] = field(default_factory=dict)
    planted: str | None = None


_MATH_BLOCK = re.compile(r"^( *)\.\. math::[ \t]*(.*)\n((?:(?:\1 +.*)?\n)*)", re.M)
_MATH_ROLE = re.compile(r":math:`([^`]+)`")
_ROLE = re.compile(r":\w+(?::\w+)?:`~?([^`<]+)(?: <[^`>]+>)?`")
_CODE = re.compile(r"``([^`]+)``")
_HEADING = re.compile(r"^(\S.*)\n([-=~^])\2{2,}[ \t]*$", re.M)
_EXAMPLE = re.compile(r"^(?: *>>> .*\n(?: *\S.*\n)*\n?)+", re.M)
_SPECIAL = re.compile(r"([&%#_])")


def _formula(match: re.Match[str]) -> str:
    lines = [match[2], *match[3].split("\n")]
    return " ".join(line.strip() for line in lines if line.strip())


def with_dollars(text: str) -> str:
    """reStructuredText with its formulas between dollar signs, as pages of mathematics write them."""
    text = _MATH_BLOCK.sub(lambda match: f"\n$$ {_formula(match)} $$\n\n", text + "\n")
    text = _MATH_ROLE.sub(r"$\1$", text)
    return _CODE.sub(r"\1", _ROLE.sub(r"\1", text)).strip() + "\n"


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text)


def latex(title: str, sections: list[tuple[str, str]]) -> str:
    """LaTeX source of an article of (name, reStructuredText) sections."""
    parts = [f"\\section{{{_escaped(title)}}}"]
    for name, text in sections:
        parts.append(f"\\subsection{{{_escaped(name)}}}\n{_latex_body(text)}")
    return "\n\n".join(parts) + "\n"


def _latex_body(text: str) -> str:
    kept: list[str] = []

    def keep(piece: str) -> str:
        kept.append(piece)
        return f"\x02{len(kept) - 1}\x03"

    text = _EXAMPLE.sub(lambda m: keep(f"\\begin{{verbatim}}\n{m[0].strip()}\n\\end{{verbatim}}") + "\n\n", text + "\n")
    text = _MATH_BLOCK.sub(lambda m: keep(f"\\begin{{equation}}\n{_formula(m)}\n\\end{{equation}}") + "\n\n", text)
    text = _MATH_ROLE.sub(lambda m: keep(f"${m[1]}$"), text)
    text = _CODE.sub(lambda m: keep(f"\\texttt{{{_escaped(m[1])}}}"), _ROLE.sub(r"\1", text))
    text = _HEADING.sub(lambda m: f"\\paragraph{{{m[1]}}}", text)
    text = _escaped(text)
    while "\x02" in text:
        text = re.sub("\x02(\\d+)\x03", lambda m: kept[int(m[1])], text)
    return text.strip()
