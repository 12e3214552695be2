"""Characters: as browsers decode them, whatever one damaged byte suggests; what is replaced is counted."""

import base64
import json
import random
import re

import endec
import pytest
import webencodings
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.charset import _in_runs, _words, as_dclm, as_utf8, decode
from stages.encodings import MULTI_BYTE, Decoded, table_of

# Text of each language, and the encodings in which pages have it.
LANGUAGES = {
    "de": ("Das Wasser fließt über die Räder der Mühle, größere Mühlräder drehen sich gemächlich. ", ["windows-1252"]),
    "fr": ("L’eau coule à côté du moulin, où la roue à aubes tourne déjà depuis des siècles. ", ["windows-1252"]),
    "pl": (
        "Woda płynie obok młyna, gdzie koło młyńskie obraca się powoli już od wieków. ",
        ["iso-8859-2", "windows-1250"],
    ),
    "tr": ("Su değirmeninin çarkı yüzyıllardır ağır ağır dönüyor, öğütülen un çuvallara giriyor. ", ["windows-1254"]),
    "ru": ("Вода течёт рядом с мельницей, и колесо медленно вращается уже много веков. ", ["windows-1251", "koi8-r"]),
    "el": ("Το νερό κυλάει δίπλα στον μύλο και ο τροχός γυρίζει αργά εδώ και αιώνες. ", ["windows-1253", "iso-8859-7"]),
    "he": ("המים זורמים ליד הטחנה והגלגל מסתובב לאט כבר מאות שנים ", ["windows-1255"]),
    "ar": ("تتدفق المياه بجانب الطاحونة وتدور العجلة ببطء منذ قرون ", ["windows-1256"]),
    "th": ("น้ำไหลผ่านโรงสีและกงล้อหมุนช้าๆ มาหลายศตวรรษแล้ว ", ["windows-874"]),
    "ja": ("水は水車小屋のそばを流れ、水車は何世紀も前からゆっくりと回っています。", ["shift_jis", "euc-jp"]),
    "zh": ("水从磨坊旁边流过，水车几百年来一直在慢慢地转动。", ["gbk", "gb18030"]),
    "zh-tw": ("水從磨坊旁邊流過，水車幾百年來一直在慢慢地轉動。", ["big5"]),
    "ko": ("물은 방앗간 옆으로 흐르고 물레방아는 수백 년 전부터 천천히 돌고 있습니다. ", ["euc-kr"]),
}
MORE = {
    "cs": "Voda teče kolem mlýna a mlýnské kolo se již po staletí pomalu otáčí, žene těžké žernovy. ",
    "lt": "Vanduo teka šalia malūno, o ratas jau šimtmečius lėtai sukasi ir mala žmonių grūdus. ",
}
ENCODED = [(language, encoding) for language, (_, found) in LANGUAGES.items() for encoding in [*found, "utf-8"]]


def page(text: str, encoding: str, meta: bool, paragraphs: int = 12) -> tuple[str, bytes]:
    """A page, and its bytes."""
    head = f'<head><meta charset="{encoding}">' if meta else "<head>"
    html = f"<html>{head}<title>Mill</title></head>\n<body>" + f"<p>{text * 2}</p>\n" * paragraphs + "</body></html>"
    return html, endec.encode(html, encoding)


def same(one: str, two: str) -> int:
    """How many characters two strings begin with in common."""
    return next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def around(html: str, text: str) -> int:
    """How many characters of `html` are not in `text`, from the first to the last that differs."""
    before = same(html, text)
    return len(html) - before - same(html[before:][::-1], text[before:][::-1])


def high_bytes(raw: bytes) -> list[int]:
    return [i for i, byte in enumerate(raw) if byte >= 0x80]


@pytest.mark.parametrize("declared", ["header", "meta"])
@pytest.mark.parametrize(("language", "encoding"), ENCODED)
def test_one_damaged_byte_costs_what_it_touches(language, encoding, declared):
    """A byte removed, or put in, of any character: text comes right again at the next ASCII character."""
    html, raw = page(LANGUAGES[language][0], encoding, declared == "meta")
    header = encoding if declared == "header" else None
    rng = random.Random(f"{language} {encoding}")
    for at in rng.sample(high_bytes(raw), 25):
        damaged = rng.choice([raw[:at] + raw[at + 1 :], raw[:at] + b"\xff" + raw[at:], raw[:at] + b"\x80" + raw[at:]])
        assert around(html, decode(damaged, header).text) <= 2 * len(LANGUAGES[language][0])


