"""The job that trains a quality classifier on documents of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.jobs.sample import sampled
from pipeline.task import Context
from stages.quality.settings import TrainSettings
from stages.quality.train import train_classifier

VERSION = 1
PURPOSE = "classifier"
SUFFIXES = ("", ".card.json", ".card.md")


def run(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Train on the parts named in `positive` and `negative`; writes the model and its card."""
    local = context.scratch / Path(spec["output"]).name
    card = train_classifier(
        sampled(spec["positive"], PURPOSE, spec["batch_bytes"], context),
        sampled(spec["negative"], PURPOSE, spec["batch_bytes"], context),
        local,
        TrainSettings.model_validate(spec["settings"]),
        sources=spec["sources"],
        scratch=context.scratch,
    )
    for suffix in SUFFIXES:
        with context.output(spec["output"] + suffix) as path:
            Path(f"{local}{suffix}").replace(path)
    return {"card": card}
