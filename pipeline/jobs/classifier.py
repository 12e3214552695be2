"""The job that trains a quality classifier on documents of the run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.jobs.inputs import part_batches
from pipeline.task import Context
from stages.document import document_hash
from stages.quality.settings import TrainSettings
from stages.quality.train import train_classifier

VERSION = 1
SUFFIXES = ("", ".card.json", ".card.md")


def run(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Train on the parts named in `positive` and `negative`; writes the model and its card."""
    local = context.scratch / Path(spec["output"]).name
    card = train_classifier(
        _sampled(spec["positive"], spec["batch_bytes"], context),
        _sampled(spec["negative"], spec["batch_bytes"], context),
        local,
        TrainSettings.model_validate(spec["settings"]),
        sources=spec["sources"],
        scratch=context.scratch,
    )
    for suffix in SUFFIXES:
        with context.output(spec["output"] + suffix) as path:
            Path(f"{local}{suffix}").replace(path)
    return {"card": card}


def _sampled(parts: list[dict[str, Any]], batch_bytes: int, context: Context) -> Iterator[pa.RecordBatch]:
    """Documents chosen by hash of their ids, the named share of each part."""
    for part in parts:
        for _, kept, _ in part_batches(part["path"], part["removals"], context, batch_bytes, ["id", "text"]):
            limit = part["share"] * 2**64
            chosen = np.array(
                [document_hash(name, "classifier") < limit for name in kept.column("id").to_pylist()], bool
            )
            yield kept.filter(pa.array(chosen))
