"""Figures of each block of a page, and their sums over each element: what both stages of the block model look at."""

from __future__ import annotations

import numpy as np

from stages.kernels import html_layout as L
from stages.kernels.compile import kernel, light
from stages.kernels.hashing import hash_word, load_u8, mix64
from stages.kernels.html_tables import FNV_PRIME, FNV_START, META_DESCRIPTION, TAG, hash_table, lookup

# Columns of `stats`, int32, one row a block. Lengths in characters but for bytes; NUMBER... count.
(CHARS, BYTES, WORDS, DIGITS, UPPER, COMMAS, ENDS, MARKS, LINK, SHAPE, HASH, SAME, SIGNATURE, BEFORE, HINTS, STATS) = range(16)
BEGINS_UPPER, ENDS_SENTENCE, ENDS_COLON, BEGINS_DIGIT = 1, 2, 4, 8  # bits of SHAPE

BEGINS_PHRASE, BEGINS_DESCRIPTION = 1, 2  # bits of HINTS

# Columns of `sums`, float32, one row an element: of all blocks in it.
S_CHARS, S_BYTES, S_LINK, S_BLOCKS, S_PARAGRAPHS, S_COMMAS, S_LIKELY, SUMS = range(8)

_SPACE, _DIGIT, _UPPER_C, _COMMA, _END, _MARK, _START_BYTE, _LETTER = (1 << bit for bit in range(8))


def _kinds() -> np.ndarray:
    kinds = np.zeros(256, np.uint8)
    for byte in range(256):
        char = chr(byte)
        if byte & 0xC0 != 0x80:
            kinds[byte] |= _START_BYTE
        if byte < 128:
            kinds[byte] |= _SPACE * char.isspace() + _DIGIT * char.isdigit() + _UPPER_C * char.isupper()
            kinds[byte] |= _COMMA * (char == ",") + _END * (char in ".!?") + _MARK * (char in ":;|/\"'()[]»«&@#$%*+<>=_-{}~`^\\")
            kinds[byte] |= _LETTER * char.isalpha()
        else:
            kinds[byte] |= _LETTER
    return kinds


_KINDS = _kinds()

# How text begins that leads away from a page's own: to other articles, to sources, pictures and subscriptions.
# Letters beyond ASCII are compared as they stand.
PHRASES = (
    "lesen sie auch | lesen sie | lies auch | lies mehr | mehr zum thema | mehr zu | mehr themen | auch interessant | "
    "das könnte sie | das könnte dich | das könnte ihnen | passend zum thema | weiterlesen | weitere informationen | "
    "weitere artikel | weitere themen | schon gelesen | foto | fotos | bild | bilder | titelbild | quelle | quellen | "
    "quellenangaben | anzeige | werbung | newsletter | jetzt anmelden | jetzt abonnieren | jetzt lesen | zur "
    "startseite | nach oben | kommentar schreiben | kommentare | kommentar | teilen | drucken | auch auf | auch "
    "lesenswert | empfehlungen der redaktion | empfehlungen aus der | zum autor | über den autor | über die autorin | "
    "inhaltsverzeichnis | zur person | zum thema | ähnliche artikel | verwandte artikel | read more | read also | "
    "read next | also read | read | related | related articles | related posts | related stories | more from | more "
    "on | more stories | sign up | subscribe | subscribe now | follow us | follow | share this | share | "
    "advertisement | sponsored | photo | photos | photo by | photo credit | image | image credit | image via | credit "
    "| getty images | about the author | leave a reply | leave a comment | comments | you may also | you might also | "
    "recommended | click here | download the | get the latest | for the latest | most popular | most read | trending "
    "| filed under | tags | posted in | copyright | all rights | skip to | want more | join our | source | sources | "
    "table of contents | in this article | watch | listen | editor's note | lea también | lea más | lea | lee también "
    "| lee más | te puede interesar | le puede interesar | vea también | vea además | ver más | leer más | síguenos | "
    "suscríbete | suscríbase | publicidad | compartir | más noticias | relacionadas | te recomendamos | noticias "
    "relacionadas | lo más leído | fuente | lire aussi | à lire aussi | lire la suite | voir aussi | à découvrir | "
    "crédits photos | crédit photo | crédits | partager | publicité | abonnez-vous | inscrivez-vous | suivez-nous | "
    "sur le même | commenter | commentaires | vous aimerez aussi | les plus lus | czytaj też | czytaj także | czytaj "
    "więcej | czytaj również | zobacz też | zobacz także | zobacz również | reklama | przeczytaj | udostępnij | fot | "
    "fot. | polecamy | zobacz więcej | źródło | więcej | leggi anche | leggi di più | condividi | pubblicità | "
    "potrebbe interessarti | iscriviti | continua a leggere | fonte | leia também | leia mais | veja também | veja "
    "mais | saiba mais | compartilhe | publicidade | siga | assine | lees ook | lees meer | lees verder | deel dit | "
    "bekijk ook | volg ons | bron | läs även | läs också | läs mer | les også | les mer | læs også | læs mere | dela "
    "| annons | annonse | читайте также | Читайте также | подробнее | Подробнее | реклама | Реклама | фото | Фото | "
    "поделиться | Поделиться | смотрите также | Смотрите также | источник | Источник | ayrıca bakınız | ilginizi "
    "çekebilir | 関連記事 | 続きを読む | あわせて読みたい | 相关阅读 | 相關新聞 | 延伸閱讀 | 责任编辑 | 관련기사 "
)
_PHRASE_TABLE = hash_table({phrase.strip(): 1 for phrase in PHRASES.split("|")})
_PHRASE_WORDS = 4
_PREFIX = 24  # letters of a text that are compared with the page's description
_P = TAG["p"]


