"""Taking in documents that were tokenized elsewhere: checked, ended, and written as a part's token files.

What comes out is what `stages.tokens.tokenize` writes for a part, so that the same code cuts it into shards.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.books import StepBooks
from stages.document import text_array
from stages.kernels.tokens import finish
from stages.tokens.formats.block import Block
from stages.tokens.formats.text import text_bytes, texts
from stages.tokens.shard_format import ShardError
from stages.tokens.token_bytes import TokenBytes
from stages.tokens.token_file import TokenFile, TokenWriter
from stages.tokens.tokenize import EMPTY, held_out_texts
from stages.tokens.tokenizer import Tokenizer


@dataclass(frozen=True)
class Adopted:
    """What `adopt` wrote: as `TokenPart`, and to how many documents it gave the end token."""

    train: TokenFile
    held_out: TokenFile
    books: StepBooks
    ended: int


def adopt(
    blocks: Iterable[Block],
    tokenizer: Tokenizer,
    decoder: TokenBytes,
    out_prefix: str | Path,
    name: str,
    held_out_fraction: float = 0.0,
    salt: str = "",
    append_eos: bool = True,
) -> Adopted:
    """Write PREFIX.train.tokens, PREFIX.train.parquet and the same for held_out; documents keep their order.

    A document without tokens is left out (`skip_empty`); one that does not end in the end token is given it, where
    `append_eos` is set. Which ones are held out is told as in a run, by their text; where that is not known exactly
    (`decoder.exact`), by their tokens. `name` is what errors call the file. Raises ShardError for ids beyond the vocabulary.
    """
    books = StepBooks("import")
    ended = 0
    with TokenWriter(out_prefix, "train") as train, TokenWriter(out_prefix, "held_out") as held_out:
        for block in blocks:
            full, added = _finished(block, tokenizer, append_eos, name)
            ended += added
            sizes = text_bytes(full, tokenizer.eos_id, decoder)
            books.into.add(len(block), int(sizes.sum()))
            if len(full) < len(block):
                books.drop(EMPTY, len(block) - len(full), 0)
            books.out.add(len(full), int(sizes.sum()))
            held = _held_out(full, tokenizer, decoder, held_out_fraction, salt)
            for writer, rows in ((train, ~held), (held_out, held)):
                if rows.any():
                    some = full.where(rows)
                    writer.append(some.tokens, some.starts, some.ends, some.ids, some.srcs, some.locs, sizes[rows])
    return Adopted(train.written(), held_out.written(), books, ended)


def _held_out(block: Block, tokenizer: Tokenizer, decoder: TokenBytes, fraction: float, salt: str) -> np.ndarray:
    """Which documents are held out (bool)."""
    if fraction <= 0:
        return np.zeros(len(block), bool)
    if decoder.exact:
        return held_out_texts(tokenizer.prepare(texts(block, tokenizer.eos_id, decoder)), fraction, salt)
    offsets = np.concatenate([np.zeros(1, np.int64), block.ends]) * block.tokens.itemsize
    return held_out_texts(text_array(block.tokens.view(np.uint8), offsets, pa.large_binary()), fraction, salt)


def _finished(block: Block, tokenizer: Tokenizer, append_eos: bool, name: str) -> tuple[Block, int]:
    """The block's documents that have tokens, in the tokenizer's dtype, ended; and how many were not."""
    if len(block.tokens) and not 0 <= int(block.tokens.min()) <= int(block.tokens.max()) < tokenizer.vocab_size:
        beyond = (block.tokens < 0) | (block.tokens >= tokenizer.vocab_size)
        at = int(np.flatnonzero(beyond)[0])
        row = int(np.searchsorted(block.ends, at, side="right"))
        raise ShardError(
            f"{name}: document {block.ids[row].as_py()} has token {block.tokens[at]}, and {tokenizer.path} has "
            f"{tokenizer.vocab_size:,} entries: the file was made with another tokenizer, or its tokens have another size "
            "(--dtype)"
        )
    full = block.lengths > 0
    kept = block.where(full)
    offsets = np.concatenate([np.zeros(1, np.int64), kept.ends])
    tokens = np.ascontiguousarray(kept.tokens, np.uint32)
    done, ends = finish(tokens, offsets, np.ones(len(kept), bool), append_eos, tokenizer.eos_id, tokenizer.dtype)
    return Block(done, ends[1:], kept.ids, kept.srcs, kept.locs), len(done) - len(tokens)
