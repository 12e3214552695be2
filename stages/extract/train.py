"""Trains the block model on examples, judges it by cross-validation, and writes it with its card."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.errors import UserError
from stages.extract.block_scores import Found, by_language
from stages.extract.block_training import Example, FitSettings, cross_validate, fit, prepare
from stages.extract.blocks import Parsed

LEAST = 60  # wanted strings of a language that has a line of its own on the card


@dataclass(frozen=True)
class Trained:
    """What the card says."""

    model: Path
    model_bytes: int
    files: Mapping[str, str]  # name of each file of data -> SHA-256
    pages: int
    blocks: int
    teachers: str
    settings: FitSettings
    folds: int
    scores: dict[str, Found]  # by language, from cross-validation; empty where there was none


def train_blocks(
    examples: Sequence[Example],
    files: Mapping[str, str],
    out: Path,
    settings: FitSettings,
    folds: int,
    on_progress: Callable[[str], None],
) -> Trained:
    """Train on pages, write the model to `out` and its card beside it (.card.md), and return what the card says.

    files: SHA-256 of each file that the examples are from. folds: parts of the sites for cross-validation; 0 for none.
    """
    rows = prepare(examples, Parsed(max(len(example.page) for example in examples)))
    scores: dict[str, Found] = {}
    if folds:

        def tell(fold: int) -> None:
            on_progress(f"cross-validation: {fold + 1} of {folds} parts")

        found = cross_validate(examples, rows, settings, folds, tell)
        scores = by_language(((row.language, one) for row, one in zip(rows, found, strict=True)), LEAST)
    fit(examples, rows, list(range(len(rows))), settings).save(out)
    blocks = sum(len(row.labels) for row in rows)
    trained = Trained(out, out.stat().st_size, files, len(rows), blocks, teachers(), settings, folds, scores)
    out.with_suffix(".card.md").write_text(card(trained), encoding="utf-8")
    return trained


def teachers() -> str:
    """The teachers' names and versions. Raises UserError where they are not installed."""
    try:
        import lightgbm
        import trafilatura
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'headrace[extractor]'") from None
    return f"trafilatura {trafilatura.__version__}, LightGBM {lightgbm.__version__}"


def answers(page: str) -> tuple[str, ...]:
    """The page's main text by trafilatura, without comments: as it is, and with a preference for precision."""
    import trafilatura

    return tuple(
        trafilatura.extract(page, include_comments=False, favor_precision=precise) or "" for precise in (False, True)
    )


def card(trained: Trained) -> str:
    """The model's card, Markdown."""
    lines = [
        "# The model of the extraction engine `blocks`",
        "",
        f"Tells the blocks of a page's main text from all others. {trained.model_bytes:,} bytes: a logistic regression over "
        "hashed features (int8 weights) and gradient-boosted trees. Made by `python -m pipeline train-extractor`.",
        "",
        "## What it learned from",
        "",
        f"{trained.pages:,} pages, {trained.blocks:,} blocks, taught by the strings of a truth file and by the answers of "
        f"{trained.teachers}.",
        "",
        "| file | SHA-256 |",
        "|---|---|",
        *(f"| {name} | `{digest}` |" for name, digest in trained.files.items()),
        "",
        "The pages themselves are not in the model: it holds weights of hashes and thresholds of figures. Their text keeps "
        "its own terms. The model is under the licence of the project, Apache-2.0.",
        "",
        "## How good it is",
        "",
    ]
    if trained.scores:
        lines += [
            f"Strings that belong in the main text and strings that do not, found by models trained on other sites "
            f"({trained.folds} parts of the sites, each judged by a model of the others).",
            "",
            "| language the page states | strings wanted | precision | recall | F1 |",
            "|---|---:|---:|---:|---:|",
            *(
                f"| {name} | {found.wanted + found.missed:,} | {found.precision:.3f} | {found.recall:.3f} | {found.f1:.3f} |"
                for name, found in trained.scores.items()
            ),
        ]
    else:
        lines.append("Not judged.")
    lines += [
        "",
        "## What it drops, and keeps wrongly",
        "",
        "Meant to go: navigation, lists of other articles, comments, forms, notices, advertisements, and the line numbers of "
        "code. Often lost: short lines that stand alone, introductions above a picture, captions, pages that are one list or "
        "one form. Often kept: promotion and captions within the text without a telling class, bylines, sources.",
        "",
        "## Settings",
        "",
        "```",
        *(f"{name}: {value}" for name, value in trained.settings.model_dump().items()),
        "```",
        "",
    ]
    return "\n".join(lines)
