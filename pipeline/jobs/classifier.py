"""Training a quality classifier on documents of the run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from pipeline.jobs.context import Context
from pipeline.jobs.inputs import PartInput
from pipeline.jobs.sample import sampled
from pipeline.plan.node import Job, Report
from stages.marks import HowMuch, InFile, OutFile, Setting
from stages.quality.card import Card
from stages.quality.settings import TrainSettings
from stages.quality.train import train_classifier

PURPOSE = "classifier"
SUFFIXES = ("", ".card.json", ".card.md")


class ClassifierReport(Report):
    """What the model's card says."""

    card: Card


@dataclass(frozen=True)
class Drawn:
    """Documents to train on: parts, the share of their documents that is taken, and the sources that they are from."""

    parts: InFile[tuple[PartInput, ...]]
    share: Setting[float]
    sources: Setting[tuple[str, ...]]


@dataclass(frozen=True)
class TrainClassifier(Job):
    """Trains on samples of parts; writes the model and its card."""

    report: ClassVar[type[Report]] = ClassifierReport

    positive: InFile[Drawn]
    negative: InFile[Drawn]
    settings: Setting[TrainSettings]
    output: OutFile[tuple[str, ...]]  # the model, its card as JSON and as a page
    batch_bytes: HowMuch[int] = 8 << 20

    def run(self, context: Context) -> ClassifierReport:
        local = context.scratch / Path(self.output[0]).name
        card = train_classifier(
            sampled(self.positive.parts, self.positive.share, PURPOSE, self.batch_bytes, context),
            sampled(self.negative.parts, self.negative.share, PURPOSE, self.batch_bytes, context),
            local,
            self.settings,
            sources={"positive": list(self.positive.sources), "negative": list(self.negative.sources)},
            scratch=context.scratch,
        )
        for name, suffix in zip(self.output, SUFFIXES, strict=True):
            with context.output(name) as path:
                Path(f"{local}{suffix}").replace(path)
        return ClassifierReport(card=card)
