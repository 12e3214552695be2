"""The jobs between token formats: one shard of a run to another tool's files, and one of those files to token files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, ClassVar, Literal

import numpy as np

from pipeline import storage
from pipeline.jobs.context import Context
from pipeline.jobs.tokenize import SPLITS, TokenFilesReport, store_tokens
from pipeline.mixture.shard_tokens import open_shard
from pipeline.plan.node import Job, Named, Readable, Report, Stored
from stages.errors import UserError
from stages.marks import HowMuch, InFile, OutFile, Setting
from stages.tokens.adopt import adopt
from stages.tokens.formats import datatrove, jsonl, megatron, olmo, parquet
from stages.tokens.formats.block import Block, blocks, bounded, rows_by_end_token
from stages.tokens.manifest_shape import ShardEntry
from stages.tokens.shard_format import ShardError
from stages.tokens.token_bytes import TokenBytes
from stages.tokens.tokenizer import Tokenizer, load_tokenizer

ExportFormat = Literal["datatrove", "megatron", "parquet", "jsonl"]
ImportFormat = Literal["olmo", "datatrove", "megatron", "parquet", "jsonl"]


@dataclass(frozen=True)
class ShardOfRun(Readable):
    """A shard of a finished run, as its manifest has it; index_version: of the index, which the manifest does not vouch for.

    ranges, whole: of one that is ranges of other files (`ShardFacts`).
    """

    path: str
    index: str
    tokens: int
    documents: int
    text_bytes: int
    sha256: str
    index_version: str
    ranges: int | None = None
    whole: str = ""

    def identity(self) -> list[str]:
        """The content of its two files."""
        return [self.path, self.sha256, self.index_version]

    def entry(self) -> ShardEntry:
        """As the manifest has it."""
        found = ShardEntry(
            path=self.path,
            index=self.index,
            tokens=self.tokens,
            documents=self.documents,
            text_bytes=self.text_bytes,
            sha256=self.sha256,
        )
        if self.ranges is not None:
            found.update(ranges=self.ranges, whole=self.whole)
        return found


@dataclass(frozen=True)
class TokenizerOfRun(Readable):
    """A finished run's tokenizer, as its manifest has it."""

    path: str
    sha256: str
    vocab_size: int
    eos_id: int

    def identity(self) -> str:
        """The content of its file."""
        return self.sha256


class ExportReport(Report):
    """What was written."""

    documents: int
    tokens: int


@dataclass(frozen=True)
class ExportShard(Job):
    """Writes one shard of a run in another format; what was read is checked against the manifest before it appears."""

    report: ClassVar[type[Report]] = ExportReport

    shard: InFile[ShardOfRun]
    tokenizer: InFile[TokenizerOfRun]
    source: Setting[str]
    format: Setting[ExportFormat]
    dtype: Setting[str]
    text: Setting[bool]
    tokens: Setting[bool]
    compression: Setting[str]
    output: OutFile[tuple[str, ...]]
    run_uri: HowMuch[str]

    def run(self, context: Context) -> ExportReport:
        try:
            with ExitStack() as stack:
                return self._write(context, stack)
        except ShardError as error:
            raise UserError(f"{self.run_uri}: {error}") from None

    def _write(self, context: Context, stack: ExitStack) -> ExportReport:
        shard, dtype, known = self.shard, np.dtype(self.dtype), self.tokenizer
        decoder = None
        if self.text:
            uri = storage.join(self.run_uri, known.path)
            decoder = _decoder(stack.enter_context(storage.pinned(uri, context.cache)), known.sha256)[1]
        stream = stack.enter_context(open_shard(self.run_uri, shard.entry(), dtype))
        index = storage.join(self.run_uri, shard.index)
        found = olmo.read_shard(stream, lambda: storage.open_stream(index), shard.entry(), dtype, known.vocab_size)
        paths = [stack.enter_context(context.output(name)) for name in self.output]
        if self.format == "parquet":
            counts = parquet.write_parquet(found, paths[0], self.source, dtype, known.eos_id, decoder)
            return ExportReport(documents=counts[0], tokens=counts[1])
        files: list[BinaryIO] = [stack.enter_context(path.open("wb")) for path in paths]
        return self._write_plain(found, files, decoder, stack)

    def _write_plain(
        self, found: Iterator[Block], files: list[BinaryIO], decoder: TokenBytes | None, stack: ExitStack
    ) -> ExportReport:
        dtype, known = np.dtype(self.dtype), self.tokenizer
        if self.format == "datatrove":
            documents, tokens = datatrove.write_datatrove(found, files[0], files[1])
            files[2].write(datatrove.metadata(known.path, dtype, tokens))
        elif self.format == "megatron":
            documents = self.shard.documents
            tokens = megatron.write_megatron(found, files[0], files[1], documents, dtype)
        else:
            out = stack.enter_context(jsonl.compressed(files[0], self.compression))
            documents, tokens = jsonl.write_jsonl(found, out, self.source, known.eos_id, decoder, self.tokens)
        return ExportReport(documents=documents, tokens=tokens)


class ImportReport(TokenFilesReport):
    """ended: documents that were given the end token."""

    ended: int


