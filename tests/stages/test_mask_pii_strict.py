"""Strict patterns for personal information: kinds of text, and addresses against Python's own ipaddress."""

from __future__ import annotations

import ipaddress
import json
import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.filters.mask_pii import MaskPii
from stages.steps import STEPS

E, P, A = "EMAIL_ADDRESS", "PHONE_NUMBER", "IP_ADDRESS"
MASK = re.compile(r"\|\|\|(\w+)\|\|\|")

EMAILS = [
    "mail john.doe@example.com now", "a.b-c_d@mail.uni-ulm.de", "mailto:amy@x.org?subject=hi", "müller@münchen.de",
    "用户@例子.中国", "почта:иван@пример.рф", "first+tag@mail.example.museum,", "foo@bar.com/baz", "see me@x.com.Then go",
    "info@xn--bcher-kva.xn--p1ai", "name@163.com", "o'brien@site.ie", "我的邮箱是john@example.com，谢谢",
    "联系john@example.com是我的", "<bob@firm.de>", "{\"mail\":\"a@b.cd\"}", "jane@EXAMPLE.COM",
    '"john doe"@example.com', "x@y.de|", "info@3com.com",
]  # fmt: skip
NO_EMAILS = [
    "ssh root@10.0.0.1", "5@3.50 each", "image@2x.png", "logo@3x.zip", "lodash@4.17.21", "pkg@1.2.3", "@babel/core@7.12.0",
    "@user", "x@y", "a@b.invalidtld", "foo@bar.local", "git@github.com:org/repo.git", "https://user:secret@host.com/path",
    "@name@social.example.com", "@", "a@", "@b.de",
    "pkg@1.0.0-beta.me", '""@b.de', 'a="b"@', 'x"john doe"@example.com',
]  # fmt: skip
PHONES = [
    "555-123-4567", "(555) 123-4567", "555.123.4567", "call 555 123 4567", "+1 555 123 4567", "+15551234567", "1-800-555-1234",
    "+1 (555) 123-4567", "+49 89 1234567", "+49 (0)89 1234567", "+44 20 7946 0958", "+7 (495) 123-45-67", "+81-3-1234-5678",
    "+91 98765 43210", "+55 (11) 91234-5678", "+33 1 23 45 67 89", "+86 138 1234 5678", "0049 89 1234567", "0171 1234567",
    "030/1234567", "(030) 1234567", "06 12 34 56 78", "06.12.34.56.78", "03-1234-5678", "090-1234-5678", "138 1234 5678",
    "电话138 1234 5678", "Tel.: 612 345 678", "call 5551234567", "tel:+15551234567", "555\u2011123\u20114567", "212 555 1234",
    "call us at 5551234567", "phone number: 5551234567", "llame al 91 585 30 00", "Tel.:\xa0044 826 76 76", "电话：13800138000",
    "415 - 555 - 2671", "[415] 555-2671", "(11) 91234-5678", "(11) 3091-3116", "8 (495) 606-36-02", "8-800-555-35-35",
    "Телефон: 8 800 555 35 35", "030 12345-0", "(030) 18 272 0", "415-555-2671x204", "03457 078 051", "Mob: 9876543210",
    "Kundenhotline: 01805 – 4444", "Tel: 0731 / 153 87-0", "Tel. 05723 / 955-440", "Tel. 0221 / 9822 – 2220",
    "Tel. 030 / 269 97- 361", "Tel: 86-23-6771-6666", "Fax: 0201.2402-403", "Telefon +49 (0)40 / 49 07 11 06",
    "Telefonnummer 050639010", "„Tel. 612 345 678", "Tel. 030 / 2325 786 -122", "«Telefon: 0341 696290»",
]  # fmt: skip
NO_PHONES = [
    "ISBN 9780306406157", "ISBN 978-0-306-40615-7", "ISBN 0-306-40615-2", "ISSN 0306-4061", "timestamp 1609459200",
    "1609459200000", "SSN 123-45-6789", "ids 100 200 3000", "222 333 4444 5555",
    "4111 1111 1111 1111", "2021-01-01 12:00:00", "01.02.2003",
    "01-02-2003 10:30", "population 1 234 567 890", "1,234,567,890", "3.1415926535", "550e8400-e29b-41d4-a716-446655440000",
    "10.1000/123-456-7890", "12 345 678 901", "02139-4307", "$555 123 4567", "a555-123-4567",
    "555-123-4567b", "+10 000 000 000",
    "5551234567", "555-1234", "(1)", "+", "(555",
    "size 036 038 040", "part 0123-4567-89", "IBAN DE89 3704 0044 0532 0130 00", "DE22 1005 0000 0190 0947 29", "$ 800 555 1234",
    "they call it 5551234567", "8 100 200 30 40 50", "8 400 200 30 40 50", "us at 5551234567", "415-555-2671xy", "(11] 3091-3116",
    "5551234567 / 5551234568", "2001 - 2005",
    "2017-2019 / 2021", "22.04.2020 / 06:15 / 150", "the 010 / 200 300 400", "Tel 02.03.2020 / 06:15", "02139 – 4307",
    "030 / 269 97- 361",
]  # fmt: skip
ADDRESSES = [
    "host 8.8.8.8 replies", "93.184.216.34.", "http://93.184.216.34/x", "8.8.8.8:53", "8.8.8.8/24", "(8.8.8.8)", "ping 1.2.3.4",
    "2001:4860:4860::8888", "[2606:4700:4700::1111]:53", "2606:4700:4700:0:0:0:0:1111", "2a00:1450:4001:81b::200e/64",
]  # fmt: skip
NO_ADDRESSES = [
    "127.0.0.1", "10.0.0.1", "192.168.1.1", "Chrome/91.0.4472.124", "section 4.3.2.1", "999.999.999.999", "1.1.1.1.1.1.1",
    "v93.184.216.34", "version 93.184.216.34", "93.184.216.34-beta", "01.02.03.04", "EC 2.4.2.7", "1.2.3.4 Introduction",
    "fe80::1", "::1", "fd00::1", "2001:db8::1", "12:30:45", "2021:11:05 10:30:00",
    "00:1a:2b:3c:4d:5e", "std::vector", "256.1.1.1", "1.2.3", "224.0.0.251", "239.255.255.250", "kernel 5.15.0.91",
    "BBM 2.5.0.36", "酵素、EC 2.4.1.131",
]  # fmt: skip
CASES = [
    *((text, mask) for mask, texts in ((E, EMAILS), (P, PHONES), (A, ADDRESSES)) for text in texts),
    *((text, None) for text in NO_EMAILS + NO_PHONES + NO_ADDRESSES),
]