@pytest.mark.parametrize("declared", ["header", "meta"])
@pytest.mark.parametrize(("language", "encoding"), ENCODED)
def test_one_damaged_byte_in_one_sentence(language, encoding, declared):
    """Of a declared encoding little is enough: a detector would guess at so short a text."""
    _, raw = page(LANGUAGES[language][0], encoding, declared == "meta", paragraphs=1)
    for at in high_bytes(raw):
        for damaged in (raw[:at] + b"\xff" + raw[at:], raw[:at] + b"\0" + raw[at + 1 :]):
            found = decode(damaged, encoding if declared == "header" else None)
            same_encoding = endec.decode(damaged, encoding, "replace", bom="ignore")
            assert found.text == same_encoding


@pytest.mark.parametrize(("language", "encoding"), [("de", "windows-1252"), ("pl", "windows-1250"), ("ru", "koi8-r")])
def test_a_last_letter_is_not_half_of_another(language, encoding):
    letter = next(c for c in LANGUAGES[language][0] if ord(c) > 127)
    raw = f"<p>Page {letter}".encode(encoding)
    assert decode(raw, encoding) == Decoded(f"<p>Page {letter}")
    assert decode(f"<p>Page {letter}".encode()[:-1], "utf-8") == Decoded("<p>Page ", 1)


@pytest.mark.parametrize(
    ("language", "encoding"),
    [
        *((language, encoding) for language, encoding in ENCODED if encoding.startswith("windows")),
        ("cs", "windows-1250"),
        ("lt", "windows-1257"),
    ],
)
def test_bytes_without_a_meaning_need_no_declaration(language, encoding):
    """For detectors one such byte is a proof that the page is in another encoding."""
    holes = [i for i, char in enumerate(table_of(encoding)) if char == "\ufffd" or "\x80" <= char < "\x85"]
    html, raw = page(MORE.get(language) or LANGUAGES[language][0], encoding, meta=False)
    rng = random.Random(f"{language} {encoding}")
    for _ in range(12 if holes else 0):
        damaged = raw
        for at in sorted(rng.sample(high_bytes(raw), rng.choice([1, 2, 4])), reverse=True):
            damaged = damaged[:at] + bytes([rng.choice(holes)]) + damaged[at:]
        assert (
            decode(damaged).text.translate(dict.fromkeys(map(ord, map(table_of(encoding).__getitem__, holes)))) == html
        )


def test_signs_alone_are_no_letters_of_another_encoding():
    html = "<p>Sports\u2122</p>" + "<p>\xa0 and\xa0more</p>" * 20
    assert decode(html.encode("cp1252")).text == html


@pytest.mark.parametrize("language", LANGUAGES)
def test_damaged_utf8_needs_no_declaration(language):
    html, raw = page(LANGUAGES[language][0], "utf-8", meta=False)
    for at in random.Random(language).sample(high_bytes(raw), 25):
        for wrong in (None, "iso-8859-1", "gbk"):
            found = decode(raw[:at] + raw[at + 1 :], wrong)
            assert around(html, found.text) == 1
            assert found.replaced in (1, 2, 3)


@pytest.mark.parametrize("encoding", ["utf-8", "gbk", "big5", "euc-kr", "euc-jp", "shift_jis"])
def test_a_page_cut_within_a_character(encoding):
    language = next(name for name, (_, found) in LANGUAGES.items() if encoding in found or encoding == "utf-8")
    html, raw = page(LANGUAGES[language][0], encoding, meta=True)
    cuts = 0
    for at in random.Random(encoding).sample(high_bytes(raw), 25):
        found = decode(raw[:at])
        assert html.startswith(found.text)
        assert found.replaced in (0, 1)
        cuts += found.replaced
    assert cuts > 3


