"""One shard compared with its index and the manifest, in one pass: tokens and index rows are read side by side.

Memory is a few MiB of tokens and a batch of index rows, whatever the shard holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.mixture.shard_tokens import open_shard
from stages.tokens.index_table import read_index_batches
from stages.tokens.lengths import Lengths
from stages.tokens.manifest_shape import OrderedShard, ShardEntry, WholeFile
from stages.tokens.shard_format import ShardError, ranges_bytes

CHUNK_TOKENS = 4 << 20


@dataclass(frozen=True)
class Rules:
    """What the tokens of a run must be. ends: each document ends in `eos`; inside: `eos` may also occur within one."""

    dtype: np.dtype
    eos: int
    vocab_size: int
    ends: bool = True
    inside: bool = False


@dataclass
class Checked:
    """What a shard holds, and what is wrong with it, one sentence a kind; `eos_inside` counts end tokens within documents."""

    documents: int = 0
    empty: int = 0
    lengths: Lengths = field(default_factory=Lengths)
    eos_inside: int = 0
    sha256: str | None = None
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


Shard = ShardEntry | OrderedShard | WholeFile


def check_shard(run: str, shard: Shard, rules: Rules, wholes: Mapping[str, Sequence[WholeFile]], quick: bool = False) -> Checked:
    """Check a shard of a run (its entry in the manifest); `quick` leaves the tokens unread. wholes: files that shards are
    ranges of, by the name of their list.

    One without an index (instances that were put into training order, a file that shards are ranges of) has its size,
    checksum and token ids checked; of one that is ranges the checksum is that of its file of ranges.
    """
    found = Checked()
    uri, of_ranges = storage.join(run, shard["path"]), "ranges" in shard and "whole" in shard
    size, wanted = storage.stat(uri).size if storage.exists(uri) else None, shard["tokens"] * rules.dtype.itemsize
    if "ranges" in shard and "whole" in shard:
        wanted = ranges_bytes(shard["ranges"], len(wholes[shard["whole"]]))
    if size is None:
        found.problems.append(f"{shard['path']}: the file is missing; run the recipe again to rebuild it")
    elif size != wanted:
        found.problems.append(f"{shard['path']}: {size:,} bytes, the manifest says {wanted:,}")
    if not quick and "index" in shard:
        _check_index_bytes(run, shard, found)
    if size is None or size != wanted or quick:
        for _ in _index(run, shard, found):
            pass
        return found
    with open_shard(run, shard, rules.dtype) as stream:
        tokens = _Tokens(stream, shard["path"], rules, found)
        for rows in _index(run, shard, found):
            tokens.documents(rows)
        tokens.rest()
    if of_ranges and tokens.position != shard["tokens"]:
        found.problems.append(f"{shard['path']}: its ranges hold {tokens.position:,} of {shard['tokens']:,} tokens")
    found.sha256 = _sha256(uri) if of_ranges else tokens.digest.hexdigest()
    if found.sha256 != shard["sha256"]:
        found.problems.append(
            f"{shard['path']}: the tokens are not those that were written (sha256 {found.sha256[:12]}, "
            f"the manifest says {shard['sha256'][:12]})"
        )
    tokens.report()
    return found


def _check_index_bytes(run: str, shard: ShardEntry, found: Checked) -> None:
    """Whether an index is byte for byte the one that was written; `_index` reports a missing one."""
    uri, written = storage.join(run, shard["index"]), shard.get("index_sha256")
    if not written or not storage.exists(uri):
        return
    if (digest := _sha256(uri)) != written:
        found.problems.append(
            f"{shard['index']}: the index is not the one that was written (sha256 {digest[:12]}, the manifest "
            f"says {written[:12]}); run the recipe again with --verify"
        )


def _sha256(uri: str) -> str:
    digest = hashlib.sha256()
    with storage.open_stream(uri) as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _index(run: str, shard: Shard, found: Checked) -> Iterator[pa.RecordBatch]:
    """The index's rows in batches, for as long as they follow one another without a gap from the shard's start."""
    if "index" not in shard:
        return
    index, end = shard["index"], 0
    try:
        for rows in read_index_batches(partial(storage.open_stream, storage.join(run, index)), index):
            starts, ends = (np.asarray(rows.column(name)) for name in ("start", "end"))
            wrong = np.flatnonzero((starts != np.concatenate([[end], ends[:-1]])) | (ends < starts))
            if len(wrong):
                row = int(wrong[0])
                before = int(ends[row - 1]) if row else end
                found.problems.append(
                    f"{index}: document {found.documents + row + 1:,} ({rows.column('id')[row]}) is at tokens "
                    f"{starts[row]:,} to {ends[row]:,}, and the one before it ends at {before:,}"
                )
                return
            found.documents += rows.num_rows
            found.empty += int((ends == starts).sum())
            found.lengths.add(ends - starts)
            end = int(ends[-1]) if len(ends) else end
            yield rows
    except storage.MissingError:
        found.problems.append(f"{index}: the index is missing; run the recipe again to rebuild it")
        return
    except ShardError as error:
        found.problems.append(str(error))
        return
    if found.empty:
        found.notes.append(f"{index}: {found.empty:,} documents hold no tokens")
    if found.documents != shard["documents"]:
        found.problems.append(f"{index}: {found.documents:,} documents, the manifest says {shard['documents']:,}")
    if end != shard["tokens"]:
        found.problems.append(f"{index}: its documents end at token {end:,} of the shard's {shard['tokens']:,}")


@dataclass
class _First:
    """How often something was seen, and where first."""

    count: int = 0
    where: str = ""

    def see(self, count: int, where: str) -> None:
        if count and not self.count:
            self.where = where
        self.count += count


class _Tokens:
    """A shard's tokens, read once from the front: documents are checked as their rows come."""

    def __init__(self, stream: BinaryIO, path: str, rules: Rules, found: Checked) -> None:
        self.stream, self.path, self.rules, self.found = stream, path, rules, found
        self.digest = hashlib.sha256()
        self.position = self.document = 0
        self.open_ended, self.inside, self.beyond = _First(), _First(), _First()

    def documents(self, rows: pa.RecordBatch) -> None:
        """Read and check the tokens of these documents, the next ones of the shard."""
        ends = np.asarray(rows.column("end"))
        if not len(ends):
            return
        for first, tokens in self._read(int(ends[-1]) - self.position):
            last = first + len(tokens)
            low, high = np.searchsorted(ends, [first + 1, last + 1])  # documents that end in this chunk
            lasts = ends[low:high] - 1 - first
            is_end = tokens == self.rules.eos
            at_ends = is_end[lasts]
            if not at_ends.all():
                row = int(low + np.flatnonzero(~at_ends)[0])
                self.open_ended.see(int((~at_ends).sum()), self._name(rows, row))
            is_end[lasts] = False
            if count := int(np.count_nonzero(is_end)):
                at = first + int(np.argmax(is_end))
                row = int(np.searchsorted(ends, at, side="right"))
                self.inside.see(count, f"{self._name(rows, row)}, first at token {at:,} of the shard")
            if len(tokens) and int(tokens.max()) >= self.rules.vocab_size:
                wrong = np.flatnonzero(tokens >= self.rules.vocab_size)
                at = first + int(wrong[0])
                row = int(np.searchsorted(ends, at, side="right"))
                self.beyond.see(len(wrong), f"{tokens[wrong[0]]} at token {at:,}, in {self._name(rows, row)}")
        self.document += rows.num_rows

    def rest(self) -> None:
        """Read what no document covers, for the checksum: all, where there is no index; else the index is at fault."""
        for first, tokens in self._read(None):
            wrong = np.flatnonzero(tokens >= self.rules.vocab_size)
            if len(wrong):
                self.beyond.see(len(wrong), f"{tokens[wrong[0]]} at token {first + int(wrong[0]):,}")

    def _read(self, count: int | None) -> Iterator[tuple[int, np.ndarray]]:
        """The next tokens (None: all) in chunks, each with the place of its first."""
        size = self.rules.dtype.itemsize
        while count is None or count > 0:
            data = self.stream.read(CHUNK_TOKENS * size if count is None else min(count, CHUNK_TOKENS) * size)
            if not data:
                return
            self.digest.update(data)
            tokens = np.frombuffer(data, self.rules.dtype, len(data) // size)
            first, self.position = self.position, self.position + len(tokens)
            count = None if count is None else count - len(tokens)
            yield first, tokens

    def _name(self, rows: pa.RecordBatch, row: int) -> str:
        return f"document {self.document + row + 1:,} ({rows.column('id')[row]})"

    def report(self) -> None:
        """Put what was seen into the shard's problems and notes."""
        eos, found = self.rules.eos, self.found
        if self.open_ended.count and self.rules.ends:
            n = self.open_ended.count
            found.problems.append(
                f"{self.path}: {self.open_ended.where} does not end in the end token {eos} ({n:,} such document{'s' * (n > 1)})"
            )
        if self.inside.count:
            found.eos_inside = self.inside.count
            text = f"{self.path}: the end token {eos} stands inside {self.inside.where} ({self.inside.count:,} in all)"
            (found.notes if self.rules.inside else found.problems).append(text)
        if n := self.beyond.count:
            found.problems.append(
                f"{self.path}: {n:,} token{'s' * (n > 1)} beyond the vocabulary of {self.rules.vocab_size:,}; the first "
                f"is {self.beyond.where}"
            )
