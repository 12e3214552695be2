"""The phases of a run before it begins, and about what each takes beside the others: for the time left of a run.

By the rates of the sample recipe on one machine (usual.json, made by `plan`'s own reading of its ledger): how phases compare
is much the same elsewhere, and how fast they go is seen as the run goes on. What a run takes is `plan`'s to say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.forecast.inputs import Input
from pipeline.forecast.rates import Rates, read_rates
from pipeline.forecast.walk import forecast
from pipeline.jobs.inputs import SourceFile
from pipeline.plan.sources import split_size
from pipeline.progress import Ahead
from pipeline.recipe.recipe import Recipe
from stages.errors import UserError

# What a run is scaled down to: how its phases compare stays, and a forecast takes its time for tasks.
SIZE = 2e9  # bytes
TASKS = 200  # that read them


def usual_rates() -> Rates:
    """Rates of all kinds of work, for sources of any name."""
    return read_rates(str(Path(__file__).with_name("usual.json")))


def phases_ahead(recipe: Recipe, files: Mapping[str, Sequence[SourceFile]]) -> list[Ahead]:
    """The phases of the recipe's run over these files, in order; none where they cannot be told."""
    rates = usual_rates()
    size = max(1, sum(file.size for found in files.values() for file in found))
    scale = min(1.0, SIZE / size, TASKS * split_size(size, recipe.run.split_bytes) / size)
    inputs = {name: _input(recipe, name, found, scale, rates) for name, found in files.items()}
    try:
        _, outline = forecast(recipe, inputs, rates)
    except UserError:
        return []
    return [Ahead(title, seconds) for (title, _), seconds in zip(outline.stages, outline.core_seconds, strict=True)]


def _input(recipe: Recipe, name: str, files: Sequence[SourceFile], scale: float, rates: Rates) -> Input:
    """A source by the size of its files, as one file of the first one's format."""
    size = sum(file.size for file in files)
    known = recipe.expected.sources.get(name) if recipe.expected else None
    measured = rates.of("files", name, "")
    assert measured is not None
    text = known.text_bytes if known else size * measured.bytes_in / measured.bytes_out
    documents = known.documents if known else size * measured.documents_in / measured.bytes_out
    first = files[0].name if files else "none.jsonl"
    made_up = SourceFile(first, first, int(size * scale) + 1, version="", witness="")
    pages = bool(files) and recipe.sources[name].read.format_of(first) == "warc"
    return Input(int(documents * scale) + 1, int(text * scale) + 1, made_up.size, [made_up], pages, "its files")
