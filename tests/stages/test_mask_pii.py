"""Masks for personal information against regular expressions, and against Dolma's own."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.filters.mask_pii import MaskPii
from stages.steps import STEPS

PHONE = re.compile(r"(?:(?<=\s)|^)\(?\d{3}\)?[-. ]*\d{3}[-. ]?\d{4}")
IP = re.compile(r"(?:(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)\.){3}(?:25[0-5]|2[0-4][0-9]|[01]?[0-9][0-9]?)")
DOLMA_EMAIL = re.compile(r"[.\s@,?!;:)(]*([^\s@]+@[^\s@,?!;:)(]+?)[.\s@,?!;:)(]?[\s\n\r]")
DOLMA_PHONE = re.compile(r"\s+\(?(\d{3})\)?[-\. ]*(\d{3})[-. ]?(\d{4})")


def reference(text: str, private: bool = False) -> tuple[str, list[int]]:
    text, emails = mask_emails(text)
    text, phones = PHONE.subn("|||PHONE_NUMBER|||", text)
    addresses = 0

    def mask(match: re.Match[str]) -> str:
        nonlocal addresses
        if not private and not is_public(match.group()):
            return match.group()
        addresses += 1
        return "|||IP_ADDRESS|||"

    return IP.sub(mask, text), [emails, phones, addresses]


def mask_emails(text: str) -> tuple[str, int]:
    out, free, count = "", 0, 0
    for at in (i for i, c in enumerate(text) if c == "@"):
        local = re.search(r"[^\s@]*$", text[free:at]).group()
        local = local[len(re.match(r"[.,?!;:)(]*", local[:-1]).group()) :]
        host = re.match(r"[^\s@,?!;:)(]*", text[at + 1 :]).group()
        behind = text[at + 1 + len(host) :]
        host = host[:-1] if len(host) > 1 and host[-1] == "." else host
        if local in ("", "(") or "." not in host or re.match(r"@\S", behind):
            continue
        out += text[free : at - len(local)] + "|||EMAIL_ADDRESS|||"
        free = at + 1 + len(host)
        count += 1
    return out + text[free:], count


def is_public(address: str) -> bool:
    number = ipaddress.IPv4Address(bytes(map(int, address.split("."))))
    return number.is_global or number.is_multicast


def masked(texts: list[str], **fields: object) -> tuple[list[str], list[list[int]], list[int]]:
    docs, measures = MaskPii.model_validate(fields).edit(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    counts = zip(*(measures[kind].tolist() for kind in ("emails", "phone_numbers", "ip_addresses")), strict=True)
    return docs.column("text").to_pylist(), [list(row) for row in counts], measures["items"].tolist()


def test_what_is_masked() -> None:
    texts = [
        "Write to (jane.doe@example.com), or call (555) 123-4567.\nServer 8.8.8.8, router 192.168.0.1.",
        "jane@example.com",
        "555.123.4567 and\u00a0555 1234567",
        "x@y, @example.com a@b.c@d.e, (@f.gh",
        "",
        "no one",
    ]
    found, counts, items = masked(texts)
    assert found == [
        "Write to (|||EMAIL_ADDRESS|||), or call |||PHONE_NUMBER|||.\nServer |||IP_ADDRESS|||, router 192.168.0.1.",
        "|||EMAIL_ADDRESS|||",
        "|||PHONE_NUMBER||| and\u00a0|||PHONE_NUMBER|||",
        "x@y, @example.com a@|||EMAIL_ADDRESS|||, (@f.gh",
        "",
        "no one",
    ]
    assert counts == [[1, 1, 1], [1, 0, 0], [0, 2, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0]]
    assert items == [3, 1, 2, 1, 0, 0]


def test_settings_and_the_limit() -> None:
    step = STEPS["mask_pii"].model_validate({"kinds": ["ip_addresses"], "private_ip_addresses": True, "items": 1})
    docs = pa.record_batch({"text": pa.array(["a@b.cd 10.0.0.1", "10.0.0.1 127.0.0.1 8.8.8.8"], pa.large_string())})
    edited, measures = step.edit(docs)
    assert edited.column("text").to_pylist() == ["a@b.cd |||IP_ADDRESS|||", " ".join(["|||IP_ADDRESS|||"] * 3)]
    assert list(measures) == ["ip_addresses", "items"]
    assert step.decide(measures).tolist() == [-1, 0]
    assert MaskPii().reasons() == []
    assert MaskPii(kinds=()).edit(docs)[1]["items"].tolist() == [0, 0]


@pytest.mark.parametrize("first", [0, 9, 10, 100, 126, 127, 169, 172, 192, 198, 203, 224, 239, 240, 255])
def test_public_is_what_the_registry_says(first: int) -> None:
    seconds = (0, 2, 15, 16, 18, 19, 20, 31, 32, 51, 63, 64, 127, 128, 168, 254)
    texts = [f"{first}.{second}.{third}.7" for second in seconds for third in (0, 2, 100, 113)]
    assert [row[2] for row in masked(texts)[1]] == [int(is_public(text)) for text in texts]


PIECES = [
    "a", "é", "x.y", "@", "b.c", ".", ",", "(", ")", " ", "\n", "\u00a0", "\u2003", "-", "?", "0", "1", "25", "255",
    "256", "300", "10", "192.168.", "1.2.3", "555", "123-4567", "٣", "٣٤٥", "²", "𝟙", "|||",
]  # fmt: skip
texts = st.lists(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=30), max_size=4)


@settings(max_examples=400, deadline=None)
@given(texts, st.booleans())
@example(["x@y.z(foo@b.c a@b.c@ d", "(@a.b", "1.2.3.4.5.6.7.8 256.1.1.300", "123 456 7890123 4567"], False)
def test_any_texts(texts: list[str], private: bool) -> None:
    found, counts, _ = masked(texts, private_ip_addresses=private)
    assert list(zip(found, counts, strict=True)) == [reference(text, private) for text in texts]


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=25).map("".join))
def test_nothing_is_left_that_dolma_would_mask(text: str) -> None:
    left = masked([text], private_ip_addresses=True)[0][0]
    for paragraph in left.split("\n"):
        emails = [m.group(1).split("@", 1) for m in DOLMA_EMAIL.finditer(paragraph + "\n")]
        assert not [e for e in emails if e[0].strip() != "(" and "." in e[1]]
        assert not DOLMA_PHONE.search(paragraph)
        assert not IP.search(paragraph)


def test_text_that_is_not_utf_8_and_long_runs() -> None:
    broken = [b"\xff@a.b\xe0", b"a\xc2@b.c \xe0\x80", b"555\xff 555 123 456\xd9", b"@" * 50_000, b"a@b.c@" * 20_000]
    docs = pa.record_batch({"text": pa.array(broken, pa.large_binary()).view(pa.large_string())})
    edited, measures = MaskPii().edit(docs)
    assert edited.num_rows == len(broken)
    assert measures["emails"].tolist() == [1, 1, 0, 0, 1]
    for text in (". " * 30_000, "1." * 50_000, " (555)" + "-" * 50_000, "555 " * 20_000, "x" * 100_000 + "@"):
        assert masked([text])[:2] == ([reference(text)[0]], [reference(text)[1]])


def test_real_documents(shared_data: Path) -> None:
    some = 0
    for name in ("c4", "code", "arxiv"):
        with (shared_data / f"{name}.jsonl.zst").open("rb") as file:
            raw = zstandard.ZstdDecompressor().stream_reader(file).read(400_000)
        texts = [json.loads(line)["text"] for line in raw.splitlines()[:-1]]
        found, counts, items = masked(texts)
        assert list(zip(found, counts, strict=True)) == [reference(text) for text in texts]
        some += sum(items)
    assert some > 0
