"""Near copies of held-out documents among those of training, by n-grams of tokens that they share.

A run of 13 tokens stands for about ten words. GPT-3's and PaLM's authors looked for text of the evaluation in the training
text by n-grams of words (Brown et al. 2020, appendix C: 13; Chowdhery et al. 2022, section 8: 70% of the 8-grams), Llama
2's by n-grams of tokens, more than 10 (Touvron et al. 2023, appendix A.6). Here a training document counts as a near copy
where at least half of its n-grams are in held-out documents: then most of what it says was held out, while a licence or a
quotation that both have is no copy. Only n-grams with low hashes are compared, a quarter of all at most ("0 mod p" of
Broder 1997), so the share is an estimate; which are taken hangs on the text alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from stages.kernels.ngram_lookup import look_up
from stages.kernels.token_ngrams import lowest_ngrams

NGRAM = 13  # tokens
LIMIT = 1 << 62  # hashes below it are compared: a quarter
MOST = 1 << 24  # n-grams that are kept of all held-out documents: 128 MiB
SHARE = 0.5
LEAST = 2  # n-grams by which a document is judged; one of fewer is no copy
REASON = "held_out.near_copy"

BATCH_TOKENS = 1 << 20
BATCH_ROWS = 8192


def token_batches(
    tokens: BinaryIO, index: BinaryIO, dtype: np.dtype, columns: list[str] | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, pa.RecordBatch]]:
    """A token file in batches of whole documents: their tokens (uint32), n + 1 offsets in these (int64), and their rows.

    columns: of the index, `start` and `end` among them; None for all. A batch has about a million tokens, or one document.
    """
    with pq.ParquetFile(index) as opened:
        for rows in opened.iter_batches(batch_size=BATCH_ROWS, columns=columns):
            starts, ends = (np.asarray(rows.column(name), np.int64) for name in ("start", "end"))
            first = 0
            while first < len(ends):
                begin = int(starts[first])
                stop = max(first + 1, int(np.searchsorted(ends, begin + BATCH_TOKENS, side="right")))
                tokens.seek(begin * dtype.itemsize)
                found = np.frombuffer(tokens.read((int(ends[stop - 1]) - begin) * dtype.itemsize), dtype)
                offsets = np.append(starts[first:stop], ends[stop - 1]) - begin
                yield found.astype(np.uint32), offsets, rows.slice(first, stop - first)
                first = stop


def sampled(tokens: np.ndarray, offsets: np.ndarray, ngram: int, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64) below `limit` of the n-grams of each document, and n + 1 offsets (int64)."""
    out, out_offsets = np.empty(len(tokens), np.uint64), np.empty(len(offsets), np.int64)
    count = lowest_ngrams(tokens, offsets, ngram, np.uint64(limit), out, out_offsets)
    return out[:count], out_offsets


def lowest(batches: Iterable[np.ndarray], most: int) -> np.ndarray:
    """The `most` lowest values of all batches, sorted, each once (uint64): the same for every order and cut of them."""
    kept = np.zeros(0, np.uint64)
    waiting: list[np.ndarray] = []
    for batch in batches:
        waiting.append(batch)
        if sum(map(len, waiting)) >= most:
            kept, waiting = np.unique(np.concatenate([kept, *waiting]))[:most], []
    return np.unique(np.concatenate([kept, *waiting]))[:most]


@dataclass(frozen=True)
class HeldOutNgrams:
    """The n-grams of held-out documents, ready to be looked up. limit: hashes below it are compared."""

    known: np.ndarray
    limit: int
    shift: int
    index: np.ndarray
    rows: np.ndarray  # which document an n-gram is of does not matter: all 0

    @classmethod
    def of(cls, known: np.ndarray, most: int) -> HeldOutNgrams:
        """From sorted hashes (uint64) of which `most` were kept at most: beyond the last one nothing is known then."""
        limit = int(known[-1]) + 1 if len(known) >= most else LIMIT
        shift = max(0, limit.bit_length() - max(1, len(known).bit_length()))
        edges = np.arange(((limit - 1) >> shift) + 2, dtype=np.uint64) << np.uint64(shift)
        index = np.searchsorted(known, edges).astype(np.uint32)
        return cls(known, limit, shift, index, np.zeros(len(known), np.uint32))

    def near(self, tokens: np.ndarray, offsets: np.ndarray, ngram: int) -> np.ndarray:
        """Which documents (bool) are near copies."""
        hashes, places = sampled(tokens, offsets, ngram, self.limit)
        hits, counts = np.empty(len(hashes), np.uint32), np.empty(len(offsets) - 1, np.int64)
        look_up(hashes, places, self.known, self.rows, self.index, self.shift, hits, counts)
        total = np.diff(places)
        return (total >= LEAST) & (counts >= SHARE * total)
