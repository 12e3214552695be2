"""Headrace from Python: carry out a recipe, and ask a finished run for documents, measures and tokens (docs/python.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import storage
from pipeline.carry_out import Options, run_recipe
from pipeline.engine.ray_start import ray_address
from pipeline.progress import Progress
from pipeline.questions.documents import Wanted, documents, source_of
from pipeline.questions.why import Why, why
from pipeline.recipe.overrides import read_yaml
from pipeline.recipe.recipe import Recipe, build_recipe, load_recipe
from pipeline.recipe.shipped import find_recipe
from pipeline.run_folder.finished import FinishedRun, open_finished
from pipeline.run_folder.folder import default_out
from pipeline.run_folder.manifest import SPLITS, shards_of
from pipeline.run_folder.run_summary import read_summary
from pipeline.size import check_size
from stages.chain import BYTES_IN, TEXT_IN
from stages.errors import UserError
from stages.step import Bounds, Labels, Step
from stages.tokens.formats.olmo import read_shard
from stages.tokens.formats.parquet import schema, token_batch
from stages.tokens.manifest_shape import Manifest
from stages.tokens.shard_format import ShardError


@dataclass(frozen=True)
class Measure:
    """A measure of a step: the column `name` of the documents, its Arrow type, and the limit that the recipe sets on it."""

    name: str
    type: pa.DataType
    limit: Bounds | Labels | None


class Run:
    """A finished run. `out` is its folder, from which documents and tokens are read when they are asked for.

    summary: what became of every document, by source, step and reason.
    """

    def __init__(self, out: str) -> None:
        """Raises UserError where the folder holds no finished run."""
        self.out = out
        self._finished: FinishedRun = open_finished(out)
        self.summary = read_summary(out)

    def __repr__(self) -> str:
        return f"Run({self.out!r})"

    @property
    def recipe(self) -> Recipe:
        """The recipe that it was made by."""
        return self._finished.recipe

    @property
    def manifest(self) -> Manifest:
        """Its manifest: shards, counts, checksums, tokenizer, mixture."""
        return self._finished.manifest

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of its sources."""
        return tuple(self._finished.sources)

    @cached_property
    def measures(self) -> dict[str, tuple[Measure, ...]]:
        """The measures of each source's documents, in the order of the steps."""
        return {source: tuple(self._measures_of(source)) for source in self.sources}

    def documents(
        self,
        source: str,
        *,
        kept: bool = True,
        dropped: bool = False,
        failed: bool = False,
        columns: Sequence[str] | None = None,
    ) -> pa.RecordBatchReader:
        """A source's documents, those kept, dropped or failed, in batches (`pipeline.questions.documents.documents`).

        One row a document: id, text, url, file, record, offset, metadata, `outcome`, `reason`, `representative`, and each
        measure as `step.measure`. columns: these alone, in this order, which reads less. The reader gives batches as a loop
        over it, a table by `read_all()`, a data frame by `read_pandas()`, and DuckDB queries it by its variable's name.
        Raises UserError for a source or column that there is not, and for documents that `run.keep` let go.
        """
        wanted = Wanted(kept, dropped, failed, None if columns is None else tuple(columns))
        return documents(self._finished, source, wanted)

    def tokens(self, source: str, split: str = "train") -> pa.RecordBatchReader:
        """The tokens of a source's documents: columns id, source, file, record and `tokens` (a list, with the end token).

        split: train, or held_out. What is read is compared with the manifest's checksums. Raises UserError.
        """
        source_of(self._finished, source)
        if split not in SPLITS:
            raise UserError(f"split {split!r}: there are {' and '.join(SPLITS)}")
        columns = schema(np.dtype(self.manifest["dtype"]), with_text=False)
        return pa.RecordBatchReader.from_batches(columns, self._token_batches(source, split))

    def why(self, document: str) -> Why:
        """What became of a document, by its id, URL or FILE:RECORD: as `python -m pipeline why` tells it."""
        return why(self.out, document)

    def _measures_of(self, name: str) -> Iterator[Measure]:
        source = self._finished.sources[name]
        types = {}
        for stage in source.parts:
            for path in (files.kept or files.dropped for files in stage[:1]):
                types |= {field.name: field.type for field in self._finished.schema(path)} if path else {}
        for step, item in self.recipe.sources[name].steps:
            limits = item.limits() if isinstance(item, Step) else {}
            for column in (c for c in types if c.startswith(f"{step}.") and not c.endswith((BYTES_IN, TEXT_IN))):
                yield Measure(column, types[column], limits.get(column[len(step) + 1 :]))

    def _token_batches(self, source: str, split: str) -> Iterator[pa.RecordBatch]:
        manifest, dtype = self.manifest, np.dtype(self.manifest["dtype"])
        for shard in shards_of(manifest, source, split):
            index = storage.join(self.out, shard["index"])
            with storage.open_stream(storage.join(self.out, shard["path"])) as stream:
                try:
                    vocabulary = manifest["tokenizer"]["vocab_size"]
                    for block in read_shard(stream, lambda uri=index: storage.open_stream(uri), shard, dtype, vocabulary):
                        yield token_batch(block, source)
                except ShardError as error:
                    raise UserError(f"{self.out}: {error}") from None


def open_run(folder: str | PathLike[str]) -> Run:
    """A finished run by its folder or s3:// prefix. Raises UserError where there is none."""
    return Run(str(folder))


def run(
    recipe: str | PathLike[str] | Mapping[str, Any],
    *,
    profile: str | None = None,
    changes: Sequence[str] = (),
    out: str | PathLike[str] | None = None,
    workers: int | None = None,
    address: str | None = None,
    inline: bool = False,
    take_over: bool = False,
    verify: bool = False,
    yes: bool = False,
    quiet: bool = True,
) -> Run:
    """Carry out a recipe, or what is left of it, and open the result: as `python -m pipeline run` does.

    recipe: a YAML file, or what such a file holds as a mapping. changes: `key.path=value` each, laid over it (`--set`).
    out: the run's folder (default: as the command). workers, address: of Ray; inline: no Ray, all in this process.
    quiet: no progress is shown. yes: start a run that is large for this machine. Raises UserError (a sentence that says what
    to mend) for a recipe that is wrong, inputs that are missing, and the like.
    """
    if isinstance(recipe, Mapping):
        data, built = dict(recipe), build_recipe(dict(recipe), profile, changes)
    else:
        data, built = read_yaml(find_recipe(str(recipe))), load_recipe(str(recipe), profile, changes)
    if workers is not None and workers < 1:
        raise UserError(f"workers = {workers}: at least 1 is needed")
    if not yes:
        check_size(built, None if inline else ray_address(address, workers))
    target = default_out(data, built) if out is None else str(out)
    options = Options(
        target,
        workers=workers,
        address=address,
        inline=inline,
        progress=Progress(quiet=quiet),
        take_over=take_over,
        verify=verify,
    )
    run_recipe(built, options)
    return Run(target)
