"""A finished run's documents as its folder holds them: the recipe it was made by, and the parts of each source in order.

What `why` and `sweep` read. Parts are streamed; of a run that let documents go (`run.keep`) there is what was left.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.folder import MADE_BY
from pipeline.inspect import read_corpus
from pipeline.ledger import Ledger
from pipeline.plan.segments import Segment, segments
from pipeline.recipe import Recipe, build_recipe
from stages.errors import UserError
from stages.parts import read_part
from stages.steps import STEPS
from stages.tokens.shard_format import Manifest

DOCUMENTS = "pipeline.jobs.documents:run"
TOKENIZE = "pipeline.jobs.tokens:tokenize"


@dataclass
class PartFiles:
    """What one map task left: paths in the run's folder, None where there is no such file or it was let go.

    kept: documents that went on, with all measures; where `text` is False it is their measures alone.
    """

    report: dict[str, Any]
    kept: str | None
    dropped: str | None
    failed: str | None
    text: bool

    def named(self) -> list[tuple[str, str]]:
        """The files that are there, each with what became of the documents in it."""
        found = (("dropped", self.dropped), ("failed", self.failed), ("kept", self.kept))
        return [(kind, path) for kind, path in found if path]


# Of a stage without steps, between two dedups: its task never ran.
NO_FILES = PartFiles({"books": [], "docs": 0, "bytes": 0}, None, None, None, False)


@dataclass
class SourceParts:
    """One source: its steps in segments, each segment's parts in canonical order, and the tokenize reports."""

    name: str
    plan: list[Segment]
    parts: list[list[PartFiles]] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class FinishedRun:
    """A finished run, opened for questions about its documents."""

    uri: str
    recipe: Recipe
    manifest: Manifest
    sources: dict[str, SourceParts]
    entries: list[dict[str, Any]] = field(default_factory=list)  # of the ledger, one a task, by name

    def rows(
        self, path: str, columns: list[str] | None = None, batch_bytes: int = 8 << 20
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """A part's rows in batches, each with the number of its first row. Columns that the part lacks are left out."""
        with storage.open_random(storage.join(self.uri, path)) as stream:
            if columns is not None:
                there = pq.read_schema(stream).names
                columns = [name for name in columns if name in there]
                stream.seek(0)
            yield from read_part(stream, batch_bytes, columns)

    def row(self, path: str, number: int) -> dict[str, Any]:
        """One row of a part, all columns; of the part, one row group is read."""
        with storage.open_random(storage.join(self.uri, path)) as stream, pq.ParquetFile(stream) as part:
            for group in range(part.num_row_groups):
                rows = part.metadata.row_group(group).num_rows
                if number < rows:
                    return part.read_row_group(group).slice(number, 1).to_pylist()[0]
                number -= rows
        raise IndexError(f"{path} has no row {number}")

    def schema(self, path: str) -> pa.Schema:
        """A part's columns and their types."""
        with storage.open_random(storage.join(self.uri, path)) as stream:
            return pq.read_schema(stream)

    def columns(self, path: str) -> list[str]:
        """The names of a part's columns."""
        return self.schema(path).names


def open_finished(run: str) -> FinishedRun:
    """Open a finished run. Raises UserError where there is none, or where its recipe is not one of this version."""
    manifest = read_corpus(run)
    uri = storage.join(run, "recipe.json")
    if not storage.exists(uri):
        for name, command in MADE_BY.items():
            if storage.exists(storage.join(run, name)):
                raise UserError(
                    f"{run} was made by `python -m pipeline {command}` and has no record of documents; name a run's folder"
                )
        raise UserError(f"{run} holds no recipe.json: the run was made by an older version; run its recipe again")
    recipe = recipe_of(orjson.loads(storage.read_bytes(uri)), uri)
    ledger = Ledger(run)
    sources = {name: SourceParts(name, segments(source)) for name, source in recipe.sources.items()}
    # After a rerun that was broken off, the ledger also knows tasks of other settings: the manifest's are the older ones.
    entries: dict[str, dict[str, Any]] = {}
    for entry in sorted(ledger.entries.values(), key=lambda e: (e["finished"], e["key"])):
        entries.setdefault(entry["name"], entry)
    stages: dict[str, dict[int, dict[int, Any]]] = {name: {} for name in sources}
    tokens: dict[str, dict[int, Any]] = {name: {} for name in sources}
    for name, entry in entries.items():
        if entry["function"] not in (DOCUMENTS, TOKENIZE) or (source := entry["report"]["source"]) not in sources:
            continue
        if entry["function"] == TOKENIZE:
            tokens[source][_ordinal(name)] = entry["report"]
        else:
            stages[source].setdefault(entry["report"]["stage"], {})[_ordinal(name)] = _files(entry, ledger)
    for name, source in sources.items():
        count = 1 + max(stages[name].get(0, {}), default=-1)
        for stage in range(1 + max(stages[name], default=-1)):
            found = stages[name].get(stage)
            source.parts.append(_complete(found, count, lambda f: f.report) if found else [NO_FILES] * count)
        source.tokens = _complete(tokens[name], count, lambda report: report)
    return FinishedRun(run, recipe, manifest, sources, [entry for _, entry in sorted(entries.items())])


def _ordinal(name: str) -> int:
    """The number of a task in its stage, the last part of its name."""
    return int(name.rsplit("/", 1)[-1])


def _complete(found: dict[int, Any], count: int, report_of: Callable[[Any], dict[str, Any]]) -> list[Any]:
    """What tasks left, in order, one for each of `count` parts.

    Parts in which nothing was left are alike to the byte; the tasks that read them have one key, and the ledger one entry
    under the name of one of them. It stands for all.
    """
    empty = next((one for one in found.values() if report_of(one)["books"][0]["in"][0] == 0), None)
    return [found.get(i, empty) for i in range(count)] if found else []


def _files(entry: dict[str, Any], ledger: Ledger) -> PartFiles:
    paths = {path.rsplit(".", 2)[1]: path for o in entry["outputs"] if (path := o["path"]) in ledger.sizes}
    kept = paths.get("kept")
    return PartFiles(
        entry["report"], kept or paths.get("measures"), paths.get("dropped"), paths.get("failed"), kept is not None
    )


def recipe_of(data: dict[str, Any], name: str) -> Recipe:
    """The recipe that `dump` wrote into a run's folder: its steps are [name, settings], the kind being in the name."""
    data = dict(data)
    data["sources"] = {
        source: {**settings, "steps": [_step(*step) for step in settings["steps"]]}
        for source, settings in data["sources"].items()
    }
    data["dedup"] = [_step(*step) for step in data.get("dedup", ())]
    return build_recipe(data, name=name)


def _step(name: str, settings: dict[str, Any]) -> dict[str, Any]:
    known = name in STEPS or name == "dedup"
    return {name if known else re.sub(r"_\d+$", "", name): settings}
