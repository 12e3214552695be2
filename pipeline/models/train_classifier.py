"""`train-classifier`: a quality classifier from files of good and of ordinary text, judged on labelled documents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
from rich.console import Console

from pipeline import storage
from pipeline.models.user_files import batches_of
from pipeline.recipe.recipe import settings_of
from pipeline.storage.errors import from_os_error
from pipeline.tables import plain_table
from stages.document import text_buffers
from stages.errors import UserError
from stages.kernels.hashing import hash_texts
from stages.quality.card import Card, Evaluated, Judged, Sources
from stages.quality.classifier import good_probability
from stages.quality.examples import training_texts
from stages.quality.fasttext_model import load_model
from stages.quality.scores import precision_recall, roc_auc, top_share_begins
from stages.quality.settings import TrainSettings
from stages.quality.train import train_classifier
from stages.read import ReadSpec

SPREAD = 0.01  # standard deviation of scores below which they tell nothing apart


def train(
    positive: Sequence[str],
    negative: Sequence[str],
    out: str,
    assignments: Sequence[str] = (),
    evaluate: str | None = None,
    labelled: Sequence[str] = (),
) -> Card:
    """Train on all documents of the named files (paths, patterns, URIs); returns the model's card, and `warnings` on it.

    `labelled`: files of {"text", "label": 0 or 1}, whose documents are good (1) or ordinary (0) ones. `evaluate`: JSON
    lines of {"text", "label": 0 or 1}, never trained on; what the classifier says of them is put on the returned card as
    `evaluated`. Raises UserError for files that are missing or damaged, and unknown settings.
    """
    settings = settings_of(TrainSettings, assignments)
    if not labelled and not (positive and negative):
        raise UserError("give files of good and of ordinary text (--positive, --negative), or of both with labels (--labelled)")
    named = {"positive": positive, "negative": negative, "labelled": labelled}
    sources: Sources = {name: storage.public(list(paths)) for name, paths in named.items() if paths}
    good, ordinary = (
        chain(_texts(name, paths) if paths else (), _of_label(labelled, label))
        for name, paths, label in (("positive", positive, 1), ("negative", negative, 0))
    )
    try:
        card = train_classifier(good, ordinary, out, settings, sources=sources, find_settings=True)
    except OSError as error:
        raise from_os_error(error, error.filename or out, "write") from None
    warnings = _warnings(card["held_out"]["spread"])
    if evaluate:
        both = _overlap(evaluate, [*positive, *negative, *labelled])
        found = card["evaluated"] = judge(out, settings, evaluate, both)
        if both:
            warnings.append(
                f"{both:,} of the {found['documents']:,} documents of {found['file']} are in the training files too, so it says "
                "little of how good the model is: take them out of one of the two"
            )
    return {**card, "warnings": warnings}


def _warnings(spread: float | None) -> list[str]:
    if spread is None or spread >= SPREAD:
        return []
    return [
        f"the scores of held-out documents do not spread (standard deviation {spread:.4f}), so the model tells nothing apart: "
        "give more documents, or raise lr and epoch with --set"
    ]


def _of_label(labelled: Sequence[str], wanted: int) -> Iterator[pa.RecordBatch]:
    """The documents of labelled files with one label. Raises UserError for a label that is neither 0 nor 1."""
    for batch in _texts("labelled", labelled, metadata=True) if labelled else ():
        yield batch.filter(pa.array(_labels(batch) == wanted))


def _labels(batch: pa.RecordBatch) -> np.ndarray:
    """The label of each record (int64)."""
    found = []
    for file, record, text in zip(*(batch.column(n).to_pylist() for n in ("file", "record", "metadata")), strict=True):
        label = orjson.loads(text or "{}").get("label")
        if label not in (0, 1):
            raise UserError(f"{file}, record {record}: `label` must be 0 or 1, not {label!r}")
        found.append(int(label))
    return np.array(found, np.int64)


def _overlap(evaluate: str, training: Sequence[str]) -> int:
    """How many documents of the file to judge on are among the training files' too, as both are learned from."""
    judged = np.concatenate([_hashes(batch) for batch in _texts("evaluate", [evaluate])] or [np.zeros(0, np.uint64)])
    met = np.zeros(len(judged), bool)
    for batch in _texts("training", training):
        met |= np.isin(judged, _hashes(batch))
    return int(met.sum())


def _hashes(batch: pa.RecordBatch) -> np.ndarray:
    data, offsets = text_buffers(training_texts(batch.column("text")))
    hashes = np.empty((batch.num_rows, 2), np.uint64)
    hash_texts(data, offsets, 0, hashes)
    return hashes[:, 0]


def _texts(name: str, paths: Sequence[str], metadata: bool = False) -> Iterator[pa.RecordBatch]:
    """Batches of the documents in the named files."""
    return (batch for _, batch in batches_of(name, paths, ReadSpec(metadata=metadata)))


def judge(model: str | Path, settings: TrainSettings, labelled: str, also_trained_on: int) -> Evaluated:
    """How well the model tells good documents (label 1) of a file from bad ones (label 0), of which some were trained on."""
    classifier = load_model(model)
    scores: list[np.ndarray] = []
    good: list[np.ndarray] = []
    for batch in _texts("evaluate", [labelled], metadata=True):
        scores.append(good_probability(classifier, batch.column("text"), settings.positive, settings.negative))
        good.append(_labels(batch) == 1)
    if not scores:
        raise UserError(f"{labelled} holds no document to judge the model on")
    all_scores, positive = np.concatenate(scores), np.concatenate(good)
    precision, recall = precision_recall(all_scores, positive, 0.5)
    return {
        "file": storage.public_name(labelled),
        "also_trained_on": also_trained_on,
        "documents": len(positive),
        "good": int(positive.sum()),
        "precision": precision,
        "recall": recall,
        "roc_auc": roc_auc(all_scores, positive),
        "top_tenth_begins": top_share_begins(all_scores, 0.1),
    }


def show(card: Card, console: Console, out: str) -> None:
    """Print what training found."""
    columns = ("judged on<", "documents", "precision at 0.5", "recall at 0.5", "area under ROC", "top 10% begins at")
    table = plain_table(f"classifier {out}", *columns)
    held = sum(card["documents"][kind]["held_out"] for kind in ("positive", "negative"))
    judged: list[tuple[str, int, Judged]] = [("held-out documents", held, card["held_out"])]
    if evaluated := card.get("evaluated"):
        judged.append((evaluated["file"], evaluated["documents"], evaluated))
    for name, documents, scores in judged:
        values = (scores["precision"], scores["recall"], scores["roc_auc"], scores["top_tenth_begins"])
        table.add_row(name, f"{documents:,}", *("" if v is None else f"{v:.4f}" for v in values))
    console.print(table)
    for warning in card.get("warnings", ()):
        console.print(f"warning: {warning}")
    console.print(f"wrote {out}, {out}.card.md and {out}.card.json; in a recipe: - quality: {{model: {out}, score: ...}}")
