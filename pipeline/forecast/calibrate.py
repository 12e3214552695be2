"""Rates for a recipe from a small run of it: beginnings of its own files, on one core, into a folder that is thrown away.

It is made twice in one process: first over a quarter, so that what a process loads once is known by itself. What cannot be
had here is put in the place of the real thing, and told: the shipped sample's text for files that cannot be reached; for a
model or tokenizer one that is trained on the sample, with the same work for each document or nearly so; a step whose other
files cannot be reached is left out.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline import storage
from pipeline.carry_out import Options, run_recipe
from pipeline.forecast.filters import price_large_filters, sample_batches
from pipeline.forecast.inputs import Listing, Unlisted
from pipeline.forecast.own_files import Beginnings, beginnings, shares
from pipeline.forecast.rates import Rates, Small, Work, rates_of_run
from pipeline.jobs.cut import Cut
from pipeline.jobs.inputs import SourceFile
from pipeline.models.train_classifier import train
from pipeline.plan.corpus import MIXTURE
from pipeline.plan.sources import list_files
from pipeline.progress import Progress
from pipeline.recipe.recipe import Recipe, dump
from pipeline.run_folder.finished import recipe_of
from stages.errors import InputError, UserError
from stages.filters.token_repeats import TokenRepeats
from stages.marks import named_files
from stages.quality.classifier import Quality
from stages.read import ReadSpec
from stages.step import Step
from stages.tokens.train_tokenizer import train_tokenizer
from stages.units import show_bytes

MEASURE_BYTES = 32 << 20  # of all sources' files together
FIRST = 4  # the first run is over this part of them
SPLIT_BYTES = 4 << 20  # small enough that text of every kind is read by a few tasks
VOCABULARY = 8192
# How the sample's sources are read (docs/sample.md); its pages stand for any crawl, its prose for other text.
SAMPLE: dict[str, dict[str, Any]] = {
    "dclm": {"paths": ["sample:dclm/*.warc.gz"]},
    "starcoder": {"paths": ["sample:starcoder/*.parquet"], "text_field": "content"},
    "pes2o": {"paths": ["sample:pes2o/*.jsonl.gz"], "url_field": "metadata.url"},
    "arxiv": {"paths": ["sample:arxiv/*.jsonl.zst"], "id_field": "meta.arxiv_id", "url_field": "meta.url"},
    "open-web-math": {"paths": ["sample:open_web_math/*.jsonl.zst"], "id_field": "url"},
    "algebraic-stack": {"paths": ["sample:algebraic_stack/*.jsonl.zst"], "id_field": None, "url_field": None},
    "wiki": {"paths": ["sample:wiki/*.jsonl.gz"], "url_field": "metadata.url"},
}
PROSE: dict[str, Any] = {
    "paths": [path for name in ("pes2o", "wiki", "arxiv", "open-web-math") for path in SAMPLE[name]["paths"]],
    "id_field": None,
    "url_field": None,
}
# A classifier in place of one that cannot be reached: words and pairs of words, 100 numbers each, as DCLM's has them.
STAND_IN = ("dim=100", "word_ngrams=2", "bucket=200000", "epoch=1")
TRAIN_BYTES = 8 << 20  # of text that a tokenizer or classifier is trained on


@dataclass(frozen=True)
class Text:
    """Files that a source is measured on, how they are read (spec; as a recipe says it), and whether they hold pages."""

    files: list[SourceFile]
    spec: ReadSpec
    read: dict[str, Any]
    pages: bool


@dataclass(frozen=True)
class Measured:
    """The text that a source is measured on, and the copies that were made of it."""

    text: Text
    copies: Beginnings


def calibrate(recipe: Recipe, listing: Listing, progress: Progress | None = None, size: int = MEASURE_BYTES) -> Rates:
    """Run the recipe's steps over about `size` bytes of its files, on one core, and read the rates off the ledger.

    listing: of each source its files, or why they are not known. Raises UserError where not even sample text can be run.
    """
    try:
        return _calibrate(recipe, listing, progress or Progress(quiet=True), size)
    except UserError as error:
        if all(isinstance(listed, Unlisted) for listed in listing.values()):
            raise
        unusable = dict.fromkeys(listing, Unlisted(f"a run over them fails: {error}", missing=False))
        return _calibrate(recipe, unusable, progress or Progress(quiet=True), size)


def _calibrate(recipe: Recipe, listing: Listing, progress: Progress, size: int) -> Rates:
    notes: list[str] = []
    with tempfile.TemporaryDirectory(prefix="headrace-plan-") as folder:
        measured = _measured(recipe, listing, size, Path(folder, "files"), notes)
        small = calibration(recipe, measured, Path(folder), notes)
        first, whole = f"{folder}/first", f"{folder}/whole"
        stored = {name: one.copies.stored for name, one in measured.items()}
        begun = {name: one.copies.first(FIRST) for name, one in measured.items()}
        before: str | None = first
        try:
            run_recipe(small, Options(first, inline=True, progress=Progress(quiet=True)), begun)
        except UserError:  # too little text for what it trains: the whole may be enough
            before = None
        files = {name: one.copies.files for name, one in measured.items()}
        run_recipe(small, Options(whole, inline=True, progress=progress), files)
        read, count = sum(stored.values()), sum(map(len, files.values()))
        share = sum(file.size for some in begun.values() for file in some) / max(read, 1)
        origin = f"a run of the recipe's steps over {show_bytes(read)} of {count:,} files, on one core of this machine"
        rates = rates_of_run(whole, origin, Small(stored, before, share))
        _look_for_cuts(rates, measured)
    for name in files:
        read_of = rates.work.get(("read", name, "0"))
        if read_of is None or not read_of.documents_out:
            notes.append(f"{name}: no document could be read in the {len(files[name]):,} files that were tried")
    price_large_filters(recipe, rates, PROSE["paths"], _grown(listing, stored))
    rates.notes += notes
    return rates


def _look_for_cuts(rates: Rates, measured: Mapping[str, Measured]) -> None:
    """Add how long it takes to look for where JSON lines can be cut: of copies, which are small, nothing is cut."""
    for name, one in measured.items():
        file, began = max(one.copies.files, key=lambda file: file.size), time.process_time()
        if one.text.spec.format_of(file.name) == "jsonl":
            Cut(file, "jsonl", file.size, one.text.spec.compression, in_member=2).find()
            rates.add("cut", name, "", Work(time.process_time() - began, 1, bytes_in=file.size))


def _grown(listing: Listing, stored: Mapping[str, int]) -> dict[str, float]:
    """As many times as much as was measured each source has, and all of them together; infinite where it is not listed."""
    sizes = {name: math.inf if isinstance(files, Unlisted) else sum(f.size for f in files) for name, files in listing.items()}
    each = {name: size / max(stored[name], 1) for name, size in sizes.items()}
    return each | {MIXTURE: sum(sizes.values()) / max(sum(stored.values()), 1)}


def _measured(recipe: Recipe, listing: Listing, size: int, folder: Path, notes: list[str]) -> dict[str, Measured]:
    """For each source the beginnings of its own files; of the sample's, where these cannot be had."""
    texts = {name: _text_of(recipe, name, listed, notes) for name, listed in listing.items()}
    wanted = shares({name: sum(file.size for file in text.files) for name, text in texts.items()}, size)
    found = {}
    for number, (name, text) in enumerate(texts.items()):
        place = folder / f"{number}"
        place.mkdir(parents=True)
        try:
            found[name] = Measured(text, beginnings(text.files, text.spec, wanted[name], place))
        except UserError as error:  # what can be listed may still not be read
            text = _text_of(recipe, name, Unlisted(f"{error}", missing=False), notes)
            found[name] = Measured(text, beginnings(text.files, text.spec, wanted[name], place))
    return found


