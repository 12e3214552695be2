"""The card of a trained classifier, for people to read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TypedDict

Sources = dict[str, str | Sequence[str]]
"""Where the texts of each kind come from: in words, or as names."""


class ModelFacts(TypedDict):
    """The model's file, the label of each kind of text, and what trained it."""

    file: str
    bytes: int
    sha256: str
    labels: dict[str, str]
    trained_by: str


class Documents(TypedDict):
    """Documents of one kind; `given` = empty + trained_on + held_out. text_bytes: of those that are not empty."""

    given: int
    empty: int
    trained_on: int
    held_out: int
    text_bytes: int


class Judged(TypedDict):
    """What labelled documents say of a classifier, at the score 0.5 and over all scores; None where there is no telling."""

    precision: float | None
    recall: float | None
    roc_auc: float | None
    top_tenth_begins: float | None


class HeldOut(Judged):
    """What the held-out documents say. spread: the standard deviation of their scores."""

    top_tenth_of_negatives_begins: float | None
    spread: float | None


class Evaluated(Judged):
    """What the documents of another file say, of which so many are good, and so many were trained on."""

    file: str
    documents: int
    good: int
    also_trained_on: int


class _Card(TypedDict):
    format: str
    version: int
    model: ModelFacts
    settings: dict[str, str | int | float]
    documents: dict[str, Documents]
    sources: Sources
    held_out: HeldOut


class Card(_Card, total=False):
    """What is known of a trained classifier. warnings, evaluated: of the command that trained it; they are in no file."""

    warnings: list[str]
    evaluated: Evaluated


def card_markdown(card: Card) -> str:
    """The card (as `train_classifier` returns it) as Markdown."""
    model, held = card["model"], card["held_out"]
    good, ordinary = model["labels"]["positive"], model["labels"]["negative"]
    lines = [
        f"# Quality classifier `{model['file']}`",
        "",
        f"A supervised fastText model of two labels, `__label__{good}` (good text) and `__label__{ordinary}` (ordinary "
        f"text), trained by {model['trained_by']}. {model['bytes']:,} bytes, SHA-256 `{model['sha256']}`.",
        "",
        "A text is classified with its lines joined by spaces. The score is the probability of good text, 0 to 1.",
        "",
        "## Documents",
        "",
        "| | given | empty, left out | trained on | held out | bytes of text |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for kind, counts in card["documents"].items():
        numbers = (counts["given"], counts["empty"], counts["trained_on"], counts["held_out"], counts["text_bytes"])
        lines.append(f"| {kind} | " + " | ".join(f"{number:,}" for number in numbers) + " |")
    for name, source in card["sources"].items():
        lines += ["", f"{name}: {source if isinstance(source, str) else '`' + json.dumps(source, ensure_ascii=False) + '`'}"]
    lines += ["", "## On the held-out documents", ""]
    if held["roc_auc"] is None:
        lines.append("Not judged: no documents of both kinds were held out.")
    else:
        lines += [
            "| | |",
            "|---|---:|",
            f"| precision at 0.5 | {_number(held['precision'])} |",
            f"| recall at 0.5 | {_number(held['recall'])} |",
            f"| area under the ROC curve | {_number(held['roc_auc'])} |",
            f"| the top 10% of all begins at | {_number(held['top_tenth_begins'], 6)} |",
            f"| the top 10% of the ordinary ones begins at | {_number(held['top_tenth_of_negatives_begins'], 6)} |",
            "",
            "The last line is the limit that keeps a tenth of text like the negatives: DCLM's 0.018112 was such a limit, "
            "for DCLM's own model.",
        ]
    lines += ["", "## Settings", "", "```json", json.dumps(card["settings"], indent=2), "```", ""]
    return "\n".join(lines)


def _number(value: float | None, digits: int = 4) -> str:
    return "none" if value is None else f"{value:.{digits}f}"
