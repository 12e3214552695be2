"""Turns the bytes of a page or text file into characters.

Encodings are those of the WHATWG Encoding Standard (stages/encodings.py): what crawls hold was made for browsers. What
stands for no character becomes U+FFFD, and is counted.
"""

from __future__ import annotations

import codecs
import re
from collections import Counter
from functools import cache, lru_cache
from string import ascii_letters

import chardetng_py
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from stages.encodings import MULTI_BYTE, REPLACEMENT, UTF16, Decoded, decode_as, name_of, table_of
from stages.meta_charset import declared_in_page

NOT_COUNTED = -1
SAMPLE_BYTES = 4 << 10  # in which the NULs of UTF-16 are looked for
CERTAIN = 4  # so many whole characters for one that is not are UTF-8, whatever was declared
# Share of bytes without a meaning that text in a declared encoding of one byte a character may well have: less in the
# one that servers declare for anything.
RARELY, RARELY_1252 = 0.5, 0.02
# Share of characters without a meaning above which a text is in another encoding than was declared, or detected.
HARDLY, HARDLY_DETECTED = 0.5, 0.25
# The same, up to which what the detector says is taken for damage: it bears some, and may well be right.
LIGHTLY = 0.1
FEW = 8  # characters of several bytes: of fewer it cannot be told that they are no signs of windows-1252
HOLES = 0.04  # share of bytes that mean nothing in an encoding, up to which a text may be in it all the same

# UTF-32 is none of the standard's encodings, but its mark is no sensible beginning of UTF-16: that would be a NUL.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
)
# Codecs of Python that write all that they read, and know most that the standard's do.
_CLEANERS = {"big5": "big5hkscs", "euc-jp": "euc_jp", "euc-kr": "cp949", "gb18030": "gb18030", "shift_jis": "cp932"}
_NOT_DETECTED = UTF16 | {"utf-8", "replacement"}
_UKRAINIAN = {"koi8-r": "koi8-u"}  # the same but for letters in place of eight signs that draw boxes

_ASCII, _HIGH = bytes(range(0x80)), bytes(range(0x80, 0x100))
_KINDS = b"a" * 0x80 + b"h" * 0x80  # of bytes: ASCII, and above it
_CONTROLS = bytes(c for c in range(0x20) if c not in b"\t\n\f\r\x1b")
_JAPANESE = re.compile(rb"\x1b\$(?:[@B]|\(D)[\x21-\x7e]")  # ISO-2022-JP: an escape, and a two-byte character
_KOREAN = b"\x1b$)C"  # ISO-2022-KR: its announcement
_HALF = re.compile(rb"(?:[\xe0-\xef][\x80-\xbf]|[\xf0-\xf4][\x80-\xbf]{1,2})(?![\x80-\xbf])")
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")  # half of a character above U+FFFF, as CESU-8 has it
_ONE_DAMAGE = re.compile(r"\ufffd(?<![^\x00-\x7f]\ufffd)\ufffd{1,3}(?![^\x00-\x7f])")
_STRANGE = re.compile("[\x80-\x84\x86-\x9f\ue000-\uf8ff]")
_ODD = re.compile(  # Latin and Cyrillic taken for CJK
    "(?<=[A-Za-z])[\u3400-\u9fff\uac00-\ud7af\U00020000-\U0003ffff](?=[A-Za-z])|[\uff61-\uff9f]"
)
_SYMBOL = re.compile("[\xa2-\xa6\xa8\xaa\xac\xaf\xb1-\xb6\xb8-\xba\xbc-\xbe]")  # rare ones of windows-1252
_WORD_END = re.compile(r"[^\x00-\x7f][^\W\d_]*")  # from the first character on that is not ASCII
_PLAIN_LETTER = re.compile("[a-zA-Z]")
_WORDS = 2000  # looked at


