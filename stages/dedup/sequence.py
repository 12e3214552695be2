"""The units that `substring` compares: words, bytes or tokens of texts, as bytes for a suffix array, and back to spans.

See stages.kernels.substrings for the form of a sequence.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.dedup.shuffle import OpenFile
from stages.dedup.spec import Substring
from stages.document import text_buffers
from stages.errors import UserError
from stages.kernels import substrings
from stages.kernels.substring_spans import whole_characters, word_spans
from stages.kernels.unicode_tables import code_points
from stages.tokens.token_bytes import TokenBytes
from stages.tokens.tokenizer import EncodeRules, Tokenizer, load_tokenizer

_NO_RULES = EncodeRules(strip=False, skip_empty=False, append_eos=False, special_tokens_in_text="split")


@dataclass(frozen=True)
class _Tokens:
    tokenizer: Tokenizer
    sizes: np.ndarray  # bytes of each token (int64)


@dataclass(frozen=True)
class Units:
    """How texts are cut into units. stride: bytes of a unit in the sequence, 0 for words."""

    length: int
    stride: int
    tokens: _Tokens | None = None

    @property
    def shift(self) -> int:
        """A place in the sequence, shifted right by this, is a number of its own for each unit."""
        return {0: 1, 1: 0, 2: 1, 4: 2}[self.stride]

    def sequence(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Texts as a sequence (uint8), and the bytes of it that each takes (int64): 0, where it has too few units."""
        data, offsets = text_buffers(texts)
        size, count = int(offsets[-1] - offsets[0]), len(texts)
        if self.tokens is not None:
            return self._token_sequence(texts)
        sizes = np.empty(count, np.int64)
        if self.stride:
            out = np.empty(size + count, np.uint8)
            used = substrings.byte_sequence(data, offsets, self.length, out, sizes)
        else:
            out = np.empty(2 * size + count, np.uint8)  # pages never written take no memory
            used = substrings.word_sequence(data, offsets, code_points(), self.length, out, sizes)
        return out[:used], sizes

    def spans(
        self, texts: pa.Array, rows: np.ndarray, begins: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Bytes within the texts, from and to, of pieces: units begins to ends of texts `rows` (sorted, int64 all)."""
        data, offsets = text_buffers(texts)
        if self.stride == 0:
            starts, stops = np.empty(len(rows), np.int64), np.empty(len(rows), np.int64)
            word_spans(data, offsets, code_points(), rows, begins, ends, starts, stops)
            return starts, stops
        if self.tokens is not None:
            ids, bounds = self._encode(texts)
            reach = np.append(0, np.cumsum(self.tokens.sizes[ids]))
            first = bounds[rows]
            starts, stops = reach[first + begins] - reach[first], reach[first + ends] - reach[first]
        else:
            starts, stops = begins.copy(), ends.copy()
        whole_characters(data, offsets, rows, starts, stops)
        return starts, stops

    def _encode(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and where those of each text begin (n + 1). Raises UserError where they do not add up to the texts."""
        assert self.tokens is not None
        ids, bounds = self.tokens.tokenizer.encode(texts)
        reach = np.append(0, np.cumsum(self.tokens.sizes[ids]))[bounds]
        if not np.array_equal(np.diff(reach), np.diff(text_buffers(texts)[1])):
            raise UserError(
                f"{self.tokens.tokenizer.path}: this tokenizer changes the text, so its tokens cannot be cut out of it; "
                "name another, or use unit: words"
            )
        return ids, bounds

    def _token_sequence(self, texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        ids, bounds = self._encode(texts)
        counts = np.diff(bounds)
        stays = counts >= self.length
        ids, counts = ids[np.repeat(stays, counts)], counts[stays]
        out = np.full(len(ids) + len(counts), -1, f">i{self.stride}")
        out[np.arange(len(ids)) + np.repeat(np.arange(len(counts)), counts)] = ids
        sizes = np.zeros(len(texts), np.int64)
        sizes[stays] = (counts + 1) * self.stride
        return out.view(np.uint8), sizes


def open_units(spec: Substring, open_file: OpenFile) -> Units:
    """The units that a recipe asks for; a tokenizer is read with `open_file`. Raises UserError for one that won't do."""
    if spec.unit != "tokens":
        return Units(spec.length, 1 if spec.unit == "bytes" else 0)
    name = str(spec.tokenizer)
    with open_file(name) as file:
        content = file.read()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokenizer.json"
        path.write_bytes(content)
        try:
            tokenizer = load_tokenizer(path, rules=_NO_RULES)
        except UserError as error:
            raise UserError(str(error).replace(str(path), name)) from None
    tokenizer.path = name
    sizes = TokenBytes(tokenizer.reference.tokenizer)
    if not sizes.exact:
        raise UserError(f"{name}: substring needs a byte-level tokenizer; name another, or use unit: words")
    return Units(spec.length, 2 if tokenizer.vocab_size < 1 << 16 else 4, _Tokens(tokenizer, sizes.sizes))
