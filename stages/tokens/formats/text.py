"""The text that a block's documents stand for."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from stages.tokens.formats.block import Block
from stages.tokens.token_bytes import TokenBytes


def texts(block: Block, eos: int, decoder: TokenBytes) -> pa.Array:
    """The text of each document (`large_string`), without the end token that closes it."""
    closing = _closing(block, eos)
    if not closing.any():
        return decoder.texts(block.tokens, block.ends)
    kept = np.ones(len(block.tokens), bool)
    kept[block.ends[closing] - 1] = False
    return decoder.texts(block.tokens[kept], block.ends - np.cumsum(closing))


def text_bytes(block: Block, eos: int, decoder: TokenBytes) -> np.ndarray:
    """UTF-8 bytes of each document's text (int64), without the end token that closes it."""
    return decoder.text_bytes(block.tokens, block.ends) - _closing(block, eos) * decoder.sizes[eos]


def _closing(block: Block, eos: int) -> np.ndarray:
    """Which documents end in the end token (bool)."""
    closing = block.lengths > 0
    closing[closing] = block.tokens[block.ends[closing] - 1] == eos
    return closing
