"""What commands print of other people's text: ids, file names and documents come from anywhere, and may hold escape sequences.

A terminal takes these for orders: to move the cursor and overwrite what was said, to change its title, to answer as if
someone had typed. They are printed as `\\x1b`, `\\u202e` and the like; all other text is left as it is.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import msgspec
import orjson

Value = TypeVar("Value")

# C0 and C1 controls and DEL; line and paragraph separators; embeddings, overrides and isolates, which turn text around;
# lone surrogates.
_ORDERS = "\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINE = re.compile(f"[{_ORDERS}]")
_IN_TEXT = re.compile(f"(?![\n\t])[{_ORDERS}]")
TEXTS = frozenset(("text", "before", "after", "diff", "traceback"))
"""Keys under which commands report texts of several lines."""


def printable(text: str, *, lines: bool = False) -> str:
    """The text with characters that a terminal would obey as escapes. lines: ends of lines and tabs stay."""
    return (_IN_TEXT if lines else _IN_LINE).sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found.group())
    known = {10: "\\n", 9: "\\t", 13: "\\r"}.get(code)
    return known or (f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}")


def printable_all(value: Value, *, lines: bool = False) -> Value:
    """What a command found (JSON values, structs, dataclasses), each string and key in it printable.

    Strings under a key or field named in TEXTS keep their lines.
    """
    found: Any = value
    if isinstance(value, str):
        found = printable(value, lines=lines)
    elif isinstance(value, Mapping):
        found = {printable(str(k)): printable_all(item, lines=k in TEXTS) for k, item in value.items()}
    elif isinstance(value, list | tuple):
        found = [printable_all(item, lines=lines) for item in value]
    elif isinstance(value, msgspec.Struct):
        found = msgspec.structs.replace(value, **_printable_fields(value, value.__struct_fields__))
    elif is_dataclass(value) and not isinstance(value, type):
        found = replace(value, **_printable_fields(value, [one.name for one in fields(value)]))
    return found


def _printable_fields(value: Any, names: Iterable[str]) -> dict[str, Any]:
    return {name: printable_all(getattr(value, name), lines=name in TEXTS) for name in names}


def print_json(value: Any) -> None:
    """Print JSON values or structs as JSON; characters that a terminal would obey are written as \\uXXXX."""
    text = orjson.dumps(value, default=msgspec.to_builtins, option=orjson.OPT_INDENT_2).decode()
    sys.stdout.write(_IN_TEXT.sub(lambda found: f"\\u{ord(found.group()):04x}", text) + "\n")
