"""`train-classifier`: a quality classifier from files of good and of ordinary text, judged on labelled documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
from rich.console import Console

from pipeline import storage
from pipeline.recipe import settings_of
from pipeline.storage.errors import from_os_error
from pipeline.tables import plain_table
from pipeline.user_files import batches_of
from stages.errors import UserError
from stages.quality.classifier import good_probability
from stages.quality.fasttext_model import load_model
from stages.quality.scores import precision_recall, roc_auc, top_share_begins
from stages.quality.settings import TrainSettings
from stages.quality.train import train_classifier
from stages.read import ReadSpec


def train(
    positive: Sequence[str], negative: Sequence[str], out: str, assignments: Sequence[str] = (), evaluate: str | None = None
) -> dict[str, Any]:
    """Train on all documents of the named files (paths, patterns, URIs); returns the model's card.

    `evaluate`: JSON lines of {"text", "label": 0 or 1}, never trained on; what the classifier says of them is put on the
    returned card as `evaluated`. Raises UserError for files that are missing or damaged, and unknown settings.
    """
    settings = settings_of(TrainSettings, assignments)
    sources = {"positive": storage.public(list(positive)), "negative": storage.public(list(negative))}
    try:
        card = train_classifier(_texts("positive", positive), _texts("negative", negative), out, settings, sources=sources)
    except OSError as error:
        raise from_os_error(error, error.filename or out, "write") from None
    if evaluate:
        card["evaluated"] = {"file": storage.public_name(evaluate), **judge(out, settings, evaluate)}
    return card


def _texts(name: str, paths: Sequence[str], metadata: bool = False) -> Iterator[pa.RecordBatch]:
    """Batches of the documents in the named files."""
    return (batch for _, batch in batches_of(name, paths, ReadSpec(metadata=metadata)))


def judge(model: str | Path, settings: TrainSettings, labelled: str) -> dict[str, Any]:
    """How well the model tells good documents (label 1) of a file from bad ones (label 0)."""
    classifier = load_model(model)
    scores: list[np.ndarray] = []
    good: list[bool] = []
    for batch in _texts("evaluate", [labelled], metadata=True):
        scores.append(good_probability(classifier, batch.column("text"), settings.positive, settings.negative))
        for record, text in zip(batch.column("record").to_pylist(), batch.column("metadata").to_pylist(), strict=True):
            label = orjson.loads(text or "{}").get("label")
            if label not in (0, 1):
                raise UserError(f"{labelled}, record {record}: `label` must be 0 or 1, not {label!r}")
            good.append(label == 1)
    all_scores, positive = np.concatenate(scores), np.array(good)
    precision, recall = precision_recall(all_scores, positive, 0.5)
    return {
        "documents": len(positive),
        "good": int(positive.sum()),
        "precision": precision,
        "recall": recall,
        "roc_auc": roc_auc(all_scores, positive),
        "top_tenth_begins": top_share_begins(all_scores, 0.1),
    }


def show(card: dict[str, Any], console: Console, out: str) -> None:
    """Print what training found."""
    columns = ("judged on<", "documents", "precision at 0.5", "recall at 0.5", "area under ROC", "top 10% begins at")
    table = plain_table(f"classifier {out}", *columns)
    held = sum(card["documents"][kind]["held_out"] for kind in ("positive", "negative"))
    for name, documents, scores in (
        ("held-out documents", held, card["held_out"]),
        *([(e["file"], e["documents"], e)] if (e := card.get("evaluated")) else []),
    ):
        values = (scores["precision"], scores["recall"], scores["roc_auc"], scores["top_tenth_begins"])
        table.add_row(name, f"{documents:,}", *("" if v is None else f"{v:.4f}" for v in values))
    console.print(table)
    console.print(f"wrote {out}, {out}.card.md and {out}.card.json; in a recipe: - quality: {{model: {out}, score: ...}}")
