"""Changes the words of a text, so that copies of real documents make a larger corpus that is not full of copies.

In each document over half of the distinct words, those that filters count as stop words left out, become other words
of the corpus of the same length, one in ten of them spelled as no other. So neither dedup nor a tokenizer's cache
meets the same text again, while filters keep about the same share of documents.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable

CHANGED = 0.6  # of a document's distinct words of four letters and more
NEW_SPELLING = 0.1  # of those

# Scripts, styles, comments and tags; else text, in the group of that name.
_PIECES = re.compile(rb"(?is)<(script|style|noscript)\b.*?</\1\s*>|<!--.*?-->|<[^>]*>|(?P<text>[^<]+)")
# ASCII words that are whole words in any encoding that extends ASCII; no entity, no part of an accented word.
_WORD = re.compile(rb"(?<![A-Za-z0-9\x80-\xff&#])[A-Za-z]{4,}(?![A-Za-z0-9\x80-\xff;])")
_STOP = {b"that", b"have", b"with"}


def alter(text: bytes, words: dict[int, list[bytes]], seed: str) -> bytes:
    """A page (or plain text) with other words. Equal words become equal words, so what repeats goes on to repeat."""
    rng = random.Random(seed)
    changed: dict[bytes, bytes] = {}

    def replace(found: re.Match[bytes]) -> bytes:
        word = found[0].lower()
        if word not in changed:
            changed[word] = _other_word(word, words, rng)
        new = changed[word]
        return new.upper() if found[0].isupper() else new.capitalize() if found[0][:1].isupper() else new

    return _PIECES.sub(lambda piece: _WORD.sub(replace, piece[0]) if piece["text"] else piece[0], text)


def _other_word(word: bytes, words: dict[int, list[bytes]], rng: random.Random) -> bytes:
    if word in _STOP or rng.random() >= CHANGED or len(word) not in words:
        return word
    new = bytearray(rng.choice(words[len(word)]))
    if rng.random() < NEW_SPELLING:
        new[rng.randrange(len(new))] = rng.randrange(ord("a"), ord("z") + 1)
    return bytes(new)


def vocabulary(texts: Iterable[bytes]) -> dict[int, list[bytes]]:
    """All distinct words of some pages or texts, by length: what `alter` draws from."""
    found: set[bytes] = set()
    for text in texts:
        for piece in _PIECES.finditer(text):
            if piece["text"]:
                found.update(word.lower() for word in _WORD.findall(piece[0]))
    words: dict[int, list[bytes]] = {}
    for word in sorted(found - _STOP):
        words.setdefault(len(word), []).append(word)
    return words
