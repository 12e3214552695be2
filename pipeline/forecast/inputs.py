"""What each source of a recipe holds: its files as they are listed, else what the recipe expects; each figure with its origin."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from pipeline import storage
from pipeline.forecast.rates import Rates
from pipeline.jobs.inputs import SourceFile
from pipeline.plan.sources import list_files
from pipeline.recipe import Recipe, Source
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


def inputs_of(recipe: Recipe, rates: Rates, offline: bool = False) -> dict[str, Input]:
    """Every source's input. Raises UserError for a source whose files cannot be listed and that the recipe says nothing of."""
    with ThreadPoolExecutor(LISTERS) as pool:
        listed = dict(
            zip(recipe.sources, pool.map(lambda s: _list(s[0], s[1], offline), recipe.sources.items()), strict=True)
        )
    return {name: _input(recipe, name, listed[name], rates) for name in recipe.sources}


def _list(name: str, source: Source, offline: bool) -> list[SourceFile] | str:
    """The source's files, or why they cannot be listed."""
    if offline:
        return "--offline"
    try:
        return list_files(name, source.read.paths)
    except (UserError, storage.StorageError) as error:
        return re.sub(r"^\w+://\S+: ", "", str(error))


def _input(recipe: Recipe, name: str, listed: list[SourceFile] | str, rates: Rates) -> Input:
    read = recipe.sources[name].read
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
            f"{name}: its files cannot be listed ({listed}), and the recipe does not say what to expect; "
            f"set expected.sources.{name}"
        )
    if measured is not None:
        ratio = measured.bytes_out / max(measured.bytes_in, 1)
    elif part is not None:  # as compact as the run's own files
        ratio = part.written / max(part.bytes_out, 1)
    else:
        raise UserError(f"{name}: how compact its files are is not known; measure with --measure")
    size = int(known.text_bytes * ratio)
    origin = (
        f"the recipe's expected.sources, for the files cannot be listed ({listed}); stored size as compact as measured"
    )
    name = names[0] if _format(read, names[0]) else "listed.jsonl.zst"  # of what nothing can be told
    files = _made_up(name, size, recipe.run.split_bytes)
    return Input(known.documents, known.text_bytes, size, files, pages, origin, listed=False)


def _made_up(pattern: str, size: int, each: int) -> list[SourceFile]:
    """Files of `each` bytes that hold `size` together, in the place of files that cannot be listed."""
    count = max(1, -(-size // each))
    names = (f"{number}/{pattern}" for number in range(count))
    return [SourceFile(name, name, size // count, version="", witness="") for name in names]


def _format(read: object, file: str) -> str | None:
    try:
        return read.format_of(file)  # type: ignore[attr-defined]
    except InputError:
        return None
