"""Quantities as people write them: 1B, 4.2M, 80GB."""

from __future__ import annotations

import re
from decimal import Decimal

COUNT = {"K": 10**3, "M": 10**6, "B": 10**9, "T": 10**12}
BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def quantity(text: str, units: dict[str, int] = COUNT) -> int:
    """The whole number that a text such as 1B, 2.5T or 80GB says; a plain one such as 1_000 or 5e9 too.

    Raises ValueError, with what to write, for a text that says none.
    """
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    unit = match[2].upper() if match else ""
    if match is None or (unit and unit not in units):
        raise ValueError(f"not a quantity: write a number, or one with {', '.join(units)}")
    value = Decimal(match[1].replace("_", "")) * units.get(unit, 1)
    if value != value.to_integral_value():
        raise ValueError("not a whole number")
    return int(value)
