"""What the HTML kernels know by name: tags, attributes, classes, <meta> names and character references.

Names are compared by a 64-bit FNV-1a hash of their lower-case bytes, in open-addressing tables of a quarter's load.
`lookup` of an unknown name gives 0; `name_hash` is the Python twin of what the kernels compute.
"""

from __future__ import annotations

import functools
import html.entities
from collections.abc import Mapping

import numpy as np

from stages.kernels.compile import light_inlined
from stages.kernels.hashing import load_u64

FNV_START, FNV_PRIME = np.uint64(0xCBF29CE484222325), np.uint64(0x100000001B3)


def words(text: str) -> list[str]:
    """The words of a list that is written as one string."""
    return text.split()


# What a tag does to the text around it.
INLINE, BLOCK, TRANSPARENT, VOID, RAW, SKIP = range(6)

_BLOCKS = words(
    "address article aside blockquote body caption center dd details dialog dir div dl dt fieldset figcaption "
    "figure footer form h1 h2 h3 h4 h5 h6 header hgroup html legend li main menu nav ol p pre section summary "
    "table tbody td tfoot th thead tr ul search frameset listing"
)
_INLINES = words(
    "a abbr b big button cite code del em font i ins kbd label mark q s samp small span strike strong sub sup "
    "time tt u var math msup msub msubsup mfrac msqrt mover munder munderover mrow annotation mroot mtable mtr "
    "mtd"
)
_VOIDS = words("br hr img input wbr meta link source track col embed area base param")
_RAWS = words("script style title textarea noscript iframe xmp noembed noframes template annotation-xml")
_SKIPS = words("svg select datalist video audio canvas object")

TAGS = ("", *_BLOCKS, *_INLINES, *_VOIDS, *_RAWS, *_SKIPS, "custom", "unknown")
TAG = {name: code for code, name in enumerate(TAGS)}
CUSTOM, UNKNOWN = TAG["custom"], TAG["unknown"]
KINDS = np.array(
    [INLINE]
    + [BLOCK] * len(_BLOCKS)
    + [INLINE] * len(_INLINES)
    + [VOID] * len(_VOIDS)
    + [RAW] * len(_RAWS)
    + [SKIP] * len(_SKIPS)
    + [TRANSPARENT, INLINE],
    np.int64,
)

ATTRIBUTES = words(
    "class id role itemprop href type encoding alt alttext src hidden aria-hidden style lang name property "
    "content rel datetime display data-latex start value xml:lang http-equiv itemtype"
)
ATTRIBUTE = {name: code for code, name in enumerate(ATTRIBUTES)}

# Classes (whole tokens, lower case) that say what an element's text is.
LINE_NUMBERS, CODE_NUMBERS, PREFORMATTED, RENDERED, DISPLAY, KATEX, KATEX_HTML, FORMULA_IMAGE, EMOJI = (
    1 << bit for bit in range(9)
)
_CLASSES = {
    LINE_NUMBERS: "linenos lineno linenodiv linenumber linenumbers line-number line-numbers line_number line_numbers lnt ln "
    "gutter blob-num hljs-ln-numbers hljs-ln-n hljs-ln-line rouge-gutter crayon-nums crayon-num codemirror-linenumber "
    "react-syntax-highlighter-line-number react-line-number ace_gutter ace_gutter-cell code-line-number "
    "line-numbers-rows line-no code-line-numbers",
    CODE_NUMBERS: "ln num number lines nums line_num linenum line-num",  # inside of <pre> only
    PREFORMATTED: "blob-code-inner blob-code js-file-line hljs-ln-code codemirror-line react-file-line react-code-text "
    "view-line ace_line crayon-line",
    RENDERED: "mathjax mathjax_preview mathjax_chtml mathjax_svg mjx-chtml mathjax_mathml",
    RENDERED | DISPLAY: "mathjax_display mathjax_svg_display mathjax_chtml_display mjxc-display",
    KATEX: "katex",
    KATEX_HTML: "katex-html",
    DISPLAY: "katex-display",
    FORMULA_IMAGE: "latex tex math mwe-math-fallback-image-inline mwe-math-fallback-image-display ql-img-inline-formula "
    "ql-img-displayed-equation texhtml math-tex equation_image eqn mathtex latexmathrender texrender ee_img mathimg",
    EMOJI: "emoji wp-smiley twemoji smiley emojione emoji-img",
}
CLASSES = {name: flags for flags, names in _CLASSES.items() for name in names.split()}

# What a page says of itself; the numbers are those of the records that the parser leaves (`html_blocks`).
(META_TITLE, META_HEADING, META_DATE, META_AUTHOR, META_LANGUAGE, META_JSON, META_TIME, META_ROBOTS, META_LICENSE, META_TDM,
 META_DESCRIPTION) = range(1, 12)  # fmt: skip
