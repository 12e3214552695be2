"""The card of a trained classifier, for people to read."""

from __future__ import annotations

import json
from typing import Any


def card_markdown(card: dict[str, Any]) -> str:
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
        columns = ("given", "empty", "trained_on", "held_out", "text_bytes")
        lines.append(f"| {kind} | " + " | ".join(f"{counts[name]:,}" for name in columns) + " |")
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
