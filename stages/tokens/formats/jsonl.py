"""Tokens in JSON lines, one object a document: `id`, `text`, `tokens` (with the end token), `source`, and `metadata` with the
`file` and `record` that it was read from. The shape that Dolma, datatrove and DCLM's tools read.
"""

from __future__ import annotations

import gzip
import io
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import orjson
import pyarrow as pa
import zstandard

from stages.read.compression import DamagedError, Members
from stages.tokens.formats.block import BLOCK_TOKENS, Block
from stages.tokens.formats.parquet import TOKEN_COLUMNS
from stages.tokens.formats.text import texts
from stages.tokens.shard_format import ShardError
from stages.tokens.token_bytes import TokenBytes
from stages.units import show_bytes

SUFFIXES = {"zst": ".jsonl.zst", "gz": ".jsonl.gz", "none": ".jsonl"}
DOCUMENTS_READ = 4096  # in a block at most
LINE_BYTES = 1 << 30  # what is read of one line before it is refused


@contextmanager
def compressed(file: BinaryIO, compression: str) -> Iterator[BinaryIO]:
    """A stream that writes into `file` through zstd, gzip or nothing; the same bytes for the same content."""
    if compression == "zst":
        with zstandard.ZstdCompressor(level=3).stream_writer(file, closefd=False) as out:
            yield out  # type: ignore[misc]
    elif compression == "gz":
        with (
            gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed,
            io.BufferedWriter(packed, 1 << 18) as out,  # type: ignore[type-var]
        ):
            yield out
    else:
        yield file


def write_jsonl(
    blocks: Iterable[Block], out: BinaryIO, source: str, eos: int, decoder: TokenBytes | None, with_tokens: bool
) -> tuple[int, int]:
    """Write lines; returns documents and tokens. With `decoder` the lines have `text`, with `with_tokens` the `tokens`."""
    documents = tokens = 0
    for block in blocks:
        found = texts(block, eos, decoder).to_pylist() if decoder is not None else [None] * len(block)
        bounds = zip(block.starts.tolist(), block.ends.tolist(), strict=True)
        rows = zip(block.ids.to_pylist(), block.srcs.to_pylist(), block.locs.tolist(), found, bounds, strict=True)
        for name, file, record, text, (start, end) in rows:
            line: dict[str, Any] = {"id": name}
            if text is not None:
                line["text"] = text
            if with_tokens:
                line["tokens"] = block.tokens[start:end]
            line |= {"source": source, "metadata": {"file": file, "record": record}}
            out.write(orjson.dumps(line, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))
        documents, tokens = documents + len(block), tokens + len(block.tokens)
    return documents, tokens


def read_jsonl(
    stream: BinaryIO, name: str, tokens_field: str | None = None, id_field: str = "id", max_tokens: int = BLOCK_TOKENS
) -> Iterator[Block]:
    """The documents of JSON lines (plain or compressed, by the file's name) that hold token lists; int64 tokens.

    `metadata.file` and `metadata.record` are taken where they are there; else documents are numbered. Raises ShardError.
    """
    waiting: list[tuple[np.ndarray, str, str, int]] = []
    held = 0
    short = name.rsplit("/", 1)[-1]
    for number, line in enumerate(_lines(stream, name), start=1):
        if not line.strip():
            continue
        tokens, record = _tokens(line, tokens_field, name, number)
        metadata = record.get("metadata")
        known, file = (metadata.get("record"), metadata.get("file")) if isinstance(metadata, dict) else (None, None)
        given = record.get(id_field)
        at_file, at = (file or name, known) if isinstance(known, int) else (name, number)
        waiting.append((tokens, f"{short}:{number}" if given is None else str(given), at_file, at))
        held += len(tokens)
        if held >= max_tokens or len(waiting) >= DOCUMENTS_READ:
            yield _block(waiting)
            waiting, held = [], 0
    if waiting:
        yield _block(waiting)


def _tokens(line: bytes, field: str | None, name: str, number: int) -> tuple[np.ndarray, dict[str, Any]]:
    try:
        record = orjson.loads(line)
    except ValueError as error:
        raise ShardError(f"{name}, line {number}: is not JSON ({error})") from None
    fields = (field,) if field else TOKEN_COLUMNS
    found = next((record[f] for f in fields if f in record), None) if isinstance(record, dict) else None
    if found is None:
        raise ShardError(
            f"{name}, line {number}: has no {' or '.join(fields)} (--tokens-field); text without tokens is tokenized by a "
            "recipe that reads it"
        )
    if not isinstance(found, list) or not all(type(token) is int for token in found):
        raise ShardError(f"{name}, line {number}: tokens are a list of whole numbers")
    try:
        return np.array(found, np.int64), record
    except OverflowError:
        raise ShardError(f"{name}, line {number}: a token is beyond 64 bits") from None


def _block(waiting: list[tuple[np.ndarray, str, str, int]]) -> Block:
    tokens, ids, srcs, locs = zip(*waiting, strict=True)
    ends = np.cumsum([len(part) for part in tokens], dtype=np.int64)
    return Block(
        np.concatenate(tokens),
        ends,
        pa.array(ids, pa.large_string()),
        pa.array(srcs, pa.large_string()),
        np.array(locs, np.int64),
    )


def _lines(stream: BinaryIO, name: str) -> Iterator[bytes]:
    members = Members.of_file(stream, name)
    parts: list[bytes] = []  # of a line that has not ended
    held = number = 0
    try:
        while members.open():
            while piece := members.read():
                *ended, rest = piece.split(b"\n")
                for line in ended:
                    parts.append(line)
                    yield b"".join(parts)
                    parts, held, number = [], 0, number + 1
                parts.append(rest)
                held += len(rest)
                if held > LINE_BYTES:
                    raise ShardError(
                        f"{name}, line {number + 1}: is longer than {show_bytes(LINE_BYTES)}, too long to be a document"
                    )
    except DamagedError as error:
        raise ShardError(f"{name}: {error.reason} (byte {error.offset:,})") from None
    if held:
        yield b"".join(parts)
