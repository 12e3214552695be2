"""Quantities as people write them in a recipe (`256MiB`, `5.133T`) and as tables show them."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

_COUNT = {"": 1, "K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def _read(value: Any, units: dict[str, int], example: str) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*([0-9][0-9_]*\.?[0-9]*(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", value)
    if not match or match[2].upper() not in units:
        raise ValueError(f"not a quantity: write it like {example}")
    return round(float(match[1].replace("_", "")) * units[match[2].upper()])


def _read_count(value: Any) -> Any:
    return _read(value, _COUNT, "4.07T, 100B or 5e9")


def _read_bytes(value: Any) -> Any:
    return _read(value, _BYTES, "256MiB, 1GB or 4096")


Count = Annotated[int, BeforeValidator(_read_count, json_schema_input_type=int | float | str)]
"""A whole number of things (tokens, documents); K, M, B and T are powers of ten."""

Bytes = Annotated[int, BeforeValidator(_read_bytes, json_schema_input_type=int | float | str)]
"""A number of bytes; MB is 10^6, MiB is 2^20."""

UNITS: dict[Any, str] = {_read_count: "count (5e9, 100B)", _read_bytes: "size (256MiB)"}
"""What each of the two takes, by the function that reads it."""


def show_count(n: float) -> str:
    """1,234 as is, larger with K, M, B, T and three figures."""
    if abs(n) < 10_000:
        return f"{n:,.0f}"
    for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6), ("K", 1e3)):
        if abs(n) >= size:
            return f"{n / size:.3g}{unit}" if abs(n) < 999.5 * size else f"{n / size:.0f}{unit}"
    return f"{n:,.0f}"


def show_bytes(n: float) -> str:
    """Bytes with a decimal unit and three figures: `31.4 MB`."""
    for unit, size in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(n) >= size:
            return f"{n / size:.3g} {unit}" if abs(n) < 999.5 * size else f"{n / size:.0f} {unit}"
    return f"{n:.0f} B"


def show_seconds(s: float) -> str:
    """`0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if s < 10:
        return f"{s:.1f} s"
    if s < 90:
        return f"{s:.0f} s"
    if s < 5400:
        return f"{s // 60:.0f} min {s % 60:02.0f} s"
    return f"{s // 3600:.0f} h {s % 3600 // 60:02.0f} min"
