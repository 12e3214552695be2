"""What strict patterns for personal information look up: kinds of bytes, and words around a find, by hash."""

from __future__ import annotations

import numpy as np

from stages.kernels.compile import helper, inlined
from stages.kernels.hashing import load_u8

LETTER, DIGIT, LOCAL, STARTS, HEX = 1, 2, 4, 8, 16  # kinds of bytes; LOCAL: of the part of an e-mail address before the @
LONGEST_WORD = 16  # bytes of a word that is looked up


def _byte_kinds() -> np.ndarray:
    kinds = np.zeros(256, np.uint8)
    for byte in range(256):
        char = chr(byte)
        letter = byte >= 0x80 or char.isalpha()
        kinds[byte] = LETTER * letter + DIGIT * (byte < 0x80 and char.isdigit())
        kinds[byte] += LOCAL * (letter or (byte < 0x80 and char.isdigit()) or char in ".!#$%&'*+/=?^_`{|}~-")
        kinds[byte] += STARTS * (char in "@+([0123456789") + HEX * (char in "0123456789abcdefABCDEF")
    return kinds


def word_hash(word: str) -> int:
    """The hash by which words are looked up: FNV-1a over UTF-8 bytes, ASCII letters in lower case."""
    value = 0xCBF29CE484222325
    for byte in word.encode():
        value = ((value ^ (byte | 32 if 65 <= byte <= 90 else byte)) * 0x100000001B3) % 2**64
    return value


def word_set(words: str) -> np.ndarray:
    """The words of a string as `_known` looks them up."""
    return np.array(sorted({word_hash(word) for word in words.split()}), np.uint64)


KINDS = _byte_kinds()
CALL = word_set(
    "call phone phones telephone tel mobile mob cell cellphone fax ph dial ring hotline helpline landline whatsapp sms contact "
    "telefon telefax fon handy mobil rufnummer telefonnummer telefonisch faxnummer mobilnummer handynummer kundenhotline "
    "servicehotline infotelefon téléphone tél appelez portable teléfono telefono tfno tlf móvil llame telefone "
    "celular тел телефон звоните 电话 電話 手机"
)
TO_NUMBER = word_set("us me him her them at on to no nr number numbers is the our my today unter al a au le la el número numéro")
NO_CALL = word_set(
    "isbn issn ssn ean upc doi id ids sku iban patent invoice order timestamp pmid oclc part model serial sn ref reference "
    "account acct batch lot tracking"
)
NO_IP = word_set(
    "version versions ver v section sections sec chapter clause paragraph article appendix table figure fig release build "
    "firmware driver revision rev update patch abschnitt kapitel sección chapitre версия 版本 § rule item annex ec kernel linux "
    "java jdk jre chrome firefox android ios opera safari windows nginx"
)
HOST = word_set(
    "ip ips ipv host hosts server servers dns address addr ping nameserver gateway proxy router resolver node ssh curl "
    "from"
)
_AROUND = np.array([chr(b) in " :.#=" for b in range(256)])


@inlined
def is_kind(data, at, kind):
    return KINDS[load_u8(data, at)] & kind != 0


@helper
def has_word(words, value):
    low, high = 0, len(words)
    while low < high:
        middle = (low + high) // 2
        if words[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(words) and words[low] == value


@helper
def words_hash(data, start, end):
    value = np.uint64(0xCBF29CE484222325)
    for i in range(start, end):
        byte = load_u8(data, i)
        if 65 <= byte <= 90:
            byte |= np.uint64(32)
        value = (value ^ byte) * np.uint64(0x100000001B3)
    return value


@helper
def _word_start(data, first, end):
    """Where the word that ends at `end` begins, behind punctuation of any script; `end` where there is none, or one too long."""
    start = end
    while start > first and end - start <= LONGEST_WORD and is_kind(data, start - 1, LETTER):
        start -= 1
        byte = load_u8(data, start)
        if byte >= 0xC2:
            second = load_u8(data, start + 1)
            general = (byte == 0xE2 and second <= 0x82) or (byte == 0xE3 and second == 0x80)
            if byte == 0xC2 or general or (byte == 0xEF and second >= 0xBC):
                start += 2 if byte == 0xC2 else 3
                break
    return start if end - start <= LONGEST_WORD else end


@helper
def _word_end(data, first, at):
    """Where the word before `at` ends: a no-break space and up to three of ` :.#=` aside, or one full-width colon."""
    end = at
    if end - 2 >= first and load_u8(data, end - 2) == 0xC2 and load_u8(data, end - 1) == 0xA0:
        end -= 2
    stop = end
    while end > first and stop - end < 3 and _AROUND[load_u8(data, end - 1)]:
        end -= 1
    if end - 3 < first or load_u8(data, end - 3) != 0xEF or load_u8(data, end - 2) != 0xBC or load_u8(data, end - 1) != 0x9A:
        return end
    return end - 3


@helper
def word_before(data, first, at):
    """The hash of the word before `at`; 0 for none."""
    end = _word_end(data, first, at)
    start = _word_start(data, first, end)
    return words_hash(data, start, end) if start < end else np.uint64(0)


@helper
def is_called(data, first, at):
    """Whether a word like `call` is before `at`, at most three like `us at` between."""
    for _ in range(4):
        end = _word_end(data, first, at)
        start = _word_start(data, first, end)
        if start == end:
            return False
        word = words_hash(data, start, end)
        if not has_word(TO_NUMBER, word):
            return has_word(CALL, word)
        at = start
    return False
