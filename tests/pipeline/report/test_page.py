"""The report's page is one safe file that says what the figures say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from reported import check_html, figures

from pipeline import storage
from pipeline.cli import main
from pipeline.report.filters import anchor, breakable, share, value, visible
from pipeline.report.gather import gather
from pipeline.report.page import page


def test_the_page_is_well_formed_and_fetches_and_runs_nothing(html: str) -> None:
    checker = check_html(html)
    assert checker.elements["svg"] > 30 and checker.elements["title"] > 15
    assert "default-src 'none'" in html


def test_hostile_documents_are_text(finished: str) -> None:
    html = page(gather(finished, each=100, chars=100_000)).decode()
    seen = "".join(check_html(html).seen)
    assert (
        '<script>alert("1")</script>' in seen and '"><script>alert(3)</script>' in seen and "<b>no vowels</b>" in seen
    )
    assert not re.search(
        "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ufffe\uffff\ud800-\udfff]", html
    )
    assert "␀␇␛[31m" in seen
    assert "x" * 400 not in seen  # an id of thousands of letters is cut


def test_the_page_says_the_sums(html: str, found: dict[str, Any]) -> None:
    seen = "".join(check_html(html).seen).replace("\u202f", "")
    total = found["totals"]
    assert "The ledger balances." in seen
    kept, dropped, failed = (total[kind]["documents"] for kind in ("kept", "dropped", "failed"))
    assert f"{total['in']['documents']} documents in = {kept} kept + {dropped} dropped + {failed} failed" in seen
    assert found["fingerprint"] in seen


def test_the_page_stays_within_its_size(finished: str) -> None:
    found = gather(finished)
    whole = len(page(found))
    small = page(found, most_bytes=whole - 10_000)
    assert whole // 2 < len(small) <= whole - 10_000
    check_html(small.decode())
    assert "with them the page would be too large" in page(found, most_bytes=1).decode()


def test_the_same_run_gives_the_same_page(finished: str, html: str) -> None:
    assert page(gather(finished)).decode() == html


def test_the_command_writes_the_page_and_prints_the_figures(
    finished: str, found: dict[str, Any], html: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(["report", finished, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == found
    assert not Path(finished, "report.html").exists()
    assert main(["report", finished]) == 0
    assert "the ledger balances" in capsys.readouterr().out
    assert Path(finished, "report.html").read_text() == html
    assert main(["report", str(tmp_path)]) == 2
    assert main(["report", finished, "--parts", "-1"]) == 2


def test_a_run_on_s3(finished: str, found: dict[str, Any], html: str, s3: Any) -> None:
    out = s3.uri("reported")
    for path in sorted(Path(finished).rglob("*")):
        if path.is_file() and path.name != "report.html":
            storage.write_bytes(storage.join(out, path.relative_to(finished).as_posix()), path.read_bytes())
    assert figures(out) | {"run": None} == found | {"run": None}
    assert main(["report", out]) == 0
    page_there = storage.read_bytes(storage.join(out, "report.html")).decode()
    assert len(page_there) > len(html) // 2 and check_html(page_there)


def test_texts_are_made_visible() -> None:
    assert visible("\ud800a\udfff\x00\r") == "\ufffda\ufffd␀␍"
    assert visible("tab\tand\nline") == "tab\tand\nline"
    visible("\ud800").encode()
    assert breakable("a<b.c_d") == "a&lt;b.<wbr>c_<wbr>d<wbr>"
    assert anchor("m", "c4", "<x> y") == "m-c4-x-y"


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
