"""`train-extractor`: the model of the engine `blocks`, from crawled pages, people's strings and the answers of trafilatura."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from pipeline import storage
from pipeline.overrides import apply_set
from pipeline.plan.sources import list_files
from pipeline.recipe import RecipeError, explain
from stages.charset import decode
from stages.errors import UserError
from stages.extract.block_scores import Found, by_language, read_truth
from stages.extract.block_training import Example, FitSettings, Prepared, cross_validate, fit, prepare
from stages.extract.blocks import Parsed
from stages.read import Event, Problem, ReadSpec, read_batches

LEAST = 60  # wanted strings of a language that has a line of its own on the card


@dataclass(frozen=True)
class Trained:
    """What the card says."""

    model: Path
    model_bytes: int
    files: dict[str, str]  # name of each file of data -> SHA-256
    pages: int
    blocks: int
    teachers: str
    settings: FitSettings
    folds: int
    scores: dict[str, Found]  # by language, from cross-validation; empty where there was none


def train(
    pages: Sequence[str],
    truth: str,
    out: str,
    assignments: Sequence[str] = (),
    folds: int = 5,
    on_progress: Callable[[str], None] = lambda what: None,
) -> Trained:
    """Train on the pages of WARC files, write the model and its card (`out` with .card.md), and return what the card says.

    `folds`: parts of the sites for cross-validation; 0 for none. Raises UserError for files that are missing, damaged or of
    another form, for unknown settings, and where LightGBM or trafilatura is not installed.
    """
    try:
        settings = FitSettings.model_validate(apply_set({}, assignments))
    except ValidationError as error:
        raise RecipeError(f"--set: {explain(error, FitSettings)}") from None
    examples, digests = examples_of(pages, Path(truth), on_progress)
    rows = prepare(examples, Parsed(max(len(example.page) for example in examples)))
    scores = _judge(examples, rows, settings, folds, on_progress) if folds else {}
    model = fit(examples, rows, list(range(len(rows))), settings)
    path = Path(out)
    model.save(path)
    trained = Trained(
        path, path.stat().st_size, digests, len(rows), sum(len(row.labels) for row in rows), _teachers(), settings, folds, scores
    )
    path.with_suffix(".card.md").write_text(card(trained), encoding="utf-8")
    return trained


def examples_of(
    pages: Sequence[str], truth: Path, on_progress: Callable[[str], None] = lambda what: None
) -> tuple[list[Example], dict[str, str]]:
    """The pages of WARC files with trafilatura's answers and the truth's strings, and the SHA-256 of each file of data."""
    _teachers()
    strings = read_truth(truth)
    read: list[tuple[str, str]] = []
    digests = {truth.name: _sha256(truth)}
    for file in list_files("pages", pages):
        read += _pages(file.name, file.uri, digests)
    if not read:
        raise UserError(f"no pages in {', '.join(pages)}")
    examples = []
    for place, (url, page) in enumerate(read):
        examples.append(Example(url, page.encode("utf-8", "replace"), _answers(page), strings.get(url)))
        if place % 100 == 99:
            on_progress(f"trafilatura's answers: {place + 1:,} of {len(read):,} pages")
    return examples, digests


def _judge(
    examples: Sequence[Example], rows: Sequence[Prepared], settings: FitSettings, folds: int, on_progress: Callable[[str], None]
) -> dict[str, Found]:
    found = cross_validate(
        examples, rows, settings, folds, lambda fold: on_progress(f"cross-validation: {fold + 1} of {folds} parts")
    )
    return by_language(((row.language, one) for row, one in zip(rows, found, strict=True)), LEAST)


def _teachers() -> str:
    try:
        import lightgbm
        import trafilatura
    except ImportError as error:
        raise UserError(f"{error.name} is missing: pip install 'headrace[extractor]'") from None
    return f"trafilatura {trafilatura.__version__}, LightGBM {lightgbm.__version__}"


def _answers(page: str) -> tuple[str, ...]:
    """The page's main text by trafilatura, without comments: as it is, and with a preference for precision."""
    import trafilatura

    return tuple(
        trafilatura.extract(page, include_comments=False, favor_precision=precise) or "" for precise in (False, True)
    )


def _pages(name: str, uri: str, digests: dict[str, str]) -> Iterator[tuple[str, str]]:
    """(URL, decoded page) of each page of a WARC file. A record that cannot be read is an error."""

    def refuse(event: Event) -> None:
        if isinstance(event, Problem):
            raise event.error()

    with storage.open_stream(uri) as stream:
        for batch in read_batches(stream, name, ReadSpec(), on_event=refuse):
            if "html" not in batch.schema.names:
                raise UserError(f"{name} holds no pages: train-extractor reads WARC files")
            columns = (batch.column(column).to_pylist() for column in ("url", "html", "charset"))
            for url, html, charset in zip(*columns, strict=True):
                if html is not None:
                    yield url or "", decode(html, charset).text
    with storage.open_stream(uri) as stream:
        digest = hashlib.sha256()
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    digests[Path(name).name] = digest.hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


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