@dataclass(frozen=True)
class ImportSettings:
    """What decides the bytes of an import, besides files and tokenizer.

    dtype: of raw token files; None: as their metadata says, else by the vocabulary. held_out, salt: share of the documents that
    are held out, and what chooses them. as_run: these are those that a run holds out.
    """

    format: ImportFormat
    source: str
    eos_token: str | None
    pad_token: str | None
    append_eos: bool
    dtype: str | None
    tokens_field: str | None
    id_field: str
    held_out: float
    salt: str
    as_run: bool


@dataclass(frozen=True)
class ImportFile(Job):
    """Takes in one file of tokens made elsewhere: training and held-out documents apart, as token files of a part.

    name: what documents and errors call the file. index, metadata: files that belong to it, where there are any.
    """

    report: ClassVar[type[Report]] = ImportReport

    file: InFile[Named]
    name: InFile[str]
    index: InFile[Named | None]
    metadata: InFile[Named | None]
    tokenizer: InFile[Stored]
    settings: Setting[ImportSettings]

    def run(self, context: Context) -> ImportReport:
        asked = self.settings
        with ExitStack() as stack:
            path = stack.enter_context(context.local(self.tokenizer))
            tokenizer, decoder = _decoder(path, self.tokenizer.digest, asked.eos_token, asked.pad_token)
            if asked.as_run and not decoder.exact:
                raise UserError(
                    "--held-out-as needs a byte-level tokenizer: of others, a document's text is not known exactly"
                )
            try:
                found = adopt(
                    self._opened(tokenizer, stack),
                    tokenizer,
                    decoder,
                    context.scratch / "tokens",
                    self.name,
                    asked.held_out,
                    asked.salt,
                    asked.append_eos,
                )
            except ShardError as error:
                raise UserError(str(error)) from None
        prefix = context.interim(f"{asked.source}/tokens")
        written = zip(SPLITS, (found.train, found.held_out), strict=True)
        return ImportReport(
            books=[found.books],
            files={split: store_tokens(file, f"{prefix}.{split}", context) for split, file in written},
            ended=found.ended,
            vocab_size=tokenizer.vocab_size,
            eos_id=tokenizer.eos_id,
            pad_id=tokenizer.pad_id,
            sha256=tokenizer.sha256,
        )

    def _opened(self, tokenizer: Tokenizer, stack: ExitStack) -> Iterator[Block]:
        """The documents of the file, whatever its format."""
        name, asked = self.name, self.settings
        if asked.format == "parquet":
            opened = stack.enter_context(storage.open_random(self.file.uri, version=self.file.witness))
            yield from parquet.read_parquet(opened, name, tokens_field=asked.tokens_field, id_field=asked.id_field)
            return
        stream = stack.enter_context(_stream(self.file))
        if asked.format == "jsonl":
            yield from jsonl.read_jsonl(stream, name, tokens_field=asked.tokens_field, id_field=asked.id_field)
            return
        dtype = np.dtype(asked.dtype).newbyteorder("<") if asked.dtype else tokenizer.dtype
        index, rows = self.index, None
        called = storage.public_name(index.uri) if index else ""
        if asked.format == "megatron":
            assert index is not None
            opened = stack.enter_context(storage.open_random(index.uri, version=index.witness))
            head = megatron.read_head(opened, called)
            dtype, rows = head.dtype, megatron.rows_of_index(opened, head, called, name)
        elif asked.format == "datatrove":
            if self.metadata:
                with _stream(self.metadata) as opened:
                    size = datatrove.read_metadata(opened.read(), storage.public_name(self.metadata.uri))
                dtype = np.dtype(f"<u{size}")
            if index:
                rows = datatrove.rows_of_index(stack.enter_context(_stream(index)), called, name)
        else:
            _refuse_numpy_header(self.file, name)
            if index:
                rows = olmo.rows_of_index(partial(_stream, index), called, name)
        if rows is None:
            rows = rows_by_end_token(stack.enter_context(_stream(self.file)), dtype, tokenizer.eos_id, name)
        yield from blocks(stream, dtype, bounded(rows, name), name)


def _stream(file: Named, offset: int = 0, length: int | None = None) -> BinaryIO:
    return storage.open_stream(file.uri, offset, length, version=file.witness)


def _refuse_numpy_header(file: Named, name: str) -> None:
    with _stream(file, 0, 6) as head:
        if head.read(6) == b"\x93NUMPY":
            raise ShardError(
                f"{name}: has a numpy header, and OLMo's .npy have none; write it anew with array.tofile(...)"
            )


_LOADED: dict[tuple, tuple[Tokenizer, TokenBytes]] = {}


def _decoder(
    path: Path, content: str, eos_token: str | None = None, pad_token: str | None = None
) -> tuple[Tokenizer, TokenBytes]:
    """The tokenizer and its table of bytes, loaded once a process; content: a digest of its file."""
    key = (content, eos_token, pad_token)
    if key not in _LOADED:
        _LOADED.clear()
        loaded = load_tokenizer(path, engine="tokenizers", eos_token=eos_token, pad_token=pad_token)
        _LOADED[key] = loaded, TokenBytes(loaded.reference.tokenizer)
    return _LOADED[key]
