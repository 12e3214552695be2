"""Licences by their short names, from links and statements: `cc-by-sa-4.0`, `cc0-1.0`, `public-domain`, `mit`."""

from __future__ import annotations

import re
from collections.abc import Sequence

OTHER = "other"  # a licence, or a statement of rights, that has no name here
_CC_LINK = re.compile(r"creativecommons\.org/(?:licenses/([a-z-]+)(?:/(\d\.\d))?|publicdomain/(zero|mark)(?:/(\d\.\d))?)", re.I)
_CC_CODE = re.compile(r"\bCC[ -]?(BY(?:-NC)?(?:-SA|-ND)?|0|ZERO)\b[ -]?v?(\d\.\d)?", re.I)
_CC_WORDS = re.compile(r"\bCreative\s+Commons\b([^\n]{0,120})", re.I)
_VERSION = re.compile(r"\b(\d\.\d)\b")
_SPDX = re.compile(r"[A-Za-z][\w+]*(?:[.-][\w+]+)*$")
_NAMED = (
    ("gnu free documentation", "gfdl"), ("open government licen", "ogl"), ("open database licen", "odbl"),
    ("apache license", "apache-2.0"), ("mit license", "mit"), ("public domain", "public-domain"), ("unlicense", "unlicense"),
    ("all rights reserved", "all-rights-reserved"), ("alle rechte vorbehalten", "all-rights-reserved"),
    ("tous droits réservés", "all-rights-reserved"), ("todos los derechos reservados", "all-rights-reserved"),
)  # fmt: skip
# What a text says of itself: of licences that are only mentioned, nothing is granted.
_STATEMENT = re.compile(
    r"(?:licen[sc]ed|available|published|released|distributed|shared|reproduced|lizenziert|disponible|publié|sous)\b[^\n]{0,100}?"
    r"(?:under|unter|bajo|sous|per|via|licen[sc]e)\b[^\n]{0,60}?"
    r"((?:Creative\s+Commons\b|CC[ -]?BY\b|CC[ -]?0\b|GNU Free Documentation)[^\n]{0,120})",
    re.I,
)
_DEDICATED = re.compile(r"(?:dedicated|released|placed)\s+(?:in)?to\s+the\s+public\s+domain", re.I)
HINTS = r"(?i)creative\s+commons|\bcc[ -]?(?:by|0)\b|creativecommons\.org|public\s+domain|gnu free documentation"
"""What a text has that says anything `stated_license` knows: an expression in the syntax of re2."""


def license_name(statement: str, *, identifier: bool = False) -> str:
    """The name of the licence that a link or a statement is of; `other` for one that is not known.

    identifier: it may be the identifier of any licence (SPDX's, say), which is its name in lower case.
    """
    if link := _CC_LINK.search(statement):
        code, version, public, public_version = link.groups()
        if public:
            return "public-domain" if public.lower() == "mark" else f"cc0-{public_version or '1.0'}"
        return f"cc-{code.lower()}" + (f"-{version}" if version else "")
    if code := _CC_CODE.search(statement):
        if code[1] == "0" or code[1].lower() == "zero":
            return f"cc0-{code[2] or '1.0'}"
        return f"cc-{code[1].lower()}" + (f"-{code[2]}" if code[2] else "")
    if words := _CC_WORDS.search(statement):
        return _from_words(words[1])
    lower = " ".join(statement.lower().split())
    for words, name in _NAMED:
        if words in lower:
            return name
    return lower if identifier and len(lower) <= 40 and _SPDX.match(lower) else OTHER


def _from_words(text: str) -> str:
    """The licence that words after `Creative Commons` name; `cc` where they name none."""
    lower = text.lower()
    if re.match(r"[\s-]*(?:cc0|zero|0\b)", lower):
        return "cc0-1.0"
    parts = [
        code
        for code, names in (
            ("by", ("attribution", "namensnennung", "by", "reconocimiento", "atribución", "paternité")),
            ("nc", ("noncommercial", "non-commercial", "nc", "nicht kommerziell", "nicht-kommerziell", "no comercial")),
            ("nd", ("noderiv", "no deriv", "no-deriv", "nd", "keine bearbeitung")),
            ("sa", ("sharealike", "share alike", "share-alike", "sa", "weitergabe unter gleichen", "compartirigual")),
        )
        if any(re.search(rf"\b{re.escape(name)}" + (r"\b" if len(name) == 2 else ""), lower) for name in names)
    ]
    if not parts:
        return "cc"
    version = _VERSION.search(text)
    return "-".join(["cc", *parts]) + (f"-{version[1]}" if version else "")


def first_license(names: Sequence[str]) -> str | None:
    """Of a document's licences the first that grants something, else the first; None for none."""
    granted = [name for name in names if name not in (OTHER, "all-rights-reserved")]
    return granted[0] if granted else names[0] if names else None


def stated_license(text: str) -> str | None:
    """The licence under which a text says that it is; None where it says none."""
    if found := _STATEMENT.search(text):
        return license_name(found[1])
    if link := _CC_LINK.search(text):
        return license_name(link[0])
    return "public-domain" if _DEDICATED.search(text) else None
