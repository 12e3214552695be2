"""Tokens in Parquet: one row a document, its tokens as a list of uint16 or uint32, and (if wanted) the text they stand for."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.parts import PartWriter
from stages.tokens.formats.block import BLOCK_TOKENS, Block, numbered, repeated
from stages.tokens.formats.text import texts
from stages.tokens.shard_format import ShardError
from stages.tokens.token_bytes import TokenBytes

TOKEN_COLUMNS = ("tokens", "input_ids")  # tried in order where none is named
ROWS_READ = 64  # at once: they may be books
PAGE_BUFFER = 1 << 20  # bytes of a column read ahead: a row group may be all of the file


def schema(dtype: np.dtype, with_text: bool) -> pa.Schema:
    """The columns that `write_parquet` writes."""
    fields = [
        pa.field("id", pa.large_string(), nullable=False),
        pa.field("source", pa.large_string(), nullable=False),
        pa.field("file", pa.large_string(), nullable=False),  # the file that the document was read from
        pa.field("record", pa.int64(), nullable=False),  # 1-based record in it
        pa.field("tokens", pa.list_(pa.from_numpy_dtype(np.dtype(dtype))), nullable=False),  # with the end token
    ]
    return pa.schema([*fields, pa.field("text", pa.large_string())] if with_text else fields)


def token_batch(block: Block, source: str) -> pa.RecordBatch:
    """The documents of a block as rows of `schema`, without their text."""
    offsets = np.concatenate([[0], block.ends]).astype(np.int32)
    columns = [
        block.ids,
        repeated(source, len(block)),
        block.srcs,
        pa.array(block.locs),
        pa.ListArray.from_arrays(pa.array(offsets), pa.array(block.tokens)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema(block.tokens.dtype, with_text=False))


def write_parquet(
    blocks: Iterable[Block], path: Path, source: str, dtype: np.dtype, eos: int, decoder: TokenBytes | None
) -> tuple[int, int]:
    """Write a Parquet file (zstd); returns documents and tokens. With `decoder` also their text, without the end token."""
    documents = tokens = 0
    with PartWriter(path, schema(dtype, decoder is not None)) as out:
        for block in blocks:
            batch = token_batch(block, source)
            if decoder is not None:
                batch = batch.append_column("text", texts(block, eos, decoder))
            out.write(batch)
            documents, tokens = documents + len(block), tokens + len(block.tokens)
    return documents, tokens


def read_parquet(
    file: BinaryIO, name: str, tokens_field: str | None = None, id_field: str = "id", max_tokens: int = BLOCK_TOKENS
) -> Iterator[Block]:
    """The documents of a Parquet file with a column of token lists; int64 tokens.

    Ids, `file` and `record` are taken where the columns are there; else documents are numbered. Raises ShardError.
    """
    try:
        with pq.ParquetFile(file, pre_buffer=False, buffer_size=PAGE_BUFFER) as opened:
            there = opened.schema_arrow.names
            column = tokens_field or next((known for known in TOKEN_COLUMNS if known in there), None)
            if column is None or column not in there:
                wanted = tokens_field or " or ".join(TOKEN_COLUMNS)
                raise ShardError(f"{name}: has no column {wanted}; its columns are {', '.join(there)} (--tokens-field)")
            wanted_columns = [c for c in dict.fromkeys((column, id_field, "file", "record")) if c in there]
            row = 0
            for batch in opened.iter_batches(batch_size=ROWS_READ, columns=wanted_columns):
                yield from _cut(_block(batch, column, id_field, row, name), max_tokens)
                row += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"{name}: cannot be read as Parquet ({error})") from None


def _block(batch: pa.RecordBatch, column: str, id_field: str, row: int, name: str) -> Block:
    lists = batch.column(column)
    if not (pa.types.is_list(lists.type) or pa.types.is_large_list(lists.type)) or not pa.types.is_integer(
        lists.type.value_type
    ):
        raise ShardError(f"{name}: column {column} is {lists.type}; a list of whole numbers was expected")
    sizes = pc.fill_null(pc.list_value_length(lists), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    flat = lists.flatten()
    if flat.null_count:
        raise ShardError(
            f"{name}: a document in rows {row + 1:,} to {row + batch.num_rows:,} has an empty place among its tokens"
        )
    plain = numbered(np.cumsum(sizes), row, name)
    names = batch.schema.names
    ids = _strings(batch.column(id_field), plain.ids) if id_field in names else plain.ids
    srcs = _strings(batch.column("file"), plain.srcs) if "file" in names else plain.srcs
    locs = plain.locs
    if "record" in names and pa.types.is_integer(batch.column("record").type):
        locs = pc.coalesce(batch.column("record").cast(pa.int64()), pa.array(plain.locs)).to_numpy(zero_copy_only=False)
    return Block(flat.to_numpy(zero_copy_only=False).astype(np.int64), plain.ends, ids, srcs, locs)


def _strings(column: pa.Array, instead: pa.Array) -> pa.Array:
    return pc.coalesce(column.cast(pa.large_string()), instead)


def _cut(block: Block, max_tokens: int) -> Iterator[Block]:
    first = position = 0
    while first < len(block):
        last = max(int(np.searchsorted(block.ends, position + max_tokens, side="right")), first + 1)
        stop, count = int(block.ends[last - 1]), last - first
        yield Block(
            block.tokens[position:stop],
            block.ends[first:last] - position,
            block.ids.slice(first, count),
            block.srcs.slice(first, count),
            block.locs[first:last],
        )
        first, position = last, stop
