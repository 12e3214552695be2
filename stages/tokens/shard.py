"""From the token files of many tasks to the shards of a source: first a plan, then one task a shard.

Shards are filled with whole documents, in canonical order, up to the size asked for. The plan needs the counts of each
token file and, of the few files that a boundary falls in, the document ends; no token is read for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.tokens.index_table import ROWS, write_index_batches
from stages.tokens.manifest_shape import ShardFacts
from stages.tokens.shard_format import ShardError, check_tokens, sha256_file, write_tokens
from stages.tokens.token_file import TokenFile

COPY_TOKENS = 4 << 20  # tokens held while copying


class Piece(NamedTuple):
    """A run of documents of one token file: all numbers count within that file, ends exclusive."""

    file: int  # which of the token files
    first_document: int
    end_document: int
    first_token: int
    end_token: int


def read_ends(file: TokenFile) -> np.ndarray:
    """The end of each document of a token file, in tokens (int64)."""
    return pq.read_table(file.index_path, columns=["end"]).column("end").to_numpy()


def shard_tokens(shard_bytes: int, dtype: np.dtype) -> int:
    """How many tokens a shard of this many bytes holds (at least one)."""
    return max(1, shard_bytes // np.dtype(dtype).itemsize)


def plan_shards(
    files: Sequence[TokenFile], max_tokens: int, ends: Callable[[TokenFile], np.ndarray] = read_ends
) -> list[list[Piece]]:
    """Which documents go to which shard: each shard is as many next documents as `max_tokens` holds.

    A document is never split; one longer than `max_tokens` has a shard to itself. No shard is empty. `ends` reads the
    document ends of a token file; it is called only for files that do not fit into the current shard whole.
    """
    shards: list[list[Piece]] = []
    pieces: list[Piece] = []
    room = max_tokens

    def close() -> None:
        nonlocal pieces, room
        if pieces:
            shards.append(pieces)
        pieces, room = [], max_tokens

    for number, file in enumerate(files):
        document = token = 0
        limits: np.ndarray | None = None
        while token < file.tokens:
            if file.tokens - token <= room:
                pieces.append(Piece(number, document, file.documents, token, file.tokens))
                room -= file.tokens - token
                break
            if limits is None:
                limits = ends(file)
                if len(limits) != file.documents or int(limits[-1]) != file.tokens:
                    raise ShardError(
                        f"{file.index_path}: does not describe {file.documents} documents, {file.tokens} tokens"
                    )
            stop = int(np.searchsorted(limits, token + room, side="right"))
            if stop <= document and room == max_tokens:
                stop = document + 1  # longer than a shard: alone in one
            if stop > document:
                pieces.append(Piece(number, document, stop, token, int(limits[stop - 1])))
                document, token = stop, int(limits[stop - 1])
            close()
    close()
    return shards


def write_shard(
    files: Sequence[TokenFile], pieces: Sequence[Piece], path: str | Path, index_path: str | Path, dtype: np.dtype
) -> ShardFacts:
    """Write one shard (`.npy` and `.csv.gz`) from its pieces; returns its entry of the manifest but for the paths.

    Streams: memory is a few MiB of tokens and a batch of index rows. Raises ShardError for inputs that do not hold
    what the plan says.
    """
    used = {piece.file for piece in pieces}
    for number in sorted(used):
        check_tokens(files[number].tokens_path, dtype, files[number].tokens)
    totals = Counter[str]()
    tokens, digest = write_tokens(path, _copy_tokens(files, pieces, np.dtype(dtype)), np.dtype(dtype))
    write_index_batches(index_path, _copy_index(files, pieces, totals))
    wanted = sum(piece.end_document - piece.first_document for piece in pieces)
    if totals["documents"] != wanted:
        raise ShardError(f"{index_path}: {totals['documents']} documents were found for a shard of {wanted}")
    return ShardFacts(
        tokens=tokens,
        documents=totals["documents"],
        text_bytes=totals["text_bytes"],
        sha256=digest,
        index_sha256=sha256_file(index_path),
    )


def _copy_tokens(files: Sequence[TokenFile], pieces: Sequence[Piece], dtype: np.dtype) -> Iterator[np.ndarray]:
    for piece in pieces:
        with Path(files[piece.file].tokens_path).open("rb") as file:
            file.seek(piece.first_token * dtype.itemsize)
            for start in range(piece.first_token, piece.end_token, COPY_TOKENS):
                count = min(COPY_TOKENS, piece.end_token - start)
                chunk = np.fromfile(file, dtype, count)
                if len(chunk) != count:
                    raise ShardError(f"{files[piece.file].tokens_path}: ended while it was copied")
                yield chunk


def _copy_index(
    files: Sequence[TokenFile], pieces: Sequence[Piece], totals: Counter[str]
) -> Iterator[pa.RecordBatch]:
    """The pieces' rows with the columns of `ROWS`, counted within the shard; documents and bytes go to `totals`."""
    written = 0
    for piece in pieces:
        shift = pa.scalar(written - piece.first_token, pa.int64())
        for rows in _index_rows(files[piece.file].index_path, piece.first_document, piece.end_document):
            totals["documents"] += rows.num_rows
            totals["text_bytes"] += pc.sum(rows.column("text_bytes")).as_py() or 0
            moved = [pc.add(rows.column(name), shift) for name in ("start", "end")]
            yield pa.RecordBatch.from_arrays([*moved, *(rows.column(name) for name in ("id", "src", "loc"))], schema=ROWS)
        written += piece.end_token - piece.first_token


def _index_rows(path: str, first: int, end: int) -> Iterator[pa.RecordBatch]:
    """Rows first..end of an index, in batches; row groups before and after are not read."""
    with pq.ParquetFile(path) as index:
        row = 0
        for group in range(index.num_row_groups):
            rows = index.metadata.row_group(group).num_rows
            if row + rows > first and row < end:
                position = row
                for batch in index.iter_batches(batch_size=16384, row_groups=[group]):
                    low, high = max(first - position, 0), min(end - position, batch.num_rows)
                    if low < high:
                        yield batch.slice(low, high - low)
                    position += batch.num_rows
            row += rows
