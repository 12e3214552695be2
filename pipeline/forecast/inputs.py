"""What each source of a recipe holds: its files as they are listed, else what the recipe expects; each figure with its origin."""

from __future__ import annotations

import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline import storage
from pipeline.forecast.rates import Rates
from pipeline.jobs.inputs import SourceFile
from pipeline.plan.inputs import named_files_of
from pipeline.plan.sources import list_files, split_size
from pipeline.recipe.recipe import Recipe
from stages.errors import InputError, UserError

LISTERS = 8


@dataclass
class Input:
    """One source before its steps. text_bytes: of text, or of pages where these are read; file_bytes: as they are stored."""

    documents: int
    text_bytes: int
    file_bytes: int
    files: list[SourceFile]  # as they are listed, else made up, as many and as large
    pages: bool
    origin: str
    listed: bool = True
    missing: str = ""  # what a listing said that is not there


@dataclass(frozen=True)
class Unlisted:
    """Why a source's files are not known; missing: they were looked for, and are not there."""

    reason: str
    missing: bool


Listing = Mapping[str, list[SourceFile] | Unlisted]
"""Of each source its files, or why they are not known."""


def list_sources(recipe: Recipe, offline: bool = False) -> Listing:
    """List the files of all sources."""
    with ThreadPoolExecutor(LISTERS) as pool:
        found = pool.map(lambda name: _list(name, recipe, offline), recipe.sources)
        return dict(zip(recipe.sources, found, strict=True))


def inputs_of(recipe: Recipe, rates: Rates, listing: Listing) -> dict[str, Input]:
    """Every source's input. Raises UserError for a source whose files cannot be listed and that the recipe says nothing of."""
    return {name: _input(recipe, name, listing[name], rates) for name in recipe.sources}


def missing_files(recipe: Recipe) -> list[str]:
    """A sentence for each model, list or tokenizer that the recipe names and that is not where it says."""
    with ThreadPoolExecutor(LISTERS) as pool:
        keys = {uri: key for key, uri in reversed(list(named_files_of(recipe)))}
        return [text for text in pool.map(_missing, keys.values(), keys) if text]


def _missing(key: str, uri: str) -> str:
    try:
        storage.stat(uri)
    except storage.MissingError as error:
        return f"{key}: {error}"
    except storage.StorageError:
        pass  # what cannot be reached from here may be there
    return ""


def _list(name: str, recipe: Recipe, offline: bool) -> list[SourceFile] | Unlisted:
    """The source's files, or why they cannot be listed."""
    if offline:
        return Unlisted("--offline", False)
    try:
        return list_files(name, recipe.sources[name].read.paths, recipe.folder)
    except UserError as error:
        unreachable = isinstance(error, storage.StorageError) and not isinstance(error, storage.MissingError)
        return Unlisted(re.sub(r"^\w+://\S+: ", "", str(error)), not unreachable)


def _input(recipe: Recipe, name: str, listed: list[SourceFile] | Unlisted, rates: Rates) -> Input:
    source = recipe.sources[name]
    read = source.read
    known = recipe.expected.sources.get(name) if recipe.expected else None
    if known is None and recipe.expected and len(recipe.sources) == 1:
        known = recipe.expected  # one source: what is expected of the recipe is expected of it
    names = [f.name for f in listed] if isinstance(listed, list) else list(read.paths)
    pages = bool(names) and all(_format(read, file) == "warc" for file in names)
    measured = rates.of("files", name, "")
    part = rates.of("segment", name, "0")
    if isinstance(listed, list):
        size = sum(file.size for file in listed)
        if known is not None:
            text, documents = known.text_bytes, known.documents
            origin = "its files as listed, documents and text as the recipe expects"
        elif measured is None:
            raise UserError(
                f"{name}: how much text is in its files is not known; measure with --measure, or set expected.sources.{name}"
            )
        else:
            text = size * measured.bytes_in // max(measured.bytes_out, 1)
            documents = size * measured.documents_in // max(measured.bytes_out, 1)
            origin = "its files as listed; documents and text by what was measured a stored byte"
        return Input(documents, text, size, listed, pages, origin)
    if known is None:
        raise UserError(
            f"{name}: its files cannot be listed ({listed.reason}), and the recipe does not say what to expect; "
            f"set expected.sources.{name}"
        )
    if known.file_bytes is not None:
        ratio = known.file_bytes / max(known.text_bytes, 1)
    elif measured is not None:
        ratio = measured.bytes_out / max(measured.bytes_in, 1)
    elif part is not None:  # as compact as the run's own files
        ratio = part.written / max(part.bytes_out, 1)
    else:
        raise UserError(f"{name}: how compact its files are is not known; measure with --measure")
    size = int(known.text_bytes * ratio)
    stored = "" if known.file_bytes else "; stored size as compact as measured"
    origin = f"what the recipe expects, for the files cannot be listed ({listed.reason}){stored}"
    suffixed = names[0] if _format(read, names[0]) else "listed.jsonl.zst"  # of what nothing can be told
    files = _made_up(suffixed, size, source.expected.files or max(1, -(-size // split_size(size, recipe.run.split_bytes))))
    told = listed.reason if listed.reason.startswith("sources.") else f"{name}: {listed.reason}"
    missing = told if listed.missing else ""
    return Input(known.documents, known.text_bytes, size, files, pages, origin, listed=False, missing=missing)


def _made_up(pattern: str, size: int, count: int) -> list[SourceFile]:
    """So many files that hold `size` bytes together, in the place of files that cannot be listed."""
    names = (f"{number}/{pattern}" for number in range(count))
    return [SourceFile(name, name, size // count, version="", witness="") for name in names]


def _format(read: object, file: str) -> str | None:
    try:
        return read.format_of(file)  # type: ignore[attr-defined]
    except InputError:
        return None
