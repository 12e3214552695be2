"""Bringing a tokenizer into the run's folder: trained on a sample of the run's documents, or copied."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from pipeline.jobs.classifier import Drawn
from pipeline.jobs.context import Context
from pipeline.jobs.inputs import fetch_named
from pipeline.jobs.sample import sampled
from pipeline.plan.node import Job, Named, Report
from stages.marks import HowMuch, InFile, OutFile, Setting
from stages.tokens.train_tokenizer import train_tokenizer

PURPOSE = "tokenizer"  # what documents are sampled for


class TokenizerReport(Report):
    """Bytes of text that it was trained on; 0 for one that was copied."""

    bytes: int = 0


@dataclass(frozen=True)
class TrainTokenizer(Job):
    """Trains on documents of all parts, chosen by hash of their ids, in canonical order."""

    report: ClassVar[type[Report]] = TokenizerReport

    drawn: InFile[Drawn]
    vocab_size: Setting[int]
    max_bytes: Setting[int]
    output: OutFile[str]
    batch_bytes: HowMuch[int] = 8 << 20

    def run(self, context: Context) -> TokenizerReport:
        def texts() -> Iterator[str]:
            for batch in sampled(self.drawn.parts, self.drawn.share, PURPOSE, self.batch_bytes, context):
                for text in batch.column("text"):
                    yield text.as_py()

        with context.output(self.output) as path:
            used = train_tokenizer(texts(), path, self.vocab_size, self.max_bytes)
        return TokenizerReport(bytes=used)


@dataclass(frozen=True)
class CopyTokenizer(Job):
    """Brings a tokenizer into the run's folder, so that shards and tokenizer travel together."""

    report: ClassVar[type[Report]] = TokenizerReport

    file: InFile[Named]
    output: OutFile[str]

    def run(self, context: Context) -> TokenizerReport:
        source = fetch_named(self.file, context)
        with context.output(self.output) as path:
            path.write_bytes(source.read_bytes())
        return TokenizerReport()