@light
def _measure(out, start, stop, stats, b):
    chars = words = digits = upper = commas = ends = marks = 0
    between = True
    for i in range(start, stop):
        kind = np.int64(_KINDS[load_u8(out, i)])
        chars += kind >> 6 & 1
        digits += kind >> 1 & 1
        upper += kind >> 2 & 1
        commas += kind >> 3 & 1
        ends += kind >> 4 & 1
        marks += kind >> 5 & 1
        space = kind & _SPACE != 0
        words += np.int64(between and not space)
        between = space
    shape = 0
    last = stop - 1
    while last > start and kind_of_mark(out, last):
        last -= 1
    first = np.int64(_KINDS[load_u8(out, start)])
    if first & _UPPER_C:
        shape |= BEGINS_UPPER
    if first & _DIGIT:
        shape |= BEGINS_DIGIT
    byte = load_u8(out, last)
    if np.int64(_KINDS[byte]) & _END:
        shape |= ENDS_SENTENCE
    if byte == 0x3A:
        shape |= ENDS_COLON
    if last >= start + 2 and load_u8(out, last - 2) == 0xE3 and load_u8(out, last - 1) == 0x80 and byte == 0x82:
        shape |= ENDS_SENTENCE  # the ideographic full stop
    stats[b, CHARS], stats[b, BYTES], stats[b, WORDS], stats[b, DIGITS] = chars, stop - start, words, digits
    stats[b, UPPER], stats[b, COMMAS], stats[b, ENDS], stats[b, MARKS] = upper, commas, ends, marks
    stats[b, SHAPE] = shape


@light
def kind_of_mark(out, at):
    """Whether the byte is a closing quote or bracket, ASCII or the last one of a curly quote."""
    byte = load_u8(out, at)
    if byte == 0x22 or byte == 0x27 or byte == 0x29 or byte == 0x5D:
        return True
    return byte == 0x9D or byte == 0x99 or byte == 0xBB or byte == 0x9C


@light
def _lower(byte):
    return byte | np.uint64(0x20) if 0x41 <= byte <= 0x5A else byte


@light
def _begins_with_phrase(out, start, stop):
    """Whether the first words of out[start:stop], at most _PHRASE_WORDS, are one of PHRASES."""
    key = FNV_START
    words = 0
    i = start
    while i <= stop and i - start <= 80:
        byte = load_u8(out, i) if i < stop else np.uint64(0x20)
        if byte <= 0x20 or byte == 0x3A or byte == 0x2C:  # an end, a colon, a comma
            if lookup(_PHRASE_TABLE, key):
                return True
            words += 1
            if words == _PHRASE_WORDS or byte > 0x20:
                return False
            byte = np.uint64(0x20)
        key = (key ^ _lower(byte)) * FNV_PRIME
        i += 1
    return False


@light
def _prefix(data, start, stop):
    """A hash of the first _PREFIX letters of data[start:stop], digits, signs and white space left out; 0 where it has less."""
    key = FNV_START
    letters = 0
    while start < stop:
        byte = load_u8(data, start)
        if np.int64(_KINDS[byte]) & _LETTER:
            key = (key ^ _lower(byte)) * FNV_PRIME
            letters += 1
            if letters == _PREFIX:
                return key
        start += 1
    return np.uint64(0)