@pytest.mark.parametrize(("language", "encoding"), ENCODED)
@pytest.mark.parametrize("paragraphs", [1, 12])
def test_whole_pages_are_decoded_as_declared(language, encoding, paragraphs):
    for meta in (True, False):
        html, raw = page(LANGUAGES[language][0], encoding, meta, paragraphs)
        found = decode(raw, None if meta else encoding)
        assert (found.text, found.replaced) == (html, 0)


@pytest.mark.parametrize(("language", "encoding"), ENCODED)
@pytest.mark.parametrize("wrong", ["utf-8", "no-such-charset", "none", "utf-16", "unicode"])
def test_a_declaration_that_cannot_be_is_passed_over(language, encoding, wrong):
    """The page's own is taken then."""
    html, raw = page(LANGUAGES[language][0], encoding, meta=True)
    assert decode(raw, wrong).text == html


@pytest.mark.parametrize("wrong", ["shift_jis", "euc-kr", "gbk", "big5"])
@pytest.mark.parametrize(("language", "encoding"), [("de", "windows-1252"), ("pl", "windows-1250"), ("ru", "koi8-r")])
def test_a_wrong_declaration_under_which_all_bytes_mean_something(language, encoding, wrong):
    """German as Korean: single syllables within words. What is detected is taken then."""
    html, raw = page(LANGUAGES[language][0], encoding, meta=False)
    assert decode(raw, wrong).text == html


@pytest.mark.parametrize(
    ("encoding", "text"), [("gbk", "we’ve été, voilà"), ("euc-kr", "we’ve ½ it"), ("big5", "we’ve it")]
)
def test_western_text_in_an_encoding_of_the_east(encoding, text):
    html, raw = page(f"{text} compiled a guide to where and how to buy. ", encoding, meta=False)
    assert decode(raw, encoding).text == html


@pytest.mark.parametrize(
    ("language", "encoding"),
    [
        *(("ru", "windows-1251"), ("ru", "koi8-r"), ("pl", "iso-8859-2")),
        *(("el", "iso-8859-7"), ("he", "windows-1255"), ("th", "windows-874")),
    ],
)
def test_a_server_that_declares_latin_1_for_anything(language, encoding):
    """The page knows better where a detector agrees; where none does, browsers believe the server."""
    page = f"<meta charset={encoding}><p>{LANGUAGES[language][0] * 3}</p>"
    assert decode(endec.encode(page, encoding), "ISO-8859-1").text == page
    western = f"<meta charset={encoding}><p>{LANGUAGES['de'][0] * 3}</p>"
    assert decode(western.encode("cp1252"), "ISO-8859-1").text == western


@pytest.mark.parametrize("language", ["ru", "el", "he", "ar", "th", "ja", "zh", "zh-tw", "ko"])
def test_latin_1_declared_for_words_without_a_plain_letter(language):
    """By the server and the page: they are no western text, damaged or not."""
    for encoding in LANGUAGES[language][1]:
        html, raw = page(LANGUAGES[language][0] * 3, encoding, meta=False)
        raw = b"<meta charset=iso-8859-1>" + raw
        assert decode(raw, "latin1").text == "<meta charset=iso-8859-1>" + html
        at = len(raw) // 2
        while raw[at] < 0x80:
            at += 1
        if encoding not in ("shift_jis", "gb18030"):  # of too few bytes that stand beside another above ASCII
            assert decode(raw[:at] + b"\xff" + raw[at:], "latin1").text.endswith(html[-40:])


@pytest.mark.parametrize(("language", "encoding"), [one for one in ENCODED if one[1] in MULTI_BYTE])
def test_damage_that_means_something_in_another_encoding_of_the_east(language, encoding):
    """A byte 0x80 is the euro sign of GBK: a declared EUC-KR, one byte of which means nothing, is EUC-KR all the same."""
    html = f"<p>{LANGUAGES[language][0]}</p>\n"
    raw = endec.encode(html, encoding)
    for byte in (b"\x80", b"\xff"):
        assert decode(raw[:4] + byte + raw[5:] + raw, encoding).text.endswith(html)


