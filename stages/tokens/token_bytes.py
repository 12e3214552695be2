"""Text from tokens by table: in a byte-level vocabulary every token stands for fixed bytes, so decoding is a gather.

That gives what `tokenizers` decodes (its ByteLevel decoder maps each character of a token's name to one byte; a name
with another character, as added tokens may have, stands for its UTF-8), without a Python list of a document's tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pyarrow as pa
import tokenizers

from stages.document import text_array

GATHER_BYTES = 4 << 20  # of text made at once: the gather's int64 places take eight times as much


class TokenBytes:
    """The bytes that each token of a vocabulary stands for.

    `exact` is False for tokenizers whose decoder is not byte-level: then `sizes` is a close count (spaces for `▁`, one
    byte for `<0x0A>`), and `texts` asks the tokenizer itself.
    """

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        self.tokenizer = tokenizer
        self.exact = _is_byte_level(json.loads(tokenizer.to_str()).get("decoder"))
        vocabulary = tokenizer.get_vocab(with_added_tokens=True)
        names: list[bytes] = [b""] * (max(vocabulary.values(), default=-1) + 1)
        alphabet = _alphabet()
        for name, number in vocabulary.items():
            names[number] = _bytes_of(name, alphabet) if self.exact else _about(name)
        self.sizes = np.array([len(name) for name in names], np.int64)  # bytes of each token
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._data = np.frombuffer(b"".join(names), np.uint8)

    def text_bytes(self, tokens: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Bytes of each document's text (int64). `ends`: where documents end in the flat `tokens`."""
        total = np.concatenate([np.zeros(1, np.int64), np.cumsum(self.sizes[tokens])])
        return np.diff(total[np.concatenate([[0], ends])])

    def texts(self, tokens: np.ndarray, ends: np.ndarray) -> pa.Array:
        """The text of each document (`large_string`); bytes that are no UTF-8 become U+FFFD."""
        if not self.exact:
            starts = np.concatenate([[0], ends[:-1]])
            lists = [tokens[a:b].tolist() for a, b in zip(starts, ends, strict=True)]
            return pa.array(self.tokenizer.decode_batch(lists, skip_special_tokens=False), pa.large_string())
        data = np.concatenate([np.zeros(0, np.uint8), *self._gather(tokens)])
        sizes = self.text_bytes(tokens, ends)
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        found = text_array(data, offsets)
        try:
            found.validate(full=True)
        except pa.ArrowInvalid:
            raw = data.tobytes()
            decoded = [raw[a:b].decode(errors="replace") for a, b in pairwise(offsets)]
            return pa.array(decoded, pa.large_string())
        return found

    def _gather(self, tokens: np.ndarray) -> Iterator[np.ndarray]:
        step = max(1, GATHER_BYTES // max(int(self.sizes.mean()) if len(self.sizes) else 1, 1))
        for first in range(0, len(tokens), step):
            part = tokens[first : first + step]
            sizes = self.sizes[part]
            before = np.cumsum(sizes) - sizes
            places = np.repeat(self._starts[part] - before, sizes)
            places += np.arange(len(places))
            yield self._data[places]


def _is_byte_level(decoder: dict | None) -> bool:
    if decoder and decoder.get("type") == "Sequence":
        inner = decoder.get("decoders", [])
        return len(inner) == 1 and _is_byte_level(inner[0])
    return bool(decoder) and decoder.get("type") == "ByteLevel"


def _alphabet() -> dict[str, int]:
    """GPT-2's names for bytes: printable Latin-1 stands for itself, the others for U+0100 onwards, in order."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def _bytes_of(name: str, alphabet: dict[str, int]) -> bytes:
    try:
        return bytes(alphabet[character] for character in name)
    except KeyError:
        return name.encode()


def _about(name: str) -> bytes:
    if len(name) == 6 and name.startswith("<0x") and name.endswith(">"):
        return b"?"
    return name.replace("▁", " ").encode()
