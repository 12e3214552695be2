"""Trains a quality classifier: good documents against ordinary ones."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.document import text_buffers
from stages.errors import UserError
from stages.quality.card import Card, HeldOut, Sources, card_markdown
from stages.quality.classifier import good_probability
from stages.quality.examples import SCHEMA, Staged, Texts, in_order, stage
from stages.quality.fasttext_model import load_model
from stages.quality.fit import fit
from stages.quality.scores import precision_recall, roc_auc, top_share_begins
from stages.quality.settings import TrainSettings

KINDS = ("positive", "negative")


def train_classifier(
    positives: Texts,
    negatives: Texts,
    out_path: str | Path,
    settings: TrainSettings | None = None,
    *,
    sources: Sources | None = None,
    scratch: str | Path | None = None,
    find_settings: bool = False,
) -> Card:
    """Train a classifier, judge it on held-out documents, and write the model and, beside it, its card.

    The texts are read once and staged in `scratch` (default: beside the model; about twice their size is needed).
    find_settings: few documents are learned with settings for few (`TrainSettings.for_documents`).
    `sources` is put on the card as it is: say there where the texts come from. Returns the card, which is also written
    as `<model>.card.json` and `<model>.card.md`; the model file appears last, and whole. Texts without a character
    other than white space are left out.

    Raises UserError where one side has no text, or fastText fails, and OSError where there is no room on the disk.
    """
    settings = settings or TrainSettings()
    if settings.positive == settings.negative:
        raise UserError(f"positive and negative label are both {settings.positive!r}")
    out_path = Path(out_path)
    out_path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out_path.name}.", dir=scratch or out_path.parent) as folder:
        work = Path(folder)
        staged = stage((positives, negatives), work / "staged.arrow", settings.seed)
        for kind, documents in zip(KINDS, staged.documents, strict=True):
            if documents == 0:
                raise UserError(f"no {kind} document with text was given to train a classifier on")
        if find_settings:
            settings = settings.for_documents(sum(staged.documents))
        held = [min(int(n * settings.held_out), settings.held_out_max) for n in staged.documents]
        trained = _write_text(staged, held, work, settings)
        staged.path.unlink()
        fit(work / "train.txt", work / "model.bin", _arguments(settings))
        (work / "train.txt").unlink()
        card: Card = {
            "format": "headrace-classifier-card",
            "version": 1,
            "model": {
                "file": out_path.name,
                "bytes": (work / "model.bin").stat().st_size,
                "sha256": _sha256(work / "model.bin"),
                "labels": {"positive": settings.positive, "negative": settings.negative},
                "trained_by": f"fasttext-community {metadata.version('fasttext-community')}",
            },
            "settings": settings.model_dump(mode="json"),
            "documents": {
                kind: {
                    "given": staged.documents[k] + staged.empty[k],
                    "empty": staged.empty[k],
                    "trained_on": trained[k],
                    "held_out": held[k],
                    "text_bytes": staged.bytes[k],
                }
                for k, kind in enumerate(KINDS)
            },
            "sources": sources or {},
            "held_out": _judge(work / "model.bin", work / "held_out.arrow", settings),
        }
        _write(out_path.with_name(out_path.name + ".card.json"), json.dumps(card, indent=2, ensure_ascii=False) + "\n")
        _write(out_path.with_name(out_path.name + ".card.md"), card_markdown(card))
        _put_in_place(work / "model.bin", out_path)
    return card


def _arguments(settings: TrainSettings) -> dict[str, Any]:
    """The arguments of fasttext.train_supervised."""
    return {
        "wordNgrams": settings.word_ngrams, "dim": settings.dim, "lr": settings.lr, "epoch": settings.epoch,
        "minCount": settings.min_count, "ws": settings.ws, "bucket": settings.bucket, "thread": settings.threads,
        "seed": settings.seed, "verbose": 0,
    }  # fmt: skip


def _write_text(staged: Staged, held: list[int], work: Path, settings: TrainSettings) -> list[int]:
    """Write held_out.arrow (the first documents of each label) and train.txt (the rest); returns lines of each label."""
    prefixes = pa.array([f"__label__{settings.positive} ", f"__label__{settings.negative} "], pa.large_string())
    met, trained = [0, 0], [0, 0]
    with (
        (work / "train.txt").open("wb") as lines,
        pa.OSFile(str(work / "held_out.arrow"), "wb") as file,
        pa.ipc.new_file(file, SCHEMA) as aside,
    ):
        for batch in in_order(staged, work, settings.shuffle_mb << 20):
            labels = batch.column("label").to_numpy()
            keep = np.zeros(len(labels), bool)
            for label in range(2):
                rows = np.flatnonzero(labels == label)
                keep[rows[: max(0, held[label] - met[label])]] = True
                met[label] += len(rows)
                trained[label] += int((~keep[rows]).sum())
            aside.write_batch(batch.filter(pa.array(keep)))
            rest = batch.filter(pa.array(~keep))
            lines.write(_lines(prefixes.take(rest.column("label")), rest.column("text")))
    return trained


def _lines(prefixes: pa.Array, texts: pa.Array) -> memoryview:
    end, nothing = (pa.scalar(value, pa.large_string()) for value in ("\n", ""))
    joined = pc.binary_join_element_wise(prefixes, texts, end, nothing)
    data, offsets = text_buffers(joined)
    return memoryview(data[offsets[0] : offsets[-1]])


def _held_out_scores(model: Path, held_out: Path, settings: TrainSettings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    classifier = load_model(model)
    with pa.OSFile(str(held_out)) as file:
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            scores = good_probability(classifier, batch.column("text"), settings.positive, settings.negative)
            yield scores, batch.column("label").to_numpy() == 0


def _judge(model: Path, held_out: Path, settings: TrainSettings) -> HeldOut:
    """What the held-out documents say: at the score 0.5, over all scores, and where a top tenth begins."""
    parts = list(_held_out_scores(model, held_out, settings))
    scores = np.concatenate([part[0] for part in parts] or [np.zeros(0)])
    positive = np.concatenate([part[1] for part in parts] or [np.zeros(0, bool)])
    precision, recall = precision_recall(scores, positive, 0.5)
    return {
        "precision": _known(precision),
        "recall": _known(recall),
        "roc_auc": _known(roc_auc(scores, positive)),
        "top_tenth_begins": _known(top_share_begins(scores, 0.1)),
        "top_tenth_of_negatives_begins": _known(top_share_begins(scores[~positive], 0.1)),
        "spread": float(scores.std()) if len(scores) else None,
    }


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)


def _put_in_place(model: Path, target: Path) -> None:
    """Move the model to its place in one step, by way of a copy where it lies on another disk."""
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        shutil.move(model, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
