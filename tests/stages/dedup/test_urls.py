"""URLs that name one page are brought to one form, and no others."""

from __future__ import annotations

import pyarrow as pa
import pytest

from stages.dedup.urls import normalize_urls

CASES = [
    ("http://Example.ORG/Path/", "example.org/Path"),
    ("https://www.example.org:443/Path#part", "example.org/Path"),
    (" https://user:secret@example.org./a?b=C&d ", "example.org/a?b=C&d"),
    ("//example.org", "example.org"),
    ("example.org:8080/", "example.org:8080"),
    ("http://example.org?q=1", "example.org?q=1"),
    ("http://example.org/?q=1", "example.org?q=1"),
    ("http://example.org/a//", "example.org/a"),
    ("http://example.org/@name/x", "example.org/@name/x"),
    ("http://example.org/go?to=http://other.org/", "example.org/go?to=http://other.org"),
    ("http://wwwx.org/WWW.a", "wwwx.org/WWW.a"),
    ("", ""),
    (None, None),
]


@pytest.mark.parametrize(("url", "form"), CASES)
def test_form(url, form) -> None:
    assert normalize_urls(pa.array([url], pa.large_string()), False).to_pylist() == [form]


def test_query_may_be_dropped() -> None:
    urls = pa.array(["http://a.org/x?y#z", "http://a.org/?", "a.org"], pa.large_string())
    assert normalize_urls(urls, True).to_pylist() == ["a.org/x", "a.org", "a.org"]