_METAS = {
    META_TITLE: "og:title twitter:title dc.title dcterms.title parsely-title headline",
    META_DATE: "article:published_time og:published_time article:published datepublished dc.date dc.date.issued "
    "dcterms.date dcterms.created dcterms.issued date pubdate publishdate publish-date publish_date publication_date "
    "parsely-pub-date sailthru.date citation_date citation_publication_date datecreated created dc.date.created "
    "article.published rnews:datepublished",
    META_AUTHOR: "author article:author og:article:author dc.creator dcterms.creator parsely-author sailthru.author "
    "citation_author byl twitter:creator dc.author",
    META_LANGUAGE: "og:locale content-language dc.language dcterms.language language",
    META_ROBOTS: "robots googlebot ccbot gptbot google-extended",
    META_LICENSE: "dc.rights dcterms.rights dcterms.license license copyright dc.rights.license rights",
    META_DESCRIPTION: "description og:description twitter:description",
    META_TDM: "tdm-reservation tdm-policy",
}
METAS = {name: code for code, names in _METAS.items() for name in names.split()}


def name_hash(name: str) -> int:
    """64-bit FNV-1a (Fowler, Noll, Vo) of the UTF-8 bytes, ASCII letters in lower case."""
    h = int(FNV_START)
    for byte in name.encode().lower():
        h = (h ^ byte) * int(FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
    return h


def hash_table(values: Mapping[str, int]) -> np.ndarray:
    """Open addressing: uint64 [slots, 2] of (hash, value), slots a power of two; value 0 marks an empty slot."""
    slots = 16
    while slots < 4 * len(values):
        slots *= 2
    table = np.zeros((slots, 2), np.uint64)
    for name, value in values.items():
        key = name_hash(name)
        slot = (key ^ key >> 32) % slots
        while table[slot, 1]:
            if int(table[slot, 0]) == key:
                raise ValueError(f"two names have the hash of {name!r}")
            slot = (slot + 1) % slots
        table[slot] = key, value
    table.flags.writeable = False
    return table


@light_inlined
def lookup(table, key):
    """The value of a hashed name in a `hash_table`, int64; 0 where it is not there."""
    last = np.uint64(len(table) - 1)
    slot = (key ^ key >> np.uint64(32)) & last
    while table[slot, 1] != 0 and table[slot, 0] != key:
        slot = (slot + np.uint64(1)) & last
    return np.int64(table[slot, 1])


SPREAD_1, SPREAD_2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD6E8FEB86659FD93)
CASE = np.uint64(0x2020202020202020)  # the bit that makes ASCII letters small


def _attribute_table() -> np.ndarray:
    """As `hash_table`, of ATTRIBUTES, keyed by their length, first eight bytes and last eight bytes (`attribute_code`)."""
    table = np.zeros((128, 2), np.uint64)
    for code, name in enumerate(ATTRIBUTES):
        data = name.encode()
        words = (int.from_bytes((part.ljust(8, b"\0")), "little") for part in (data[:8], data[-8:]))
        first, last = ((word | int(CASE)) & (1 << 8 * min(8, len(data))) - 1 for word in words)
        key = (first * int(SPREAD_1) + last) * int(SPREAD_2) + len(data) & 0xFFFFFFFFFFFFFFFF
        slot = (key ^ key >> 32) % len(table)
        while table[slot, 1]:
            slot = (slot + 1) % len(table)
        table[slot] = key, code + 1
    table.flags.writeable = False
    return table


_ATTRIBUTE_TABLE = _attribute_table()
_LONGEST, _SHORTEST = max(map(len, ATTRIBUTES)), min(map(len, ATTRIBUTES))


@light_inlined
def attribute_code(data, start, stop):
    """The place in ATTRIBUTES of the name data[start:stop], case aside; -1 for another. Reads nothing outside data[:stop + 8]."""
    length = stop - start
    if length > _LONGEST or length < _SHORTEST or start + 8 > len(data):
        return np.int64(-1)
    first = load_u64(data, start) | CASE
    if length <= 8:
        first &= (np.uint64(1) << np.uint64(8 * length)) - np.uint64(1) if length < 8 else ~np.uint64(0)
        last = first
    else:
        last = load_u64(data, stop - 8) | CASE
    return lookup(_ATTRIBUTE_TABLE, (first * SPREAD_1 + last) * SPREAD_2 + np.uint64(length)) - 1


TAG_TABLE = hash_table({name: code for name, code in TAG.items() if name not in ("", "custom", "unknown")})
CLASS_TABLE = hash_table(CLASSES)
META_TABLE = hash_table(METAS)


@functools.cache
def references() -> tuple[np.ndarray, np.ndarray]:
    """HTML's 2,231 named character references: a `hash_table` of name -> offset << 8 | length, and the UTF-8 bytes.

    Names are case-sensitive, so their hash is of the bytes as they are, with the semicolon where the name has one.
    """
    slots = 16384
    table = np.zeros((slots, 2), np.uint64)
    values = bytearray()
    for name, text in sorted(html.entities.html5.items()):
        key = int(FNV_START)
        for byte in name.encode():
            key = (key ^ byte) * int(FNV_PRIME) & 0xFFFFFFFFFFFFFFFF
        slot = (key ^ key >> 32) % slots
        while table[slot, 1]:
            slot = (slot + 1) % slots
        encoded = text.encode()
        table[slot] = key, len(values) << 8 | len(encoded)
        values += encoded
    table.flags.writeable = False
    blob = np.frombuffer(bytes(values), np.uint8)
    return table, blob
