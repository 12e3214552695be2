"""A finished run's documents as its folder holds them: the recipe it was made by, and the parts of each source in order.

What `why` and `sweep` read. Parts are streamed; of a run that let documents go (`run.keep`) there is what was left.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NotRequired, TypedDict

import msgspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.jobs.documents import DocumentsReport
from pipeline.jobs.held_out import DROP_NEAR_COPIES, DroppedReport, without_near_copies
from pipeline.jobs.split import SplitReport
from pipeline.jobs.tokenize import TokenizeReport
from pipeline.ledger import Entry, Ledger
from pipeline.plan.graph import CONCLUSIONS
from pipeline.plan.parts import Segment, segments
from pipeline.plan.split import SPLIT
from pipeline.program import program
from pipeline.recipe.recipe import Recipe, at_home, build_recipe
from pipeline.run_folder.folder import CLAIM, MADE_BY, RUN, RunMark
from pipeline.run_folder.made import MadeBy, read_made
from pipeline.run_folder.manifest import read_corpus
from stages.errors import UserError
from stages.parts import read_part
from stages.steps import step_class
from stages.tokens.manifest_shape import Manifest
from stages.user_code import add_folder


class Row(TypedDict):
    """A row of a part by its columns. Besides these it has whatever the recipe's steps measured, as `step.measure`."""

    id: str
    url: str | None
    file: str
    record: int
    offset: int | None
    text: NotRequired[str | None]
    bytes: NotRequired[int]
    metadata: NotRequired[str | None]
    step: NotRequired[str]  # of a document that failed, with error and traceback
    error: NotRequired[str]
    traceback: NotRequired[str | None]
    reason: NotRequired[str]
    representative: NotRequired[str | None]



@dataclass
class PartFiles:
    """What one map task left: paths in the run's folder, None where there is no such file or it was let go.

    kept: documents that went on, with all measures; where `text` is False it is their measures alone.
    """

    report: DocumentsReport
    kept: str | None
    dropped: str | None
    failed: str | None
    text: bool

    def named(self) -> list[tuple[str, str]]:
        """The files that are there, each with what became of the documents in it."""
        found = (("dropped", self.dropped), ("failed", self.failed), ("kept", self.kept))
        return [(kind, path) for kind, path in found if path]


# Of a stage without steps, between two dedups: its task never ran.
NO_FILES = PartFiles(DocumentsReport(part="", dropped="", docs=0, bytes=0), None, None, None, False)


@dataclass
class SourceParts:
    """One source: its steps in segments, each segment's parts in canonical order, and the tokenize reports.

    split: of a source that was split, how the tokens of each part were.
    """

    name: str
    plan: list[Segment]
    parts: list[list[PartFiles]] = field(default_factory=list)
    tokens: list[TokenizeReport] = field(default_factory=list)
    split: list[SplitReport] = field(default_factory=list)


