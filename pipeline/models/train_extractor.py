"""`train-extractor`: the model of the engine `blocks`, from crawled pages, people's strings and the answers of trafilatura."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline import storage
from pipeline.models.user_files import batches_of
from pipeline.plan.sources import list_files
from pipeline.recipe.recipe import settings_of
from stages.charset import decode
from stages.errors import UserError
from stages.extract.block_scores import read_truth
from stages.extract.block_training import Example, FitSettings
from stages.extract.train import Trained, answers, teachers, train_blocks
from stages.read import ReadSpec


def train(
    pages: Sequence[str],
    truth: str,
    out: str,
    assignments: Sequence[str] = (),
    folds: int = 5,
    on_progress: Callable[[str], None] = lambda what: None,
) -> Trained:
    """Train on the pages of WARC files, write the model and its card, and return what the card says.

    Raises UserError for files that are missing, damaged or of another form, for unknown settings, and where LightGBM or
    trafilatura is not installed.
    """
    settings = settings_of(FitSettings, assignments)
    examples, digests = examples_of(pages, Path(truth), on_progress)
    return train_blocks(examples, digests, Path(out), settings, folds, on_progress)


def examples_of(
    pages: Sequence[str], truth: Path, on_progress: Callable[[str], None] = lambda what: None
) -> tuple[list[Example], dict[str, str]]:
    """The pages of WARC files with trafilatura's answers and the truth's strings, and the SHA-256 of each file of data."""
    teachers()
    strings = read_truth(truth)
    read: list[tuple[str, str]] = []
    for name, batch in batches_of("pages", pages, ReadSpec()):
        if "html" not in batch.schema.names:
            raise UserError(f"{name} holds no pages: train-extractor reads WARC files")
        columns = (batch.column(column).to_pylist() for column in ("url", "html", "charset"))
        found = zip(*columns, strict=True)
        read += [(url or "", decode(html, charset).text) for url, html, charset in found if html is not None]
    if not read:
        raise UserError(f"no pages in {', '.join(pages)}")
    examples = []
    for place, (url, page) in enumerate(read):
        examples.append(Example(url, page.encode("utf-8", "replace"), answers(page), strings.get(url)))
        if place % 100 == 99:
            on_progress(f"trafilatura's answers: {place + 1:,} of {len(read):,} pages")
    digests = {Path(file.name).name: _sha256(file.uri) for file in list_files("pages", pages)}
    return examples, {truth.name: _sha256(str(truth)), **digests}


def _sha256(uri: str) -> str:
    digest = hashlib.sha256()
    with storage.open_stream(uri) as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
