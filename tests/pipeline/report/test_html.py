"""Elements and numbers of the report page: all but elements is escaped, and numbers read well."""

from __future__ import annotations

from pipeline.report.html import Html, render, share, tag, value, visible


def test_everything_but_elements_is_escaped() -> None:
    made = tag("p", "<b>", tag("i", "&", 3), None, ["x", Html("<br>")], title='"><script>', hidden=True, lang=None)
    assert made == '<p title="&quot;&gt;&lt;script&gt;" hidden>&lt;b&gt;<i>&amp;3</i>x<br></p>'
    assert render("\ud800a\udfff\x00\r") == "\ufffda\ufffd␀␍"
    assert visible("tab\tand\nline") == "tab\tand\nline"
    visible("\ud800").encode()


def test_numbers_read_well() -> None:
    assert [value(v) for v in (0.12345678, 12, 1234567.0, 13922.4, None, -0.5)] == [
        "0.1235",
        "12",
        "1\u202f234\u202f567",
        "13\u202f922",
        "–",
        "-0.5",
    ]
    assert [share(*v) for v in ((0, 10), (1, 10_000), (9_999, 10_000), (10, 10), (1, 3), (1, 0))] == [
        "0%",
        "<0.1%",
        ">99.9%",
        "100%",
        "33.3%",
        "–",
    ]