@light
def _descriptions(data, s, notes):
    """Hashes of how the page's first two descriptions of itself begin; 0 for none."""
    first = second = np.uint64(0)
    for i in range(s[L.NN]):
        if notes[i, 0] == META_DESCRIPTION:
            if first == 0:
                first = _prefix(data, np.int64(notes[i, 1]), np.int64(notes[i, 2]))
            elif second == 0:
                second = _prefix(data, np.int64(notes[i, 1]), np.int64(notes[i, 2]))
    return first, second


@light
def _signature(el, tok, element):
    """What elements of one kind have in common: their tags, and the first name, up to the fourth ancestor."""
    key = np.uint64(0x51ED270B)
    for level in range(5):
        if element < 0:
            break
        key = mix64(key ^ np.uint64(el[element, L.E_TAG] + 1))
        if level < 2 and el[element, L.E_TOKS] > 0:
            key = mix64(key ^ np.uint64(tok[el[element, L.E_TOK]]))
        element = el[element, L.E_PARENT]
    return key


@kernel(
    "void(text, text, vec_int64, int32[:, ::1], int32[:, ::1], vec_uint32, int32[:, ::1], int32[:, ::1], float32[:, ::1])"
)
def block_stats(data, out, s, el, bl, tok, notes, stats, sums):
    """Fill `stats` (a row for each block) and `sums` (a row for each element) of a page parsed by `html_blocks`.

    HASH: of the text, 31 bits. SAME: blocks of the page with this text. SIGNATURE: a number for each kind of element,
    from 0. BEFORE: characters of all blocks before this one.
    """
    blocks, elements = s[L.NB], s[L.NE]
    slots = 16
    while slots < 2 * blocks:
        slots *= 2
    texts = np.full(slots, -1, np.int32)
    keys = np.empty(slots, np.uint64)
    places = np.full(slots, -1, np.int32)
    kinds = np.int64(0)
    before = np.int64(0)
    first_description, second_description = _descriptions(data, s, notes)
    for e in range(elements):
        sums[e, :] = 0
    for b in range(blocks):
        start, stop = np.int64(bl[b, L.B_START]), np.int64(bl[b, L.B_STOP])
        _measure(out, start, stop, stats, b)
        stats[b, BEFORE] = before
        stats[b, HINTS] = BEGINS_PHRASE if _begins_with_phrase(out, start, stop) else 0
        if first_description:
            key = _prefix(out, start, stop)
            if key and (key == first_description or key == second_description):
                stats[b, HINTS] |= BEGINS_DESCRIPTION
        before += stats[b, CHARS]
        stats[b, LINK] = bl[b, L.B_LINK]
        key = hash_word(out, start, stop)
        stats[b, HASH] = np.int64(key >> np.uint64(33))
        stats[b, SAME] = 1
        slot = np.int64(key) & (slots - 1)
        while texts[slot] >= 0 and stats[texts[slot], HASH] != stats[b, HASH]:
            slot = (slot + 1) & (slots - 1)
        if texts[slot] >= 0:
            stats[texts[slot], SAME] += 1
        else:
            texts[slot] = b
        element = np.int64(bl[b, L.B_ELEMENT])
        key = _signature(el, tok, element)
        slot = np.int64(key) & (slots - 1)
        while places[slot] >= 0 and keys[slot] != key:
            slot = (slot + 1) & (slots - 1)
        if places[slot] < 0:
            places[slot], keys[slot] = kinds, key
            kinds += 1
        stats[b, SIGNATURE] = places[slot]
        sums[element, S_CHARS] += stats[b, CHARS]
        sums[element, S_BYTES] += stats[b, BYTES]
        sums[element, S_LINK] += stats[b, LINK]
        sums[element, S_BLOCKS] += 1
        sums[element, S_COMMAS] += stats[b, COMMAS]
        if el[element, L.E_TAG] == _P:
            sums[element, S_PARAGRAPHS] += stats[b, CHARS]
    for b in range(blocks):  # the first of equal texts has counted them
        slot = np.int64(hash_word(out, np.int64(bl[b, L.B_START]), np.int64(bl[b, L.B_STOP]))) & (slots - 1)
        while stats[texts[slot], HASH] != stats[b, HASH]:
            slot = (slot + 1) & (slots - 1)
        stats[b, SAME] = stats[texts[slot], SAME]
    for i in range(elements - 1):
        e = elements - 1 - i
        parent = el[e, L.E_PARENT]
        for column in range(S_LIKELY):
            sums[parent, column] += sums[e, column]
