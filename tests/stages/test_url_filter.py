"""The URL filters against DCLM's rules, written out with urllib and re."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.chain import Chain
from stages.document import DOCUMENT
from stages.errors import InputError, UserError
from stages.filters.url_filter import MEASURES, UrlFilter
from stages.steps import STEPS

LISTS = {
    "domains": ("bad.example", ".evil.example", "user@bad.example:80", "ünı.example"),
    "strict": ("casino", "cas", "sinox", "ïx", "xx"),
    "hard": ("sex", "sexual", "c++", "été", "a", "-b-"),
    "soft": ("web", "cam", "webcam", "cam2", "live"),
}


def reference(url: str, lists: dict[str, tuple[str, ...]], bare: bool = False) -> list[int]:
    host = urlparse(url).netloc.lower()
    domains = {line.lower() for line in lists["domains"]}
    if bare:
        domains = {bare_host(line) for line in domains}
    counts = [int((bare_host(host) if bare else host.replace("www", "")) in domains - {""})]
    for name, removed, wrap in (("strict", "-.", ""), ("hard", "", r"\b"), ("soft", "", r"\b")):
        text = "".join(c for c in url.lower() if c not in removed)
        words = sorted({word.lower() for word in lists[name]}, key=len, reverse=True)
        pattern = f"{wrap}(?:{'|'.join(map(re.escape, words))}){wrap}"
        counts.append(len(set(re.findall(pattern, text))) if words else 0)
    return counts


def bare_host(host: str) -> str:
    return re.sub(r"\.$", "", re.sub(r"^www\.(?=.)", "", re.sub(r":[0-9]*$", "", host.rsplit("@", 1)[-1])))


def measured(urls: list[str | None], **fields: object) -> list[list[int | None]]:
    step = UrlFilter.model_validate(fields)
    found = step.measure(pa.record_batch({"url": pa.array(urls, pa.large_string())}))
    return [list(row) for row in zip(*(found[name].to_pylist() for name in MEASURES), strict=True)]


SAMPLES = [
    "",
    "http://bad.example/x",
    "https://www.bad.example/",
    "https://www.evil.example/",
    "https://wwwbad.example",
    "HTTP://BAD.EXAMPLE?x",
    "http://user@bad.example:80#x",
    "http://bad.example.org/bad.example",
    "//bad.example/",
    "bad.example/",
    "1http://bad.example/",
    " ht\ttp://bad.ex\nample/",
    "ftp:/bad.example/",
    "http://ÜNI.example/ http://ÜNı.example/",
    "http://ÜNı.example/été",
    "http://x.example/ca-s.i.no-x/ÏX",
    "http://x.example/sexual/sex-sexy_sex/c++/a/été/étéa/x-b-x",
    "http://x.example/WEBCAM/webcam/web-cam/cam2live/live",
    "http://x.example/web",
]


@pytest.mark.parametrize("bare", [False, True])
def test_samples(bare: bool) -> None:
    found = measured([*SAMPLES, None], hosts="bare" if bare else "as_dclm", **LISTS)
    assert found == [*(reference(url, LISTS, bare) for url in SAMPLES), [None] * 4]


PIECES = [
    "http://", "https:", "//", "www", "www.", ".", "-", "_", "/", "?", "#", "@", ":80", ":", "bad.example", "evil",
    "example", "cas", "casino", "sin", "ox", "x", "SEX", "sexual", "ual", "c+", "+", "é", "été", "a", "b", "-b-", "web",
    "cam", "2", "live", "İ", "ı", "Σ", "\t", " ", "\x00", "𝒳",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(st.sampled_from(PIECES), max_size=12).map("".join) | st.text(max_size=20), max_size=4),
    st.fixed_dictionaries(
        {name: st.lists(st.sampled_from(PIECES) | st.sampled_from(words), max_size=6) for name, words in LISTS.items()}
    ),
    st.booleans(),
)
def test_any_urls_and_lists(urls: list[str], lists: dict[str, list[str]], bare: bool) -> None:
    lists["soft"].append("never")
    plain = {name: tuple(w for w in words if not re.search(r"[\n\r]", w)) for name, words in lists.items()}
    urls = [url for url in urls if not re.search(r"[\[\]]", url) and not _refused(url)]
    assert measured(urls, hosts="bare" if bare else "as_dclm", **plain) == [
        reference(url, plain, bare) for url in urls
    ]


def _refused(url: str) -> bool:
    try:
        urlparse(url)
    except ValueError:
        return True
    return False


def test_the_limits_decide_in_order_and_soft_words_may_stand_once() -> None:
    rows = [
        {"id": str(i), "text": "x", "url": url, "file": "f", "record": i}
        for i, url in enumerate([None, "http://b/web", "http://b/web/cam", "http://b/sex/casino", "http://bad.example/sex"])
    ]
    chain = Chain([("url_filter", UrlFilter(**LISTS))])
    outcome = chain.run(pa.RecordBatch.from_pylist(rows, DOCUMENT))
    assert outcome.kept.column("id").to_pylist() == ["0", "1"]
    reasons = {r["id"]: r["reason"] for batch in outcome.dropped for r in batch.to_pylist()}
    assert reasons == {
        "2": "url_filter.soft_words.max",
        "3": "url_filter.strict_substrings.max",
        "4": "url_filter.banned_domain.max",
    }


def test_lists_from_files_as_large_as_a_million_domains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    lines = [f"host{i}.example" for i in range(1_000_000)]
    (tmp_path / "domains.txt").write_text("\n".join(lines))
    (tmp_path / "more.txt").write_bytes(b"Last.Example\r\n\r\nother.example\r\n")
    (tmp_path / "hard.txt").write_text("one\n\ntwo\n")
    fields = {"domains_files": [str(tmp_path / "domains.txt"), str(tmp_path / "more.txt")], "domains": ["inline.example"]}
    urls = ["http://host999999.example/", "http://host1000000.example/two-one", "http://last.example", "http:///",
            "http://other.example/", "http://inline.example/", "http://host0.example:80/"]  # fmt: skip
    for _ in range(2):  # the second time from the machine's cache
        found = measured(urls, hard_files=str(tmp_path / "hard.txt"), **fields)
        assert [row[0] for row in found] == [1, 0, 1, 0, 1, 1, 0]
        assert [row[2] for row in found] == [0, 2, 0, 0, 0, 0, 0]
    step = UrlFilter.model_validate(fields)
    step.prepare()
    assert len(step._lists.domains) == 1_000_003
    assert not step._lists.domains.flags.writeable


def test_bad_lists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="no list is given"):
        UrlFilter()
    (tmp_path / "list.txt").write_bytes(b"good\nb\xe9d\n")
    with pytest.raises(InputError, match=r"list\.txt.*byte 6.*UTF-8"):
        UrlFilter(hard_files=str(tmp_path / "list.txt")).prepare()
    with pytest.raises(UserError, match=r"absent\.txt cannot be read"):
        UrlFilter(hard_files=str(tmp_path / "absent.txt")).prepare()


def test_a_batch_without_documents_and_one_that_is_not_utf_8() -> None:
    assert measured([], **LISTS) == []
    broken = pa.array([b"http://bad.example/\xff\xe0sex", None], pa.large_binary()).view(pa.large_string())
    found = UrlFilter(**LISTS).measure(pa.record_batch({"url": broken}))
    assert found["banned_domain"].to_pylist() == [1, None]


def test_the_step_is_known_to_recipes() -> None:
    assert STEPS["url_filter"] is UrlFilter


def test_real_urls(shared_data: Path) -> None:
    with (shared_data / "golden" / "dclm-web.jsonl.zst").open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file).read().decode()
    urls = [json.loads(line)["id"] for line in text.splitlines()]
    lists = {**LISTS, "hard": ("de", "the", "news", "www"), "strict": ("blog", "news", "onlin", "ne")}
    lists["domains"] = tuple(urlparse(url).netloc.replace("www", "").upper() for url in urls[::2])
    found = measured(urls, **lists)
    assert found == [reference(url, lists) for url in urls]
    assert np.count_nonzero([row[0] for row in found]) > len(urls) // 3
