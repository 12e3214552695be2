"""Tables of the rules by which spaCy 3 splits English and Spanish text into words (`spacy.blank("en")`), for `english_words`.

Words are first what white space parts. What stands in EXCEPTIONS is split as it says there; else signs are taken from both
ends, and the rest is split at some signs within. The tests hold the tables to those of an installed spaCy.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from itertools import product
from typing import Literal

import numpy as np
import pyarrow as pa

from stages.document import text_buffers
from stages.filters.french_rules import french_sets
from stages.filters.spanish_rules import spanish_exceptions
from stages.kernels.english_urls import CURRENCY, ICON, LOWER, PUNCTUATION, QUOTE, UPPER
from stages.kernels.english_words import english_words
from stages.kernels.french_words import french_words
from stages.kernels.item_words import word_hashes
from stages.kernels.unicode_tables import code_points

Splitter = Literal["english", "french", "spanish", "unicode"]


def _words(text: str) -> list[str]:
    return text.split()


PUNCTUATION_MARKS = "…,:;!?¿؟¡()[]{}<>_#*&。？！，、；：～·।،۔؛٪"
QUOTES = "'\"”“`‘´’‚,„»«「」『』（）〔〕【】《》〈〉〈〉⟦⟧"
CURRENCIES = "$£€¥฿₽﷼₴₠₡₢₣₤₥₦₧₨₩₪₫₭₮₯₰₱₲₳₵₶₷₸₹₺₻₼₾₿"
UNITS = _words(
    "km km² km³ m m² m³ dm dm² dm³ cm cm² cm³ mm mm² mm³ ha µm nm yd in ft kg g mg µg t lb oz m/s km/h kmh mph hPa Pa "
    "mbar mb MB kb KB gb GB tb TB T G M K % км км² км³ м м² м³ дм дм² дм³ см см² см³ мм мм² мм³ нм кг г мг м/с км/ч "
    "кПа Па мбар Кб КБ кб Мб МБ мб Гб ГБ гб Тб ТБ "
)
# Scripts without case, whose letters count as of both cases: blocks as spaCy has them.
UNCASED = (
    (0x1200, 0x137F), (0x0980, 0x09FF), (0x0591, 0x05F4), (0xFB1D, 0xFB4F), (0x0620, 0x064A), (0x064E, 0x0650), (0x066E, 0x06D5),
    (0x06E5, 0x06E6), (0x06EE, 0x06EF), (0x06FA, 0x06FF), (0x0750, 0x077F), (0x0D80, 0x0DFF), (0x0900, 0x097F), (0x0C80, 0x0CFF),
    (0x0B80, 0x0BFF), (0x0C00, 0x0C7F), (0xAC00, 0xD7AF), (0x1100, 0x11FF), (0x3040, 0x30FF), (0x4E00, 0x9FFF), (0x3400, 0x4DBF),
    (0x20000, 0x2EBEF), (0x2E80, 0x2EFF), (0x2F00, 0x2FDF), (0x2FF0, 0x303F), (0x31C0, 0x31EF), (0x3200, 0x33FF),
    (0xF900, 0xFAFF), (0xFE30, 0xFE4F), (0x1F200, 0x1F2FF), (0x2F800, 0x2FA1F),
)  # fmt: skip
CASED = ((0x41, 0x24F), (0x250, 0x2AF), (0x370, 0x52F), (0x1D00, 0x1D9A), (0x1E00, 0x1FFF), (0x2C60, 0x2C7F), (0xA722, 0xA7FA),
         (0xAB30, 0xAB64), (0xFF21, 0xFF5A))  # fmt: skip
FILTER_BITS = 1 << 17
NO_LETTERS = "ªµº"  # of category Ll or Lo, and in none of spaCy's ranges

EMOTICONS = _words(
    r"""
    :) :-) :)) :-)) :))) :-))) (: (-: =) (= :] :-] [: [-: [= =] :o) (o: :} :-} 8) 8-) (-8 ;) ;-) (; (-; :( :-( :(( :-((
    :((( :-((( ): )-: =( >:( :') :'-) :'( :'-( :/ :-/ =/ =| :| :-| ]= =[ :1 :P :-P :p :-p :O :-O :o :-o :0 :-0 :() >:o
    :* :-* :3 :-3 =3 :> :-> :X :-X :x :-x :D :-D ;D ;-D =D xD XD xDD XDD 8D 8-D ^_^ ^__^ ^___^ >.< >.> <.< ._. ;_; -_-
    -__- v.v V.V v_v V_V o_o o_O O_o O_O 0_o o_0 0_0 o.O O.o O.O o.o 0.0 o.0 0.o @_@ <3 <33 <333 </3 (^_^) (-_-) (._.)
    (>_<) (*_*) (¬_¬) ಠ_ಠ ಠ︵ಠ (ಠ_ಠ) ¯\(ツ)/¯ (╯°□°）╯︵┻━┻ ><(((*>
    """
)
ALWAYS_WHOLE = _words(r"""' \") <space> '' C++ \t \n — ä. ö. ü.""")  # in any language
WHOLE = _words(
    r"""
    'S 's ‘S ‘s and/or w/o 're 'Cause 'cause 'cos 'Cos 'coz 'Coz 'cuz 'Cuz 'bout
    ma'am Ma'am o'clock O'clock lovin' Lovin' lovin Lovin havin' Havin' havin Havin Mt. Ak. Ala. Apr. Ariz. Ark. Aug.
    Calif. Colo. Conn. Dec. Del. Feb. Fla. Ga. Ia. Id. Ill. Ind. Jan. Jul. Jun. Kan. Kans. Ky. La. Mar. Mass. Mich.
    Minn. Miss. N.C. N.D. N.H. N.J. N.M. N.Y. Neb. Nebr. Nev. Nov. Oct. Okla. Ore. Pa. S.C. Sep. Sept. Tenn. Va. Wash.
    Wis. 'd a.m. Adm. Bros. co. Co. Corp. D.C. Dr. e.g. E.g. E.G. Gen. Gov. i.e. I.e. I.E. Inc. Jr. Ltd. Md. Messrs. Mo.
    Mont. Mr. Mrs. Ms. p.m. Ph.D. Prof. Rep. Rev. Sen. St. vs. v.s. em 'em ll 'll nuff 'nuff
    """
)
SPLIT = _words(
    """
    y'|all y|all how|'d|'y How|'d|'y not|'ve not|ve Not|'ve Not|ve can|not Can|not gon|na Gon|na got|ta Got|ta let|'s
    Let|'s c'm|on C'm|on
    """
)
NOT_SPLIT = _words("Ill ill Its its Hell hell Shell shell Shed shed were Were Well well Whore whore")


@cache
def exceptions(spanish: bool = False) -> dict[str, tuple[str, ...]]:
    """Words that are split in their own way, with their parts."""
    if spanish:
        return _common_exceptions() | spanish_exceptions()
    found = _common_exceptions() | {one: (one,) for one in WHOLE}
    found |= {f"{hour}{half}": (str(hour), half) for hour in range(1, 13) for half in ("a.m.", "am", "p.m.", "pm")}
    for word in ("doin", "goin", "nothin", "nuthin", "ol", "somethin"):
        for one in (word, word.title()):
            found |= {one: (one,), f"{one}'": (f"{one}'",)}
    parts = [tuple(one.split("|")) for one in SPLIT] + list(_contractions())
    found |= {"".join(one): one for one in parts}
    return {word: part for word, part in _with_curly(found).items() if word not in NOT_SPLIT}


def _common_exceptions() -> dict[str, tuple[str, ...]]:
    """Those of any language."""
    found: dict[str, tuple[str, ...]] = {one: (one,) for one in (*EMOTICONS, *ALWAYS_WHOLE)}
    found |= {f"{letter}.": (f"{letter}.",) for letter in "abcdefghijklmnopqrstuvwxyz"}
    found |= {f"°{unit}.": ("°", unit, ".") for unit in "cfkCFK"}
    return _with_curly(found)


def _with_curly(found: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """With typed apostrophes too."""
    plain = {word: part for word, part in found.items() if "'" in word}
    return found | {word.replace("'", "’"): tuple(one.replace("'", "’") for one in part) for word, part in plain.items()}


def _contractions() -> list[tuple[str, ...]]:
    """I'm, they'll've, who'd, don't, and the same without apostrophes."""
    pronouns, others = ["i", "you", "he", "she", "it", "we", "they"], ["who", "what", "when", "where", "why", "how", "there"]
    these, this = ["these", "those"], ["that", "this"]
    ends: list[tuple[list[str], tuple[str, ...]]] = [
        (["i"], ("'m",)), (["i"], ("'m", "a")), (pronouns + others + these + this, ("'ll",)),
        (pronouns + others + these + this, ("'ll", "'ve")), (pronouns + others + these + this, ("'d",)),
        (pronouns + others + these + this, ("'d", "'ve")), (["i", "you", "we", "they", *others, *these], ("'ve",)),
        (["you", "we", "they", *others, *these], ("'re",)), (["he", "she", "it", *others, *this], ("'s",)),
        (["could", "might", "must", "should", "would"], ("'ve",)),
    ]  # fmt: skip
    verbs = _words("ca could do does did had may might must need ought sha should wo would")
    ends += [(verbs, ("n't",)), (verbs, ("n't", "'ve")), (_words("ai are is was were have has dare"), ("n't",))]
    return [
        (start, *(one.replace("'", "") if plain else one for one in end))
        for words, end in ends
        for word, plain in product(words, (False, True))
        for start in (word, word.title())
    ]


@cache
def character_kinds() -> np.ndarray:
    """What each code point is (uint8, bits of stages/kernels/english_words.py)."""
    kinds = np.zeros(0x110000, np.uint8)
    for first, last in CASED:
        for point in range(first, last + 1):
            category = unicodedata.category(chr(point))
            kinds[point] |= LOWER * (category == "Ll") + UPPER * (category == "Lu")
    for letter in NO_LETTERS:
        kinds[ord(letter)] = 0
    for first, last in UNCASED:
        kinds[first : last + 1] |= LOWER | UPPER
    for point in (*range(0x80, 0x3300), *range(0xA490, 0xAAFF), *range(0xFDFC, 0xFFFF), *range(0x10100, 0x1FA70)):
        if unicodedata.category(chr(point)) == "So":
            kinds[point] |= ICON
    for marks, kind in ((PUNCTUATION_MARKS, PUNCTUATION), (QUOTES, QUOTE), (CURRENCIES, CURRENCY)):
        for mark in marks:
            kinds[ord(mark)] |= kind
    return kinds


@cache
def exception_table(spanish: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(hashes of exceptions, sorted; a bit for each; bytes of the first two parts of each, 0 for none: [exceptions, 2])."""
    words = [(word, parts) for word, parts in exceptions(spanish).items() if " " not in word]  # the others the kernel knows
    hashes = _hashes([word for word, _ in words])
    lengths = np.array([[len(part.encode()) for part in (*parts, "", "")[:2]] for _, parts in words], np.int64)
    for row, (_, parts) in enumerate(words):
        lengths[row, len(parts) - 1 :] = 0  # the last part is what is left
    order = np.argsort(hashes)
    filter = np.zeros(FILTER_BITS // 64, np.uint64)
    bits = hashes & np.uint64(FILTER_BITS - 1)
    np.bitwise_or.at(filter, (bits >> np.uint64(6)).astype(np.int64), np.uint64(1) << (bits & np.uint64(63)))
    return hashes[order], filter, np.ascontiguousarray(lengths[order])


@cache
def unit_hashes(spanish: bool = False) -> np.ndarray:
    """Hashes of units of measurement, sorted."""
    return np.sort(_hashes([unit for unit in UNITS if unit != "%" or not spanish]))


def _hashes(words: list[str]) -> np.ndarray:
    data, offsets = text_buffers(pa.array(words, pa.large_string()))
    data = np.concatenate([data, np.zeros(8, np.uint8)])
    hashes, ends = np.empty(len(data), np.uint64), np.empty(len(offsets), np.int64)
    return hashes[: word_hashes(data, offsets, hashes, ends)].copy()


def english_spans(texts: pa.Array, spanish: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Where the words of each text of a `large_string` column begin and end, in its bytes, and how many stand before each text.

    Begin and end stand behind one another (int64), the counts are n + 1 (int64): what kernels take for words given.
    spanish: by the rules for Spanish.
    """
    data, offsets = text_buffers(texts)
    spans, ends = np.empty(2 * int(offsets[-1] - offsets[0]) + 2, np.int64), np.empty(len(offsets), np.int64)
    tables = (character_kinds(), *exception_table(spanish), unit_hashes(spanish))
    count = english_words(data, offsets, code_points(), *tables, spanish, spans, ends)
    return spans[: 2 * count], ends


def word_spans(texts: pa.Array, splitter: Splitter) -> tuple[np.ndarray, np.ndarray]:
    """`english_spans`; for `unicode` two empty arrays, by which kernels know that they are to split text themselves.

    For `french` these words are joined and parted as stages/kernels/french_words.py says.
    """
    if splitter == "unicode":
        return np.empty(0, np.int64), np.empty(0, np.int64)
    spans, ends = english_spans(texts, splitter == "spanish")
    if splitter != "french":
        return spans, ends
    data, offsets = text_buffers(texts)
    out, out_ends = np.empty(2 * int(offsets[-1] - offsets[0]) + 2, np.int64), np.empty_like(ends)
    return out[: 2 * french_words(data, spans, ends, *french_sets(), out, out_ends)], out_ends