@pytest.mark.parametrize(
    ("label", "encoding"), [("cp949", "euc-kr"), ("latin-1", "windows-1252"), (" 'UHC' ", "euc-kr")]
)
def test_labels_that_only_python_knows(label, encoding):
    language = {"euc-kr": "ko", "windows-1252": "de"}[encoding]
    html, raw = page(LANGUAGES[language][0], encoding, meta=False, paragraphs=1)
    assert decode(raw, label).text == html


# Text with characters that only browsers' versions of the encodings have, as real pages do.
EXTENDED = {
    "UHC": ("똠방각하가 펲시콜라를 들고 찦차를 타고 쑛다리를 건너 갔습니다. ", "cp949"),
    "HKSCS": ("佢哋喺度食嘢，唔係好啱，我哋嚟咗呢度，啲人話冇嘢做，嗰個人係邊個。", "big5hkscs"),
    "NEC": ("①株式会社髙﨑㈱は№１の会社です。㍻元年にⅢ号館を建てました。", "cp932"),
    "GBK": ("朱镕基、陶喆和李劼說囍字與馬、車、龍、鳳，這是嘸蝦米。", "gbk"),
    "Ukrainian": ("Їжак і ґава біля млина, вода тече поряд із колесом уже багато століть. ", "koi8-u"),
    "Latvian": ("Ūdens plūst gar dzirnavām, un rats lēnām griežas jau gadsimtiem ilgi. ", "cp1257"),
}


@pytest.mark.parametrize("paragraphs", [1, 12])
@pytest.mark.parametrize("name", EXTENDED)
def test_pages_that_declare_nothing(name, paragraphs):
    text, encoding = EXTENDED[name]
    html, _ = page(text, "utf-8", False, paragraphs)
    raw = html.encode(encoding)
    # Servers declare UTF-8 or Latin-1 for anything. Of one byte a character, no rule tells that it is not Latin-1.
    for declared in (None, "utf-8", *(["iso-8859-1"] if encoding in ("cp949", "big5hkscs", "cp932", "gbk") else [])):
        assert decode(raw, declared) == Decoded(html)


@pytest.mark.parametrize("name", ["UHC", "HKSCS", "NEC", "GBK"])
def test_a_damaged_byte_of_a_page_that_declares_nothing(name):
    text, encoding = EXTENDED[name]
    html, _ = page(text, "utf-8", False)
    raw = html.encode(encoding)
    for at in random.Random(name).sample(high_bytes(raw), 25):
        for damaged in (raw[:at] + raw[at + 1 :], raw[:at] + b"\xff" + raw[at:]):
            assert around(html, decode(damaged).text) <= 2 * len(text)
    raw = html.replace("</p>\n<p>", "").encode(encoding)  # one paragraph, without a tag at which it could be cut
    for at in random.Random(name).sample(high_bytes(raw), 25):
        damaged = raw[:at] + raw[at + 1 :]
        assert decode(damaged).text == decode(damaged, encoding).text


def test_a_damaged_sign_of_a_page_in_plain_letters():
    """What is left of it, and the letter behind, would be a character of Chinese."""
    html = "<html><head><meta charset=utf-8></head><body><p>See who\u2019s on the mill wheel today</p></body></html>"
    raw = html.encode()
    at = raw.index(b"\xe2")
    for gone in range(3):
        found = decode(raw[: at + gone] + raw[at + gone + 1 :])
        assert found.text.startswith(html[:30]) and found.text.endswith("s on the mill wheel today</p></body></html>")


def test_utf16_without_a_mark():
    for text in ("<p>Plain words", "<p>Große Mühle", "<html><body><p>水車小屋"):
        for name in ("utf-16-le", "utf-16-be"):
            raw = text.encode(name)
            for declared in (None, "utf-16", name.replace("-le", "le").replace("-be", "be")):
                assert decode(raw, declared).text == text
    page = (
        "<p>水は水車小屋のそばを流れ、何世紀も前からゆっくりと回っています</p>" * 20
    )  # few NULs, and some on the other side
    assert decode(page.encode("utf-16-le")).text == decode(page.encode("utf-16-be")).text == page
    plain = (
        "水は水車小屋のそばを流れ、水車は何世紀も前からゆっくりと回っています" * 20
    )  # no ASCII: only the header tells
    assert decode(plain.encode("utf-16-le"), "utf-16le").text == plain
    assert decode("Große Mühle".encode("latin-1"), "utf-16").text == "Große Mühle"
    assert decode(b'<meta charset="utf-16"><p>M\xfchle').text.endswith("Mühle")
    assert decode("a\0b Mühle".encode()).text == "a\0b Mühle"