JUDGED = Path(__file__).with_name("pii_judged.json")
"""[text, masks]: finds and near misses drawn by chance from real web pages, books, code and papers, judged by hand. What names
or reaches a person is replaced by something made up of the same form, other words by `x`."""


def masked(texts: list[str], **fields: object) -> tuple[list[str], list[int]]:
    step = STEPS["mask_pii"].model_validate({"patterns": "strict", **fields})
    docs, measures = step.edit(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    return docs.column("text").to_pylist(), pa.array(measures["items"]).to_pylist()


def test_finds_and_near_misses_drawn_from_real_texts() -> None:
    judged = json.loads(JUDGED.read_text("utf-8"))
    found = [MASK.findall(text) for text in masked([text for text, _ in judged])[0]]
    wrong = [(text, masks) for (text, expected), masks in zip(judged, found, strict=True) if masks != expected]
    assert not wrong
    assert sum(bool(masks) for _, masks in judged) == 69 and len(judged) == 134


@pytest.mark.parametrize(("text", "mask"), CASES)
def test_kinds_of_text(text: str, mask: str | None) -> None:
    surrounded = [text, f"Lorem ipsum {text} dolor", f"Lorem, {text}", f"{text}\n{text}"]
    found, items = masked(surrounded)
    assert [MASK.findall(one) for one in found] == [[mask] if mask else []] * 3 + [[mask, mask] if mask else []]
    assert items == [1, 1, 1, 2] if mask else items == [0] * 4


def test_what_stands_around_stays() -> None:
    text = "Ask <jo@x.org>, call (555) 123-4567.\n\u00e9 8.8.8.8:53"
    assert masked([text])[0] == [f"Ask <|||{E}|||>, call |||{P}|||.\n\u00e9 |||{A}|||:53"]
    assert masked([text], kinds=["emails"])[0] == [text.replace("jo@x.org", f"|||{E}|||")]
    docs = pa.record_batch({"text": pa.array(["x", text, ""], pa.large_string())}).slice(1)
    measures = MaskPii(patterns="strict").edit(docs)[1]
    assert {name: pa.array(values).to_pylist() for name, values in measures.items()} == {
        "emails": [1, 0], "phone_numbers": [1, 0], "ip_addresses": [1, 0], "items": [3, 0],
    }  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.ip_addresses(), max_size=5))
