"""The n-grams of evaluation sets: read from JSON lines once a machine, and looked up by hash."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa

from stages.dedup.normalize import UNICODE_VERSION, simple_table
from stages.document import text_buffers
from stages.errors import InputError, UserError
from stages.filters.evaluation_records import digests, records, strings
from stages.filters.machine_arrays import Arrays, machine_arrays
from stages.kernels.minhash import ngram_hashes
from stages.kernels.ngram_lookup import look_up
from stages.kernels.normalize import DIGIT, EMIT, simplify
from stages.kernels.stored import module_key
from stages.step import content_key

CHUNK_BYTES = 4 << 20  # of evaluation text that is hashed at once


def hashed_ngrams(texts: pa.Array, ngram: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64) of the n-grams of words of each text of a `large_string` column, and n + 1 offsets (int64).

    Words are what spaces part in the text normalized as `simple` (stages/dedup/normalize.py), but that numbers stay:
    as 0, any two tables of numbers would have n-grams in common.
    """
    words, begins, size = simplified(texts)
    hashes, out_offsets = np.empty((size + len(texts)) // 2 + 1, np.uint64), np.empty(len(begins), np.int64)
    return hashes[: ngram_hashes(words, begins, ngram, hashes, out_offsets)], out_offsets


def simplified(texts: pa.Array) -> tuple[np.ndarray, np.ndarray, int]:
    """Texts with their words in lower case between single spaces: bytes, n + 1 offsets, how many bytes are in use."""
    data, offsets = text_buffers(texts)
    words, begins = np.empty(3 * int(offsets[-1] - offsets[0]) + 16, np.uint8), np.empty(len(offsets), np.int64)
    return words, begins, simplify(data, offsets, *_tables(), words, begins)


@cache
def _tables() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`simple_table` with digits emitted as any other character."""
    pages, table, emissions = simple_table()
    return pages, np.where(table & 3 == DIGIT, table ^ (DIGIT ^ EMIT), table).astype(np.uint32), emissions


@dataclass(frozen=True)
class EvaluationNgrams:
    """The distinct n-grams of some files; each belongs to the first row that has it, and rows are numbered through."""

    arrays: Arrays

    def look_up(self, hashes: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For documents as `hashed_ngrams` gives them: the rows that were hit, one behind another, and how many each."""
        a = {name: np.asarray(array) for name, array in self.arrays.items()}
        hits, counts = np.empty(len(hashes), np.uint32), np.empty(len(offsets) - 1, np.int64)
        shift = 65 - len(a["index"]).bit_length()
        found = look_up(hashes, offsets, a["hashes"], a["rows"], a["index"], shift, hits, counts)
        return hits[:found], counts

    def place(self, row: int) -> tuple[int, int]:
        """(which file, which record of it, from 1) a row is."""
        file = int(np.searchsorted(self.arrays["begins"], row, side="right")) - 1
        return file, row - int(self.arrays["begins"][file]) + 1


def load_evaluation_ngrams(files: Sequence[str], fields: Sequence[str], ngram: int) -> EvaluationNgrams:
    """Read the files, or map what this machine has kept of them.

    Raises UserError for a file that cannot be read or of which no row has an n-gram, InputError for a bad record.
    """
    key = content_key("ngrams", module_key(__name__), UNICODE_VERSION, ngram, list(fields), digests(files))
    return EvaluationNgrams(machine_arrays(key, lambda: _build(files, fields, ngram)))


def _build(files: Sequence[str], fields: Sequence[str], ngram: int) -> Arrays:
    hashes, rows, begins = [], [], [0]
    for file in files:
        total = 0
        row = begins[-1]
        for texts in _chunks(_texts(file, fields)):
            found, offsets = hashed_ngrams(pa.array(texts, pa.large_binary()).view(pa.large_string()), ngram)
            hashes.append(found)
            rows.append(np.repeat(np.arange(row, row + len(texts), dtype=np.uint32), np.diff(offsets)))
            row += len(texts)
            total += len(found)
        if total == 0:
            raise UserError(f"no row of the evaluation set {file} has {ngram} words in {', '.join(fields)}")
        begins.append(row)
    known, first = np.unique(np.concatenate(hashes), return_index=True)
    bits = max(1, (2 * len(known) - 1).bit_length())  # half a hash or less in each bucket
    edges = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    index = np.append(np.searchsorted(known, edges), len(known)).astype(np.uint32)
    return {"hashes": known, "rows": np.concatenate(rows)[first], "index": index, "begins": np.array(begins, np.int64)}


def _chunks(texts: Iterator[bytes]) -> Iterator[list[bytes]]:
    held: list[bytes] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= CHUNK_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _texts(file: str, fields: Sequence[str]) -> Iterator[bytes]:
    """The text of each line: its fields that are there, one space between them; none of a blank line."""
    before = 0
    for record, values in records(file):
        yield from [b""] * (record - before - 1)
        before = record
        parts = [part for field in fields for part in strings(values, field)]
        if not parts:
            raise InputError(file, f"has no text in any of {', '.join(fields)}", record)
        yield " ".join(parts).encode(errors="replace")