def test_marks():
    for name in ("utf-8-sig", "utf-16", "utf-32"):
        assert decode("<p>Mühle".encode(name), "iso-8859-1").text == "<p>Mühle"
    broken = "<p>Mühle".encode("utf-8-sig").replace(b"\xbc", b"")
    assert decode(broken, "iso-8859-1") == Decoded("<p>M\ufffdhle", 1)


def test_escapes():
    japanese = "水車小屋の水車"
    raw = f"<p>{japanese}".encode("iso-2022-jp")
    for declared in (None, "iso-2022-jp", "utf-8"):
        assert decode(raw, declared).text == f"<p>{japanese}"
    assert decode("물레방아".encode("iso2022_kr"), "iso-2022-kr").text == "물레방아"
    terminal = "\x1b[31mMühle\x1b(B\x1b[m"
    assert decode(terminal.encode(), "iso-8859-1").text == terminal
    assert decode(b"\x1b[31mmill\x1b(B\x1b[m").text == "\x1b[31mmill\x1b(B\x1b[m"


@given(st.binary(max_size=300), st.sampled_from([None, "bogus", *webencodings.LABELS]))
@settings(max_examples=500, deadline=None)
def test_no_bytes_raise(raw, label):
    found = decode(raw, label)
    found.text.encode()
    assert found.replaced >= 0
    assert found.replaced >= found.text.count("\ufffd") - len(raw)


def test_as_dclm_trusts_the_detector():
    raw = '<meta charset="utf-8"><p>Grüße aus München, schöne Straße'.encode() + b"\xff"
    assert "München" not in as_dclm(raw).text
    assert "München" in decode(raw).text


def test_what_is_surely_utf8():
    assert as_utf8(b"\xef\xbb\xbfplain \xff words") == Decoded("plain \ufffd words", 1)
    assert as_utf8("Mühle".encode()[:2]) == Decoded("M", 1)
    assert as_utf8("a\ufffd".encode()) == Decoded("a\ufffd", 0)


@pytest.mark.parametrize("declared", ["iso-2022-jp", None])
@pytest.mark.parametrize("damage", [b"\xff", b"\x80", b"\xe3\x81"])
def test_a_damaged_byte_does_not_garble_text_with_escapes(declared, damage):
    lines = [f"<p>日本語の文書です、{number}行目</p>".encode("iso2022_jp") for number in range(20)]
    lines[7] = lines[7][:9] + damage + lines[7][9:]
    decoded = decode(b"\n".join(lines), declared)
    assert decoded.text.count("日本語の文書です") >= 19 and "$B" not in decoded.text
    assert decoded.replaced >= 1


@given(st.text(st.sampled_from("aZ é中1-"), max_size=60), st.integers(0, 200), st.binary(max_size=8))
def test_words_are_taken_whole_and_runs_of_bytes_are_counted(text, letters, data):
    text = "x" * letters + text
    whole = re.findall(r"[A-Za-z]*[^\x00-\x7f][^\W\d_]*", text)
    assert _words(text) == whole
    high, runs = sum(byte > 127 for byte in data), len(re.findall(rb"[\x80-\xff]+", data))
    assert _in_runs(data) == (2 * (high - runs) >= high)


def test_cases(shared_data):
    """The smallest pages that went wrong in other tools: name, bytes, declaration, and what the text must contain."""
    cases = shared_data.parent / "cases" / "charsets.json"
    if not cases.exists():
        pytest.skip(f"no cases at {cases}")
    for case in json.loads(cases.read_text()):
        assert case["must_contain"] in decode(base64.b64decode(case["bytes"]), case["declared"]).text, case["name"]
