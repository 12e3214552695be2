"""Encodings as the standard for the web has them: held to a decoder that follows it to the letter."""

import random

import endec
import pytest
import webencodings
from hypothesis import given
from hypothesis import strategies as st

from stages.charset import decode
from stages.encodings import MULTI_BYTE, UTF16, Decoded, decode_as


@pytest.mark.parametrize(
    ("raw", "declared", "text", "replaced"),
    [
        (b"\x93caf\xe9\x94 it\x92s", "iso-8859-1", "“café” it’s", 0),  # windows-1252 under the names that it has
        (b"\x93caf\xe9\x94", "us-ascii", "“café”", 0),
        ("Мельница у реки ".encode("windows-1251") + b"\x98", "windows-1251", "Мельница у реки \x98", 0),
        ("Καλημέρα κόσμε ".encode("windows-1253") + b"\xd2", "windows-1253", "Καλημέρα κόσμε ", 1),
        ("שלום עולם ".encode("windows-1255") + b"\xd9!", "windows-1255", "שלום עולם \ufffd!", 1),
        (b"\x8cc\xb9\xe6\xb0\xa2\xc7\xcf", "euc-kr", "똠방각하", 0),  # UHC
        (b"\xad\xbb\xb4\xe4\x9d\xef\x9d\xcf", "big5-hkscs", "香港嘅嘢", 0),
        (b"\xc6\xa1\xf9\xd6", "big5", "①碁", 0),  # ETEN
        (b"\x87\x40\x8a\x94\x8e\xae", "shift_jis", "①株式", 0),  # NEC
        (b"\xad\xa1\xb3\xf4\xbc\xb0", "euc-jp", "①株式", 0),
        (b"\xd6\xd0\xb9\xfa \x80 100", "gbk", "中国 € 100", 0),
        (b"\xd6\xd0\xb9\xfa \x94\x39\xfc\x36", "gb2312", "中国 😀", 0),
        (b"abc \xed\xa0\xbd\xed\xb8\x80 M\xc3\xbchle", "utf-8", "abc \ufffd\ufffd\ufffd\ufffd\ufffd\ufffd Mühle", 6),
    ],
)
def test_encodings_as_the_standard_has_them(raw, declared, text, replaced):
    assert decode(raw, declared) == Decoded(text, replaced)


@given(
    st.lists(
        st.sampled_from([b"\xc3\xa4", b"\xe2\x82\xac", b"\xf0\x9f\x98\x80", b"\xff", b"\xe2\x82", b"a"]), max_size=20
    )
)
def test_replacements_are_those_of_the_standard(parts):
    """Python's decoder of UTF-8, which is used for its speed, replaces what the standard's does."""
    raw = b"".join(parts)
    found = decode_as(raw, "utf-8")
    assert found.text == endec.decode(raw, "utf-8", "replace", bom="ignore")
    assert found.replaced == found.text.count("\ufffd")


@pytest.mark.parametrize("name", sorted(set(webencodings.LABELS.values()) - MULTI_BYTE - UTF16))
def test_encodings_of_one_byte_are_tables(name):
    """One byte a character: so a table does what the decoder does, for any bytes."""
    raw = random.Random(name).randbytes(5000)
    if name not in ("utf-8", "replacement"):
        assert decode_as(raw, name).text == endec.decode(raw, name, "replace", bom="ignore")
