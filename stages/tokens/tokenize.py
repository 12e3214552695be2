"""Tokenizing one part: documents in, token files with a document index out, training and held-out apart.

Which documents are held out depends on their text alone (`held_out_texts`), so it is the same for every order of work,
tokenizer and source with the same salt; a copy of a held-out document is held out too, wherever it comes from; and it
is settled before any mixing.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.books import StepBooks
from stages.document import column_bytes, document_hash, text_buffers
from stages.tokens.token_file import TokenFile, TokenWriter
from stages.tokens.tokenizer import VERIFY_BYTES, Tokenizer

SPLITS = ("train", "held_out")
HASHED_BYTES = 512  # at each end of a text: to hash it all, to tell if it is held out, would slow tokenizing by a sixth
EMPTY = "skip_empty"  # the reason of documents without text: the key of the rule that drops them


@dataclass(frozen=True)
class TokenPart:
    """What `tokenize_part` wrote, and its books (`skip_empty` drops; white space stripped is `edited`)."""

    train: TokenFile
    held_out: TokenFile
    books: StepBooks


class _Sample:
    """A few documents of a part, chosen by hash of their ids, to compare the engine with the reference on."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.chosen: list[tuple[int, str, str]] = []

    def offer(self, batch: pa.RecordBatch, text: pa.Array) -> None:
        """One document of the batch is a candidate; those with the lowest hashes stay."""
        if self.size == 0 or batch.num_rows == 0:
            return
        row = document_hash(batch.column("id")[0].as_py(), "verify batch") % batch.num_rows
        name = batch.column("id")[row].as_py()
        candidate = (document_hash(name, "verify"), name, text[row].as_py()[:VERIFY_BYTES])
        self.chosen = sorted([*self.chosen, candidate])[: self.size]


def held_out_texts(texts: pa.Array, fraction: float, salt: str = "") -> np.ndarray:
    """Which texts are held out (bool): those whose hash lies in the lowest `fraction` of all 64-bit values.

    The hash is of the length in bytes and the first and last HASHED_BYTES of them: equal texts are always on one side.
    """
    if fraction <= 0:
        return np.zeros(len(texts), bool)
    limit, held = int(fraction * 2**64), np.zeros(len(texts), bool)
    data, offsets = text_buffers(texts)
    view, places = memoryview(data), offsets.tolist()
    salted = hashlib.blake2b(f"{salt}\0".encode(), digest_size=8)
    for row, (start, end) in enumerate(itertools.pairwise(places)):
        one = salted.copy()
        one.update((end - start).to_bytes(8, "little"))
        one.update(view[start : min(end, start + HASHED_BYTES)])
        one.update(view[max(start, end - HASHED_BYTES) : end])
        held[row] = int.from_bytes(one.digest(), "little") < limit
    return held


def tokenize_part(
    batches: Iterable[pa.RecordBatch],
    tokenizer: Tokenizer,
    out_prefix: str | Path,
    held_out_fraction: float = 0.0,
    salt: str = "",
    verify: int = 1,
) -> TokenPart:
    """Write PREFIX.train.tokens, PREFIX.train.parquet and the same for held_out; documents keep their order.

    `verify` documents of the part, the first by hash, are encoded by the reference too; a difference raises
    TokenizerMismatch with the document's id. The files are written in place: the caller commits them.
    """
    books = StepBooks("tokenize")
    sample = _Sample(verify)
    with (
        TokenWriter(out_prefix, "train") as train,
        TokenWriter(out_prefix, "held_out") as held_out,
    ):
        for batch in batches:
            books.into.add(batch.num_rows, column_bytes(batch.column("text")))
            prepared = tokenizer.prepare(batch.column("text"))
            held = held_out_texts(prepared, held_out_fraction, salt)
            for writer, rows in ((train, ~held), (held_out, held)):
                whole = bool(rows.all())
                part = batch if whole else batch.filter(pa.array(rows))
                if part.num_rows == 0:
                    continue
                text = prepared if whole else prepared.filter(pa.array(rows))
                tokens, offsets = tokenizer.finish(text)
                _append(writer, part, text, tokens, offsets)
                sample.offer(part, text)
                empty = offsets[1:] == offsets[:-1]
                before = np.diff(_offsets(part.column("text")))
                if empty.any():
                    books.drop(EMPTY, empty.sum(), before[empty].sum())
                books.edited += int((before - np.diff(_offsets(text)))[~empty].sum())
    tokenizer.verify([text for _, _, text in sample.chosen], [f"document {name}" for _, name, _ in sample.chosen])
    for writer in (train, held_out):
        books.out.add(writer.documents, writer.text_bytes)
    return TokenPart(train.written(), held_out.written(), books)


def _append(
    writer: TokenWriter, batch: pa.RecordBatch, text: pa.Array, tokens: np.ndarray, offsets: np.ndarray
) -> None:
    """Add the documents of `batch` that have tokens; `text` is what was encoded."""
    full = offsets[1:] > offsets[:-1]
    rows = batch if full.all() else batch.filter(pa.array(full))
    id, file, record = (rows.column(name) for name in ("id", "file", "record"))
    writer.append(tokens, offsets[:-1][full], offsets[1:][full], id, file, record, np.diff(_offsets(text))[full])


def _offsets(column: pa.Array) -> np.ndarray:
    return text_buffers(column)[1]