def test_addresses_are_masked_where_they_are_global(addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address]) -> None:
    found, _ = masked([f"host {address}, up" for address in addresses])
    for text, address in zip(found, addresses, strict=True):
        if isinstance(address, ipaddress.IPv4Address):
            if address in ipaddress.IPv4Network("192.0.0.0/24"):
                continue  # Python's versions disagree on parts of it
            expected = address.is_global and not address.is_multicast
        else:
            expected = address in ipaddress.IPv6Network("2000::/3") and address.is_global
            if address in ipaddress.IPv6Network("2001::/23") or address in ipaddress.IPv6Network("3fff::/20"):
                continue  # parts of it are global by later entries of the registry
            if address in ipaddress.IPv6Network("2002::/16"):
                expected = True
        assert (text == f"host |||{A}|||, up") == expected, address


PIECES = [
    "a", "é", "日", "@", "b.de", ".", ",", "(", ")", " ", "\n", "-", "+", "/", ":", "0", "1", "25",
    "2001:", "::", "555", "1234567",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=25).map("".join) | st.text(max_size=30), max_size=4))
def test_any_texts_keep_what_is_not_masked(texts: list[str]) -> None:
    found, items = masked(texts)
    for text, after, count in zip(texts, found, items, strict=True):
        kept = MASK.split(after)[::2]
        assert len(kept) == count + 1
        at = 0
        for part in kept:  # in order, the first at the start and the last at the end
            at = text.index(part, at) + len(part)
        assert text.startswith(kept[0])
        assert text.endswith(kept[-1])
        assert masked([after])[0] == [after]


def test_long_runs_and_text_that_is_not_utf_8() -> None:
    broken = [b"\xff@a.de\xe0", b"a\xc2@b.de \xe0\x80", b"@" * 50_000, b"a@b.c@" * 20_000, b"1 " * 50_000, b"(" * 50_000]
    broken += [b"2:" * 50_000, b"1" * 100_000, b"(1" * 50_000, b"+" * 50_000, b"1." * 50_000, b"555)", b"2001::" * 20_000]
    docs = pa.record_batch({"text": pa.array(broken, pa.large_binary()).view(pa.large_string())})
    assert MaskPii(patterns="strict").edit(docs)[0].num_rows == len(broken)


def test_shared_cases(shared_data: Path) -> None:
    cases = json.loads((shared_data.parent / "cases" / "pii.json").read_bytes())
    found, _ = masked([case["text"] for case in cases])
    right = [MASK.findall(text) == case["masks"] for text, case in zip(found, cases, strict=True)]
    assert sum(right) >= len(cases) * 60 / 65
