"""The native form, which is OLMo's: `NAME.npy` with raw tokens and `NAME.csv.gz` (see `stages.tokens.shard_format`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

import numpy as np
import pyarrow.compute as pc

from stages.tokens.formats.block import BLOCK_TOKENS, Block, Hashed, Rows, blocks, numbered
from stages.tokens.index_table import read_index_batches
from stages.tokens.manifest_shape import ShardEntry
from stages.tokens.shard_format import ShardError


def read_shard(
    tokens: BinaryIO,
    index: Callable[[], BinaryIO],
    shard: ShardEntry,
    dtype: np.dtype,
    vocab_size: int,
    max_tokens: int = BLOCK_TOKENS,
) -> Iterator[Block]:
    """The documents of one shard of a run, checked against its entry of the manifest: counts, size, sha256.

    `index` opens the index. Raises ShardError; where the checksum is wrong, only after the last block. Of one that is ranges of
    other files there is no checksum of tokens.
    """
    hashed = Hashed(tokens)
    documents = position = 0
    for block in blocks(hashed, dtype, rows_of_index(index, shard["index"]), shard["path"], max_tokens):  # type: ignore[arg-type]
        documents, position = documents + len(block), position + len(block.tokens)
        if len(block.tokens) and int(block.tokens.max()) >= vocab_size:
            raise ShardError(
                f"{shard['path']}: token {block.tokens.max()} is beyond the vocabulary of {vocab_size:,}: damaged"
            )
        yield block
    if (documents, position) != (shard["documents"], shard["tokens"]):
        raise ShardError(
            f"{shard['index']}: lists {documents:,} documents of {position:,} tokens, the manifest says "
            f"{shard['documents']:,} of {shard['tokens']:,}"
        )
    if "ranges" not in shard and hashed.digest.hexdigest() != shard["sha256"]:
        raise ShardError(
            f"{shard['path']}: its sha256 is not the one in the manifest; the file is damaged, make it again"
        )


def rows_of_index(index: Callable[[], BinaryIO], name: str, file: str | None = None) -> Iterator[Rows]:
    """The rows of a `.csv.gz`. Documents must follow one another without gaps; else ShardError.

    Where the index holds only start and end, documents are numbered, with `file` (default: the index's name) as src.
    """
    position = documents = 0
    for batch in read_index_batches(index, name):
        starts, ends = (batch.column(column).to_numpy(zero_copy_only=False) for column in ("start", "end"))
        before = np.concatenate([[position], ends[:-1]])
        if len(starts) and (wrong := np.flatnonzero(starts != before)).size:
            row = int(wrong[0])
            raise ShardError(
                f"{name}, row {documents + row + 1}: the document starts at token {starts[row]:,}, the one before "
                f"it ends at {before[row]:,}; documents must follow one another"
            )
        locs = batch.column("loc").to_numpy(zero_copy_only=False)
        if (
            len(locs) and not locs.any() and not pc.any(pc.not_equal(batch.column("id"), "")).as_py()
        ):  # start and end alone
            yield numbered(ends, documents, file or name)
        else:
            yield Rows(ends, batch.column("id"), batch.column("src"), locs)
        documents, position = documents + len(ends), int(ends[-1]) if len(ends) else position
