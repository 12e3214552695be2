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
        kinds[byte] += STARTS * (char in "@+(0123456789") + HEX * (char in "0123456789abcdefABCDEF")
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
    "call phone phones telephone tel mobile cell cellphone fax ph dial hotline whatsapp sms contact telefon handy mobil "
    "rufnummer téléphone tél appelez portable teléfono telefono móvil llame telefone celular тел телефон звоните 电话 電話 手机"
)
NO_CALL = word_set("isbn issn ssn ean upc doi id ids sku iban patent invoice order timestamp pmid oclc")
NO_IP = word_set(
    "version versions ver v section sections sec chapter clause paragraph article appendix table figure fig release build "
    "firmware driver revision rev update patch abschnitt kapitel sección chapitre версия 版本 § rule item annex ec"
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
def word_before(data, first, at):
    """The hash of the word before `at`, up to two of ` :.#=` aside; 0 for none, or one that is too long."""
    end = at
    while end > first and at - end < 3 and _AROUND[load_u8(data, end - 1)]:
        end -= 1
    start = end
    while start > first and end - start <= LONGEST_WORD and is_kind(data, start - 1, LETTER):
        start -= 1
    if start == end or end - start > LONGEST_WORD:
        return np.uint64(0)
    return words_hash(data, start, end)