def decode(data: bytes, declared: str | None = None) -> Decoded:
    """The text of `data`, in the first of these encodings that it is plausibly in.

    1. That of a byte order mark; UTF-16 without a mark, by its NULs; ISO-2022-JP and -KR, by their escapes.
    2. UTF-8, where most of its multi-byte sequences are whole: text in another encoding hardly ever has any, while
       declarations are often wrong.
    3. `declared`, the charset of the HTTP header; 4. the charset that the page declares.
    5. What a detector finds.
    """
    for mark, name in _MARKS:
        if data.startswith(mark) and (name != "utf-32-le" or len(data) % 4 == 0):
            return decode_as(data[len(mark) :], name).without_cut()
    if name := utf16(data[:SAMPLE_BYTES], declared):
        return decode_as(data, name).without_cut()
    if b"\x1b" in data and data.isascii():
        return _escaped(data, declared)
    try:
        return Decoded(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        cut = error.reason == "unexpected end of data" and error.start >= len(data) - 3
        if cut and not (data[: error.start].isascii() and _other_than_utf8(data, declared)):
            return Decoded(data[: error.start].decode("utf-8"), 1)
    return _damaged_or_legacy(data, declared).without_cut()


def as_dclm(data: bytes, declared: str | None = None) -> Decoded:
    """The text of `data` by Resiliparse's detector alone, whatever was declared, as DCLM has it.

    Bytes that mean nothing are dropped, and not counted: `replaced` is NOT_COUNTED.
    """
    return Decoded(bytes_to_str(data, detect_encoding(data) or "utf-8"), NOT_COUNTED)


def as_utf8(data: bytes) -> Decoded:
    """The text of `data`, which is UTF-8, damaged or not."""
    return decode_as(data.removeprefix(codecs.BOM_UTF8), "utf-8").without_cut()


def utf16(head: bytes, declared: str | None = None) -> str | None:
    """Whether bytes that begin so are UTF-16 without a mark, and which: ASCII characters have a NUL on one side.

    A page begins with one of them; where it was declared, bytes below 32 do for a proof: other text has hardly any.
    """
    name = name_of(declared)
    if b"\0" not in head and name not in UTF16:
        return None
    pairs = len(head) // 2
    little, big = head[1 : 2 * pairs : 2].count(0), head[0 : 2 * pairs : 2].count(0)
    least = max(1, pairs // 5)
    if (little > least or head.startswith(b"<\0")) and big <= little // 3:
        return "utf-16le"
    if (big > least or head.startswith(b"\0<")) and little <= big // 3:
        return "utf-16be"
    return name if name in UTF16 and controls(head) > len(head) // 50 else None


def controls(data: bytes) -> int:
    """Bytes below 32 that text has no use for."""
    return len(data) - len(data.translate(None, _CONTROLS))


def _escaped(data: bytes, declared: str | None) -> Decoded:
    """ASCII with escapes: ISO-2022, or text with a terminal's escapes in it."""
    if data.find(_KOREAN, 0, SAMPLE_BYTES) >= 0:  # the standard has it no longer, pages do
        text = data.decode("iso2022_kr", "replace")
        return Decoded(text, text.count(REPLACEMENT))
    if _JAPANESE.search(data) or "iso-2022-jp" in _declared(data, declared):
        return decode_as(data, "iso-2022-jp")
    return Decoded(data.decode("ascii"))


def _hardly_any_high(data: bytes) -> bool:
    """Whether escapes to Japanese outnumber the bytes above ASCII, which ISO-2022-JP has not but as damage."""
    return len(data) - len(data.translate(None, _HIGH)) <= len(_JAPANESE.findall(data))


def _declared(data: bytes, declared: str | None) -> list[str]:
    """Names of the encodings that were declared, the header's first. What is read as ASCII here is not in UTF-16."""
    names = (name_of(label) for label in (declared, *declared_in_page(data)))
    known = ["windows-1252" if name == "x-user-defined" else name for name in names if name]
    return [name for name in dict.fromkeys(known) if name not in UTF16 and name != "replacement"]


def _other_than_utf8(data: bytes, declared: str | None) -> bool:
    """Whether encodings were declared, and none of them is UTF-8."""
    names = _declared(data, declared)
    return bool(names) and "utf-8" not in names


def _damaged_or_legacy(data: bytes, declared: str | None) -> Decoded:
    """`data`, which is not valid UTF-8, in the encoding that fits best."""
    if b"\x1b" in data and _hardly_any_high(data):
        return decode_as(data, "iso-2022-jp")
    names = _declared(data, declared)
    utf8 = decode_as(data, "utf-8")
    whole = len(utf8.text) - len(data.translate(None, _HIGH)) - utf8.replaced
    says_utf8 = "utf-8" in names
    wrong = _against_utf8(data, utf8) if whole or says_utf8 else utf8.replaced
    if whole > CERTAIN * wrong:
        return utf8
    fits, found = _legacy(data, [name for name in names if name != "utf-8"])
    if fits in MULTI_BYTE or (not says_utf8 and not MULTI_BYTE.isdisjoint(names)):
        return found
    return utf8 if (whole >= wrong and whole) or (2 * whole >= wrong and says_utf8) else found


def _against_utf8(data: bytes, decoded: Decoded) -> int:
    """How many characters of `data` speak against its being UTF-8, as which it is decoded.

    What damage makes of one character is up to four replacements, and counts once; what is recognisably a half of a
    character is not counted.
    """
    repeated = sum(len(one) - 1 for one in _ONE_DAMAGE.findall(decoded.text))
    return decoded.replaced - repeated - len(_HALF.findall(data)) - 3 * len(_SURROGATE.findall(data))


def _legacy(data: bytes, names: list[str]) -> tuple[str | None, Decoded]:
    """`data` in the first of these encodings that fits, else in the one that is detected, if it does; and its name.

    Where none fits, the bytes are damaged, and the first name is right, if it is not wholly out of question; None.
    """
    damaged: Decoded | None = None
    for name in names:
        decoded = decode_as(data, name)
        strange, foreign = _strange(decoded)
        if name in MULTI_BYTE:
            fits = not strange and _few_odd(decoded.text, foreign)
        else:
            share = RARELY_1252 if name == "windows-1252" else RARELY
            fits = not strange or (strange <= 1 + share * foreign and _cased(decoded.text))
        if fits:
            if name == "windows-1252":
                others = names[names.index(name) + 1 :]
                other = _of_the_east(data, decoded.text) or _as_detected(data, others)
                return other or _of_other_letters(data, decoded.text) or (name, decoded)
            return name, decoded
        if name in MULTI_BYTE and strange <= LIGHTLY * foreign and _without_damage(data, name):
            return name, decoded
        if damaged is None and strange <= HARDLY * foreign:
            damaged = decoded
    fits, decoded = _detected(data)
    return (fits, decoded) if fits or damaged is None else (None, damaged)


def _of_the_east(data: bytes, text: str) -> tuple[str | None, Decoded] | None:
    """`data` in an encoding of several bytes a character, though servers declare windows-1252, as they do for anything.

    None where it is in no such encoding: where `text`, which it then is, can be one.
    """
    if not _in_runs(data) or _cased(text):
        return None
    name, decoded = _detected(data)
    strange, foreign = _strange(decoded)
    damaged = name is None and decoded.text != text and strange <= LIGHTLY * foreign
    if foreign < FEW or not (damaged or name in MULTI_BYTE):
        return None
    return (name, decoded) if _few_odd(decoded.text, foreign) else None


def _as_detected(data: bytes, names: list[str]) -> tuple[str, Decoded] | None:
    """`data` in one of these encodings, which the page declares while its server declares windows-1252, as they do for anything.

    None where no detector agrees with the page.
    """
    for name in names:
        decoded, _, fits = _tried(data, name)
        found = (name_of(detect_encoding(data, html5_compatible=False)), _firefox(data))
        if fits and any(other and decode_as(data, other) == decoded for other in found):
            return name, decoded
    return None


def _of_other_letters(data: bytes, text: str) -> tuple[str | None, Decoded] | None:
    """`data` as it is detected, though windows-1252 was declared, where `text`, which it then is, is no western one.

    Words without one plain letter are Cyrillic, Greek, Hebrew, Arabic, Thai ones, or no words.
    """
    words = [word for word in _words(text) if len(word) > 2]
    if len(words) < 2 or 2 * sum(not _PLAIN_LETTER.search(word) for word in words) <= len(words):
        return None
    name, decoded = _detected(data)
    strange, foreign = _strange(decoded)
    return (name, decoded) if decoded.text != text and (name or strange <= LIGHTLY * foreign) else None


def _detected(data: bytes, *, holes: bool = True) -> tuple[str | None, Decoded]:
    """`data` in the encoding that is detected, and its name; None where no encoding gives sense to all of it.

    Two detectors are asked. Resiliparse's bears damage, but knows no characters beyond those of the standards of old
    (UHC, HKSCS, rows of NEC). That of Firefox knows all that the decoders do, and rules out what one byte contradicts.
    holes: bytes that mean nothing in an encoding of one byte a character may be damage, too.
    """
    name = name_of(detect_encoding(data, html5_compatible=False))
    name = "windows-1252" if name is None or name in _NOT_DETECTED else _UKRAINIAN.get(name, name)
    first, strange, fits = _tried(data, name)
    if name in MULTI_BYTE and strange <= LIGHTLY:
        return name if fits else None, first
    if holes and (damaged := _with_holes(data)):
        return damaged
    if fits and not _in_runs(data):
        return name, first
    other = _firefox(data)
    second, _, other_fits = _tried(data, other)
    if other_fits and other in MULTI_BYTE and len(_foreign(second.text)) >= FEW:
        return other, second
    if fits:
        return name, first
    if damaged := _without_damage(data, *_CLEANERS):
        return None, damaged
    if other_fits and other not in MULTI_BYTE:
        return other, second
    return None, first if strange <= HARDLY_DETECTED else decode_as(data, "windows-1252")


def _in_runs(data: bytes) -> bool:
    """Whether most bytes above ASCII stand beside others, as they do in encodings of several bytes a character."""
    kinds = data.translate(_KINDS)
    runs = kinds.count(b"ah") + kinds.startswith(b"h")
    return 2 * (kinds.count(b"h") - runs) >= kinds.count(b"h")


def _firefox(data: bytes) -> str:
    """What the detector of Firefox takes the encoding for: always one of the standard's, and never UTF-8."""
    return name_of(chardetng_py.detect(data)) or "windows-1252"


def _tried(data: bytes, name: str) -> tuple[Decoded, float, bool]:
    """`data` in this encoding, the share of its characters that no text has, and whether it looks like text."""
    decoded = decode_as(data, name)
    strange, foreign = _strange(decoded)
    return decoded, strange / foreign, not strange and (name in MULTI_BYTE or _cased(decoded.text))


def _with_holes(data: bytes) -> tuple[str, Decoded] | None:
    """`data` in an encoding of one byte a character in which few of its bytes have no meaning, and its name.

    Detectors take such bytes for a proof that it is another one; without all that may be such, they find it.
    """
    counts = Counter(data.translate(None, _ASCII))
    most = HOLES * counts.total()
    rare = bytes(byte for byte in set().union(*_holes().values()) if 0 < counts[byte] <= most)
    if not rare:
        return None
    whole = data.translate(None, rare)
    found, decoded = _detected(whole, holes=False)
    if found is None or 2 * sum(map(str.isalpha, _foreign(decoded.text))) < counts.total():
        return None  # of signs alone nothing can be told
    for name, holes in _holes().items():
        if 0 < sum(counts[byte] for byte in holes) <= most and decoded == decode_as(whole, name):
            return name, decode_as(data, name)
    return None


@cache
def _holes() -> dict[str, bytes]:
    """The bytes without a meaning of the encodings of Windows, by their names."""
    numbers = (1252, 1251, 1250, 1253, 1254, 1255, 1256, 1257, 1258, 874)
    names = [f"windows-{number}" for number in numbers]
    tables = ((name, enumerate(table_of(name))) for name in names)
    return {
        name: bytes(i for i, char in table if _STRANGE.match(char) or char == REPLACEMENT) for name, table in tables
    }


def _without_damage(data: bytes, *names: str) -> Decoded | None:
    """`data` in that of these encodings of several bytes a character that is detected once what is damaged is left out."""
    found: list[tuple[float, str, Decoded]] = []
    for name in _CLEANERS.keys() & names:
        python_name = _CLEANERS[name]
        decoded, strange, _ = _tried(data, name)
        if strange <= LIGHTLY and len(_foreign(decoded.text)) >= FEW:
            whole = data.decode(python_name, "ignore").encode(python_name, "ignore")
            found += [(strange, name, decoded)] if _firefox(whole) == name else []
    return min(found, key=lambda one: one[:2])[2] if found else None


def _foreign(text: str) -> str:
    """The characters that are not ASCII."""
    return text.encode("utf-8", "surrogatepass").translate(None, _ASCII).decode("utf-8", "surrogatepass")


def _strange(decoded: Decoded) -> tuple[int, int]:
    """Characters that no text has (replacements, the controls that fill tables up, private use); and all not ASCII."""
    foreign = _foreign(decoded.text)
    return decoded.replaced + len(_STRANGE.findall(foreign)), max(1, len(foreign))


def _few_odd(text: str, foreign: int) -> bool:
    """Whether this is no Latin or Cyrillic text that was taken for CJK. foreign: its characters that are not ASCII."""
    return 2 * len(_ODD.findall(text)) <= foreign


def _cased(text: str) -> bool:
    """Whether this is a text in small letters, capitals at the beginning of words, and few odd symbols.

    Bytes that mean something else give capitals within words, and symbols that nobody writes.
    """
    foreign = _foreign(text)
    if 3 * len(_SYMBOL.findall(foreign)) > len(foreign):
        return False
    words = [word for word in _words(text) if len(word) > 1]
    return sum(map(_is_word, words)) * 5 >= len(words) * 4


@lru_cache(1)  # two questions are asked of a text, one after the other
def _words(text: str) -> list[str]:
    """The first words with a letter that is not ASCII."""
    words: list[str] = []
    for found in _WORD_END.finditer(text):
        word, begin = found[0], found.start()
        if not word[0].isalpha():
            word, begin = word[1:], 0
        if not word.isascii():
            words.append(_ascii_letters_before(text, begin) + word)
            if len(words) == _WORDS:
                break
    return words


def _ascii_letters_before(text: str, end: int) -> str:
    """The ASCII letters that stand before a place without anything between."""
    room = 32
    while True:
        before = text[max(0, end - room) : end]
        letters = before[len(before.rstrip(ascii_letters)) :]
        if len(letters) < len(before) or room >= end:
            return letters
        room *= 4


def _is_word(word: str) -> bool:
    """In small letters but for the first, or caseless, or in capitals: of Latin ones few with accents."""
    if word.isupper():
        return max(word) >= "\u0250" or 2 * len(word.encode("ascii", "ignore")) >= len(word)
    return word[1:].islower() or word.lower() == word.upper()