def _text_of(recipe: Recipe, name: str, listed: list[SourceFile] | Unlisted, notes: list[str]) -> Text:
    """A source's own files; without them those of the sample, which is told."""
    read = recipe.sources[name].read
    if not isinstance(listed, Unlisted):
        return Text(listed, read, dump(read), any(_is_warc(read, file.name) for file in listed))
    pages = any(_is_warc(read, path) for path in read.paths)
    what = "pages, of which more is text than of the web's" if pages else "text"
    notes.append(f"{name}: measured on the sample's {what}: its own files cannot be read here ({listed.reason})")
    settings = _read(name, pages)
    spec = ReadSpec.model_validate({key: value for key, value in settings.items() if key != "paths"})
    return Text(list_files(name, settings["paths"]), spec, settings, pages)


def calibration(recipe: Recipe, measured: Mapping[str, Measured], folder: Path, notes: list[str]) -> Recipe:
    """The recipe over little text; stand-ins are made in `folder`; what was replaced or left out is added to `notes`."""
    data = dump(recipe)
    largest = max((file.size for one in measured.values() for file in one.copies.files), default=0)
    for name, source in recipe.sources.items():
        pages = measured[name].text.pages
        data["sources"][name] |= {"read": measured[name].text.read, "expected": {}, "allow_empty": True}
        steps = [_step(f"{name}.{step}", step, item, pages, folder, notes) for step, item in source.steps]
        data["sources"][name]["steps"] = [step for step in steps if step is not None]
    data["dedup"] = [_dedup(name, item) for name, item in recipe.dedup]
    data["tokenizer"] = _tokenizer(recipe, notes)
    data["mixture"] = {"epochs": 1}
    data["shards"] |= {"bytes": min(data["shards"]["bytes"], 8 << 20)}
    data["run"] |= {
        "split_bytes": max(SPLIT_BYTES, largest),  # no copy is cut again
        "stage_inputs": False,
        "check_inputs": "version",
        "failures": {"documents": 1.0, "files": 1_000_000},  # files are cut anywhere
    }
    data["expected"] = None
    small = recipe_of(data, "calibration")
    small._file, small._folder = recipe.file, recipe.folder
    return small


