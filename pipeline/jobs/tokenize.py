"""Tokenizing one part: the documents that dedup left, training and held-out documents apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import storage
from pipeline.jobs.context import Context
from pipeline.jobs.inputs import PartInput, part_batches
from pipeline.plan.node import Job, Report, Stored
from stages.books import StepBooks
from stages.document import payload_sizes
from stages.marks import HowMuch, InFile, Setting
from stages.parts import PartWriter, dropped_schema, total_bytes
from stages.tokens.token_file import TokenFile
from stages.tokens.tokenize import tokenize_part
from stages.tokens.tokenizer import EncodeRules, EngineName, Tokenizer, load_tokenizer

COLUMNS = ["id", "text", "url", "file", "record", "offset"]
SPLITS = ("train", "held_out")
HOLD_END_TOKEN = "documents with the end token written in their text"


@dataclass(frozen=True, slots=True)
class StoredTokens:
    """A token file of the run's folder and its index, with what is in them."""

    file: Stored
    index: Stored
    tokens: int
    documents: int
    text_bytes: int

    def described(self, tokens_path: str, index_path: str) -> TokenFile:
        """The two files under the paths where they can be read."""
        return TokenFile(tokens_path, index_path, self.tokens, self.documents, self.text_bytes)


@dataclass(frozen=True)
class HeldOut:
    """Which documents are held out of training: a share of them, by a hash of their text under a salt."""

    share: float
    salt: str


class TokenFilesReport(Report):
    """Token files by split, and what is to be known of the tokenizer that made them."""

    files: dict[str, StoredTokens]
    vocab_size: int
    eos_id: int
    pad_id: int
    sha256: str


class TokenizeReport(TokenFilesReport):
    """engine: what encoded; fallback: why it is not the one that was asked for. dropped: the file of those dropped here.
    notes: what was noticed in the texts, by kind."""

    engine: str
    dropped: str
    fallback: str | None = None
    notes: dict[str, int] = msgspec.field(default_factory=dict)


@dataclass(frozen=True)
class Tokenize(Job):
    """Writes X.train.tokens and X.held_out.tokens, each with its index, and X.dropped.parquet."""

    report: ClassVar[type[Report]] = TokenizeReport

    source: Setting[str]
    part: InFile[PartInput]
    tokenizer: InFile[Stored]
    rules: Setting[EncodeRules]
    eos_token: Setting[str | None]
    pad_token: Setting[str | None]
    held_out: Setting[HeldOut]
    engine: HowMuch[EngineName] = "auto"  # all give the same tokens
    batch_bytes: HowMuch[int] = 8 << 20

    def run(self, context: Context) -> TokenizeReport:
        intake, empty = StepBooks("dedup"), StepBooks("tokenize")
        prefix = context.interim(f"{self.source}/tokens")
        dropped = f"{prefix}.dropped.parquet"
        with ExitStack() as stack:
            path = stack.enter_context(context.local(self.tokenizer))
            tokenizer = _loaded(path, self.engine, self.eos_token, self.pad_token, self.rules)
            dropped_path = stack.enter_context(context.output(dropped))
            dropped_file = stack.enter_context(PartWriter(dropped_path, left_out_schema()))
            notes: Counter[str] = Counter()
            batches = _remaining(self, context, tokenizer, (intake, empty), dropped_file, notes)
            local = context.scratch / "tokens"
            part = tokenize_part(batches, tokenizer, local, self.held_out.share, self.held_out.salt)
        part.books.add(empty)
        written = zip(SPLITS, (part.train, part.held_out), strict=True)
        return TokenizeReport(
            books=[intake, part.books],
            files={split: store_tokens(file, f"{prefix}.{split}", context) for split, file in written},
            vocab_size=tokenizer.vocab_size,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            sha256=tokenizer.sha256,
            engine=tokenizer.engine.name,
            fallback=tokenizer.fallback,
            dropped=dropped,
            notes={what: count for what, count in notes.items() if count},
        )


def store_tokens(local: TokenFile, name: str, context: Context) -> StoredTokens:
    """Move a token file and its index from scratch space into the run's folder, as NAME.tokens and NAME.parquet."""
    names = (f"{name}.tokens", f"{name}.parquet")
    for source, target in zip((local.tokens_path, local.index_path), names, strict=True):
        with context.output(target) as path:
            Path(source).replace(path)
    file, index = (context.stored(one) for one in names)
    return StoredTokens(file, index, local.tokens, local.documents, local.text_bytes)


_TOKENIZERS: dict[tuple, Tokenizer] = {}


def _loaded(
    path: Path, engine: EngineName, eos_token: str | None, pad_token: str | None, rules: EncodeRules
) -> Tokenizer:
    """The tokenizer, loaded once a process: that takes half a second, and its cache of words has to warm up."""
    key = (storage.file_digest(path), engine, eos_token, pad_token, rules)
    if key not in _TOKENIZERS:
        _TOKENIZERS.clear()
        _TOKENIZERS[key] = load_tokenizer(path, engine=engine, eos_token=eos_token, pad_token=pad_token, rules=rules)
    return _TOKENIZERS[key]


def left_out_schema() -> pa.Schema:
    """The columns of X.dropped.parquet: documents that dedup removed, and those left out later."""
    types = {name: pa.large_string() if name in ("id", "url", "file") else pa.int64() for name in COLUMNS}
    return dropped_schema(pa.schema([(name, type) for name, type in types.items() if name != "text"]), with_text=False)


def _remaining(
    job: Tokenize,
    context: Context,
    tokenizer: Tokenizer,
    books: tuple[StepBooks, StepBooks],
    dropped_file: PartWriter,
    notes: Counter[str],
) -> Iterator[pa.RecordBatch]:
    """The documents that are tokenized; duplicates and empty ones are entered in their books and put on record."""
    intake, without_text = books
    intake.into.add(0, job.part.edited)
    intake.edited += job.part.edited
    for _, kept, gone in part_batches(job.part, context, job.batch_bytes, COLUMNS):
        intake.into.add(kept.num_rows + gone.num_rows, total_bytes(kept) + total_bytes(gone))
        intake.out.add(kept.num_rows, total_bytes(kept))
        if tokenizer.rules.skip_empty and kept.num_rows:
            empty = np.asarray(pc.equal(pc.binary_length(tokenizer.prepare(kept.column("text"))), 0))
            if empty.any():
                bare = kept.filter(pa.array(empty))
                without_text.into.add(bare.num_rows, total_bytes(bare))
                _record(bare, ["tokenize.skip_empty"] * bare.num_rows, None, without_text, dropped_file)
                kept = kept.filter(pa.array(~empty))
        if gone.num_rows:
            _record(gone, gone.column("reason").to_pylist(), gone.column("representative"), intake, dropped_file)
        notes[HOLD_END_TOKEN] += tokenizer.holding_end_token(kept.column("text"))
        yield kept


def _record(
    gone: pa.RecordBatch, reasons: list[str], representative: pa.Array | None, books: StepBooks, file: PartWriter
) -> None:
    sizes = payload_sizes(gone)
    for reason, size in zip(reasons, sizes, strict=True):
        books.drop(reason, 1, int(size))
    columns = {name: gone.column(name) for name in COLUMNS if name != "text"}
    columns |= {"bytes": pa.array(sizes, pa.int64()), "reason": pa.array(reasons, pa.large_string())}
    if representative is not None:
        columns["representative"] = representative
    file.write(pa.RecordBatch.from_pydict(columns))