@dataclass
class FinishedRun:
    """A finished run, opened for questions about its documents.

    missing: parts that should be in its folder (`run.keep: all`), and are not.
    """

    uri: str
    recipe: Recipe
    manifest: Manifest
    sources: dict[str, SourceParts]
    entries: list[Entry] = field(default_factory=list)  # of the ledger, one a task that the run is made by
    missing: tuple[str, ...] = ()

    def gone(self, what: str) -> str:
        """Why something that parts hold is not there, and what brings it back."""
        if self.missing:
            more = f" and {len(self.missing) - 1} more" if len(self.missing) > 1 else ""
            return f"{what}: {self.uri}/{next(iter(self.missing))}{more} is missing; `{self._again()}` makes it again"
        keep = self.recipe.run.keep
        return f"{what}: parts were let go (run.keep is {keep}); `{self._again()} --set run.keep=measures` keeps them"

    def _again(self) -> str:
        profile = f" --profile {self.recipe.profile}" if self.recipe.profile else ""
        return f"{program()} run {self.recipe.file or 'RECIPE'}{profile} --out {self.uri}"

    def check_whole(self) -> None:
        """Raise UserError where parts are missing: figures made of the others would be of another corpus."""
        if self.missing:
            raise UserError(self.gone("the run's parts are not all there"))

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

    def row(self, path: str, number: int) -> Row:
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
    if not storage.exists(storage.join(run, RUN)):
        for name, command in MADE_BY.items():
            if storage.exists(storage.join(run, name)):
                raise UserError(
                    f"{run} was made by `python -m pipeline {command}` and has no record of documents; name a run's folder"
                )
        raise UserError(f"{run} holds no recipe.json: the run was made by an older version; run its recipe again")
    recipe = read_recipe(run)
    sources = {name: SourceParts(name, segments(source)) for name, source in recipe.sources.items()}
    made = read_made(run)
    with Ledger(run) as ledger:
        for (name, stage), keys in _documents_of(made).items():
            found = [_files(entry, ledger) for key in keys if (entry := ledger.entry(key))]
            parts = sources[name].parts
            parts += [[NO_FILES] * len(found) for _ in range(stage - len(parts))]  # stages in which no task ran
            parts.append(found)
        for ref, key in made.nodes:
            if ref.kind == "tokenize" and (entry := ledger.entry(key)):
                sources[ref.source].tokens.append(entry.report_as(TokenizeReport))
            if ref.kind == SPLIT and (entry := ledger.entry(key)):
                sources[ref.source].split.append(entry.report_as(SplitReport))
            if ref.kind == DROP_NEAR_COPIES and (entry := ledger.entry(key)):
                tokens = sources[ref.source].tokens
                tokens[ref.ordinal] = without_near_copies(tokens[ref.ordinal], entry.report_as(DroppedReport))
        keys = dict.fromkeys([*(key for _, key in made.nodes), *made.others])
        entries = [entry for key in keys if (entry := ledger.entry(key))]
        entries = [entry for entry in entries if entry.ref.kind not in CONCLUSIONS]
        missing = _missing(entries, ledger) if recipe.run.keep == "all" else ()
    return FinishedRun(run, recipe, manifest, sources, entries, missing)


def _missing(entries: list[Entry], ledger: Ledger) -> tuple[str, ...]:
    """Parts of documents that were written, and are not there."""
    paths = (output.path for entry in entries if entry.ref.kind in ("documents", "tokenize") for output in entry.outputs)
    return tuple(path for path in paths if path.endswith(".parquet") and ledger.size_of(path) is None)


def _documents_of(made: MadeBy) -> dict[tuple[str, int], list[str]]:
    """Keys of the tasks that took documents through steps, in order, by source and stage."""
    found: dict[tuple[str, int], list[str]] = {}
    for ref, key in made.nodes:
        if ref.kind == "documents":
            found.setdefault((ref.source, int(ref.stage)), []).append(key)
    return dict(sorted(found.items()))


def _files(entry: Entry, ledger: Ledger) -> PartFiles:
    there = [output.path for output in entry.outputs if ledger.size_of(output.path) is not None]
    paths = {path.rsplit(".", 2)[1]: path for path in there}
    kept = paths.get("kept")
    report = entry.report_as(DocumentsReport)
    return PartFiles(report, kept or paths.get("measures"), paths.get("dropped"), paths.get("failed"), kept is not None)


def read_recipe(run: str) -> Recipe:
    """The recipe that a finished run was made by, in the folder where it lay then."""
    uri = storage.join(run, RUN)
    claimed = storage.join(run, CLAIM)
    mark = msgspec.json.decode(storage.read_bytes(claimed), type=RunMark) if storage.exists(claimed) else None
    if mark and mark.folder:
        add_folder(mark.folder)
    recipe = at_home(recipe_of(orjson.loads(storage.read_bytes(uri)), uri), mark.folder if mark else None)
    recipe._file = mark.file if mark else None
    return recipe


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
    settings = dict(settings)
    if path := settings.pop("class", None):
        return {path: settings}
    if isinstance(settings.get("name"), str):  # `quality` alone has a name of its own
        return {"quality": settings}
    known = name == "dedup" or step_class(name) is not None
    return {name if known else re.sub(r"_\d+$", "", name): settings}