def _read(name: str, pages: bool) -> dict[str, Any]:
    """Sample text for a source: its namesake's, where that is of the same kind, else pages or prose."""
    if pages:
        return SAMPLE["dclm"]
    return SAMPLE[name] if name in SAMPLE and name != "dclm" else PROSE


def _is_warc(read: Any, path: str) -> bool:
    try:
        return read.format_of(path) == "warc"
    except InputError:
        return False


def _there(uri: str) -> bool:
    try:
        storage.stat(uri)
    except storage.StorageError:
        return False
    return True


def _step(
    where: str, name: str, step: Any, pages: bool, folder: Path, notes: list[str]
) -> tuple[str, dict[str, Any]] | None:
    """A step as it is calibrated, in the form of `dump`; None where it has to be left out."""
    if not isinstance(step, Step):
        return _dedup(name, step)
    if step.takes_pages and not pages:
        return None
    settings = dump(step)
    missing = [uri for uris in named_files(step).values() for uri in uris if not _there(uri)]
    if isinstance(step, Quality) and missing:
        notes.append(f"{where}: {missing[0]} cannot be reached; a classifier trained on the sample stands for it")
        settings |= {"model": _classifier(step, folder / f"{where}.bin")}
    elif isinstance(step, TokenRepeats) and missing:
        settings |= {"tokenizer": _stand_in_tokenizer(folder / "tokenizer.json", missing[0], notes)}
    elif missing:
        notes.append(f"{where}: {missing[0]} cannot be reached; the step is not measured")
        return None
    elif isinstance(step, Quality) and step.train is not None:
        settings["train"] |= {"max_bytes": min(step.train.max_bytes, TRAIN_BYTES)}
    return name, settings


def _stand_in_tokenizer(path: Path, uri: str, notes: list[str]) -> str:
    """A tokenizer in place of one that cannot be reached, made once for all steps that name one."""
    if not path.exists():
        train_tokenizer([text for batch in sample_batches(PROSE["paths"]) for text in batch.to_pylist()], path, VOCABULARY)
        notes.append(f"token_repeats: {uri} cannot be reached; one of {VOCABULARY:,} entries trained on the sample stands for it")
    return str(path)


def _classifier(step: Quality, path: Path) -> str:
    labels = (
        f"positive={step.positive.removeprefix('__label__')}",
        f"negative={(step.negative or 'cc').removeprefix('__label__')}",
    )
    train(SAMPLE["pes2o"]["paths"], SAMPLE["wiki"]["paths"], str(path), [*STAND_IN, *labels])
    return str(path)


def _dedup(name: str, item: Any) -> tuple[str, dict[str, Any]]:
    """A dedup over little text: one filter, no saved one, no limit on what it may remove."""
    changes = {
        "expected_removal": None,
        "shards": 1,
        "load": None,
        "save": False,
        "expected_ngrams": None,
        "expected_paragraphs": None,
    }
    known = dump(item)
    return name, known | {key: value for key, value in changes.items() if key in known}


def _tokenizer(recipe: Recipe, notes: list[str]) -> dict[str, Any]:
    wanted = recipe.tokenizer
    uri = wanted.path or (f"hf://{wanted.hub}/tokenizer.json" if wanted.hub else None)
    if uri is not None and _there(uri):
        return dump(wanted)
    if uri is not None:
        notes.append(
            f"tokenizer: {uri} cannot be reached; one of {VOCABULARY:,} entries trained on the sample stands for it"
        )
    size = wanted.train.vocab_size if wanted.train else VOCABULARY
    plain = {"path": None, "hub": None, "eos_token": None, "pad_token": None}
    return dump(wanted) | plain | {"train": {"vocab_size": size, "max_bytes": TRAIN_BYTES}}
