"""URL removal and newline limits against DCLM's regular expressions, written out over the list of names."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.document import text_array
from stages.filters.limit_newlines import LimitNewlines
from stages.filters.remove_urls import RemoveUrls
from stages.filters.top_level_domains import TOP_LEVEL_DOMAINS

NAMES = "|".join(sorted(map(re.escape, TOP_LEVEL_DOMAINS), reverse=True))  # a longer name before what it begins with
URL = re.compile(
    rf"\s{{0,10}}(?:((https?|ftp)://))?[-a-zA-Z0-9@:%._\+~#=]{{1,256}}\.({NAMES})\b([-a-zA-Z0-9()@:%_\+.~#?&//=]*)"
)
IP = re.compile(r"\s{0,10}\b((https?|ftp)://)?(?:[0-2]?[0-9]{1,2}\.){3}[0-2]?[0-9]{1,2}[-a-zA-Z0-9()@:%_\+.~#?&//=]*")
BEGINNING = re.compile(NAMES, re.IGNORECASE)


def reference(text: str, urls: str = "as_dclm") -> str:
    if urls == "all" or (urls == "as_dclm" and BEGINNING.match(text)):
        text = URL.sub("", text)
    return IP.sub("", text)


def edited(texts: list[str], **settings: object) -> list[str]:
    batch = pa.record_batch({"text": pa.array(texts, pa.large_string())})
    return RemoveUrls(**settings).edit(batch)[0].column("text").to_pylist()


SAMPLES = [
    "",
    "The page at https://www.example.com/path?x=1#y, or example.org. And user@mail.example.net too.",
    "Quoth www.example.com (not removed: no name begins this text)... 10.0.0.1",
    "in  \n\n  http://example.co.uk/a(b)&c end . com .com a.com.b ..com a..com",
    "the address is 192.168.1.254:8080/x, http://10.0.0.1/ and not 1.2.3 or 999.1.1.1 or 1.2.3.4567",
    "the xhttp://1.2.3.4 http://1.2.3.4 é1.2.3.4 ²1.2.3.4 1.2.3.4é 300.300.300.300 299.0.0.1",
    "th " + "x" * 300 + ".com " + "y" * 255 + ".com " + "z" * 256 + ".com/" + "w" * 257 + ".com",
    "th a.рф a.рфя b.みんな, c.vermögensberater d.ישראל\u200e e.ישראל\u200ef g.भारतम् h.भारत i.भारतx",
    "İn a.com",
    "ıt a.com",
    "Кom a.com",
    "КОМ a.com",
    "th\xa0\u3000 \x1c \t\n            a.com",
    "th a.comé b.com_ c.com- d.com1 e.COM f.Com g.com",
    "th a." + "b.com." * 60 + "みんな",
]


@pytest.mark.parametrize("urls", ["as_dclm", "all", "none"])
def test_samples(urls: str) -> None:
    assert edited(SAMPLES, urls=urls) == [reference(text, urls) for text in SAMPLES]


PIECES = [
    "http://",
    "https://",
    "ftp://",
    "www",
    "example",
    ".",
    ".com",
    ".co.uk",
    ".org",
    "/path?x=1",
    "1",
    "2.",
    "192.168.1.1",
]
PIECES += [
    "10.0.0.",
    "255",
    "300",
    " ",
    "\n",
    "\n\n\n",
    "\u3000",
    "\xa0",
    "  ",
    "é",
    ".рф",
    ".みんな",
    ".ישראל\u200e",
    "म्",
    "K",
    "²",
]
PIECES += [
    ".vermögensberater",
    "a",
    "Z",
    "_",
    "-",
    "(",
    ")",
    "@",
    "~",
    "#",
    ":",
    "//",
    "x" * 100,
    "p",
    "s",
    "h",
    "htt",
    "\x1c",
    "٣",
]
PIECES += [".भारत", ",", "…", ".th", "The", "in", "İn", "ı"]


@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=14).map("".join), max_size=6),
    st.sampled_from(["as_dclm", "all", "none"]),
)
@settings(max_examples=400, deadline=None)
def test_texts_of_parts_of_urls(texts: list[str], urls: str) -> None:
    assert edited(texts, urls=urls) == [reference(text, urls) for text in texts]


@given(st.text(max_size=60))
@settings(max_examples=200, deadline=None)
def test_any_text(text: str) -> None:
    assert edited([text]) == [reference(text)]


def test_what_was_removed_is_counted() -> None:
    batch = pa.record_batch({"text": pa.array(["the a.com b.org 1.2.3.4", "x a.com", ""], pa.large_string())})
    assert RemoveUrls().edit(batch)[1]["removed"].tolist() == [3, 0, 0]
    assert RemoveUrls(urls="none", ip_addresses=False).edit(batch)[0].column("text") == batch.column("text")


@pytest.mark.parametrize(
    "piece", ["a.com,", ".", "a.", "1.", "1.2.3 ", " ", "a.comé ", "http://", "x" * 300 + ".com ", ".é", "\n"]
)
def test_adversarial_texts_take_linear_time(piece: str) -> None:
    text = "the " + piece * (2_000_000 // len(piece))
    start, end = text[: len(piece) * 50 + 4], "a.com"
    assert edited([start + end, text])[0] == reference(start + end)


def test_bytes_that_are_not_utf8_do_no_harm() -> None:
    raw = [
        b"th\xed\xa0\x80e www.x.com\xed\xb0\x80 y",
        b"\xff\xfe\xf0",
        b"in a.\xe2\x80",
        np.random.default_rng(0).bytes(5000),
    ]
    column = text_array(np.frombuffer(b"".join(raw), np.uint8), np.cumsum([0, *map(len, raw)]))
    batch, found = RemoveUrls().edit(pa.record_batch({"text": column}))
    assert batch.num_rows == 4
    assert found["removed"][0] == 1


@given(st.text(st.sampled_from("\na é\r"), max_size=30), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_newlines_are_limited(text: str, most: int) -> None:
    batch = pa.record_batch({"text": pa.array(["\n" * 9, text, "\n"], pa.large_string())})
    out = LimitNewlines(max_consecutive=most).edit(batch)[0].column("text").to_pylist()
    runs = re.compile(f"\n{{{most + 1},}}")
    assert out == [runs.sub("\n" * most, value) for value in ("\n" * 9, text, "\n")]
