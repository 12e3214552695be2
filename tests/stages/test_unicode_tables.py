"""The table of code points against Python's own str methods."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest

from stages.kernels import unicode_tables
from stages.kernels.unicode_tables import ALNUM, ALPHA, DECIMAL, DIGIT, SPACE, UPPER, code_points

METHODS = {
    ALNUM: "isalnum",
    ALPHA: "isalpha",
    SPACE: "isspace",
    UPPER: "isupper",
    DIGIT: "isdigit",
    DECIMAL: "isdecimal",
}


@pytest.mark.parametrize("bit", METHODS)
def test_properties_are_those_of_str(bit: int) -> None:
    said = np.array([getattr(chr(point), METHODS[bit])() for point in range(unicode_tables.CODE_POINTS)])
    differs = np.flatnonzero(said != (code_points() & bit != 0))
    if unicodedata.unidata_version == "14.0.0":
        assert len(differs) == 0
    else:  # another Unicode version knows more characters, and hardly changes those it knew
        assert len(differs) < 20_000


def test_table_is_what_the_sources_give() -> None:
    uniseg = pytest.importorskip("uniseg")
    if (uniseg.unidata_version, unicodedata.unidata_version) != ("16.0.0", "14.0.0"):
        pytest.skip("uniseg or Python follow another Unicode version than the table")
    points = range(0, unicode_tables.CODE_POINTS, 13)
    assert np.array_equal(unicode_tables.compute(points), code_points()[::13])
