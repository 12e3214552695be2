"""A source of a finished run split anew, by measures that the run kept: each part is ranges of the tokens that are there.

No token is read or written. A part of the source has shards as `split` in the recipe would give it, cut at the same documents;
but in place of tokens each has a file of ranges (`stages.tokens.shard_format.Ranges`) over the run's own shards, and an index.

Two passes: the documents of each part of the run are told apart (one file of scratch space a part, sorted by cell), then the
shards of each cell are planned and written from these. What is held is a part's documents, or a shard's, for each thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.jobs.tokenize import SPLITS
from pipeline.mixture.resplit_documents import READERS, PartDocuments, cuts_of, documents_of_part, offsets_of
from pipeline.plan.split import told
from pipeline.run_folder.finished import FinishedRun, open_finished
from pipeline.run_folder.manifest import members_of, shards_of
from stages.tokens.index_table import ROWS, write_index_batches
from stages.tokens.manifest import RANGES, shard_names, source_entry
from stages.tokens.manifest_shape import Manifest, ShardFacts, SourceEntry, WholeFile
from stages.tokens.mixture import MAX_REPEATS
from stages.tokens.shard import Piece, plan_shards, shard_tokens
from stages.tokens.shard_format import Ranges, sha256_file, write_ranges
from stages.tokens.split import Axis, Cuts, cells, members
from stages.tokens.token_file import TokenFile

INDEX_ROWS = 1 << 14


@dataclass(frozen=True)
class Split:
    """A source split anew. entries: of its members, in order, whose files lie in `folder`. whole: the files that shards are
    ranges of, by name; they lie in the run's folder."""

    source: str
    folder: str
    entries: dict[str, SourceEntry]
    whole: dict[str, list[WholeFile]]


def resplit(run: str, manifest: Manifest, source: str, axes: Sequence[Axis], folder: Path) -> Split:
    """Split a source of a finished run; what is written goes to `folder`. axes: none for the source as one.

    Raises UserError where the run let go what it is split by.
    """
    finished = open_finished(run)
    finished.check_whole()
    whole = {f"{source}/{split}": _files(manifest, source, split) for split in SPLITS}
    with ThreadPoolExecutor(READERS) as pool:
        cuts = cuts_of(finished, source, axes, folder, pool)
        offsets = offsets_of(finished, manifest, source)
        count = range(len(finished.sources[source].tokens))
        parts = list(
            pool.map(lambda ordinal: documents_of_part(finished, source, ordinal, axes, cuts, offsets, folder), count)
        )
        cut = _Cutting(finished, manifest, source, parts, whole, folder)
        names = members(source, axes)
        work = [(split, number, name) for number, name in enumerate(names) for split in SPLITS]
        shards = dict(zip(((name, split) for split, _, name in work), pool.map(lambda one: cut.shards(*one), work), strict=True))
    entries = {}
    for name, part in zip(names, cells(axes), strict=True):
        held_out = shards[name, "held_out"]
        available = sum(shard["tokens"] for shard in shards[name, "train"])
        entries[name] = source_entry(name, shards[name, "train"], held_out, available, MAX_REPEATS)
        if axes:
            entries[name].update(_place(source, axes, part, cuts))
    return Split(source, str(folder), entries, whole)


def _place(source: str, axes: Sequence[Axis], part: Sequence[str], cuts: Sequence[Cuts]) -> SourceEntry:
    """What a manifest says of being a part of a source."""
    named = dict(zip((axis.by for axis in axes), part, strict=True))
    where = {axis.by: told(axis, one, at) for axis, one, at in zip(axes, part, cuts, strict=True)}
    return {"of": source, "part": named, "where": where}  # type: ignore[typeddict-item]  # the rest of the entry is there


def _files(manifest: Manifest, source: str, split: str) -> list[WholeFile]:
    shards = [shard for name in members_of(manifest, source) for shard in shards_of(manifest, name, split)]
    return [WholeFile(path=shard["path"], tokens=shard["tokens"], sha256=shard["sha256"]) for shard in shards]


class _Cutting:
    """Cuts the documents of cells, which lie in scratch files of the run's parts, into shards."""

    def __init__(
        self,
        run: FinishedRun,
        manifest: Manifest,
        source: str,
        parts: Sequence[PartDocuments],
        whole: dict[str, list[WholeFile]],
        folder: Path,
    ) -> None:
        self._source, self._parts, self._whole, self._folder = source, parts, whole, folder
        self._limit = shard_tokens(run.recipe.shards.bytes, np.dtype(manifest["dtype"]))

    def shards(self, split: str, cell: int, name: str) -> list[ShardFacts]:
        """Write the shards of a cell's split; what the manifest says of each."""
        here = [part for part in self._parts if part.documents[split][cell]]
        files = [
            TokenFile("", str(number), int(part.tokens[split][cell]), int(part.documents[split][cell]), 0)
            for number, part in enumerate(here)
        ]

        def ends(file: TokenFile) -> np.ndarray:
            return np.cumsum(here[int(file.index_path)].rows(split, cell).column("tokens").to_numpy())

        planned = plan_shards(files, self._limit, ends)
        return [self._write(split, cell, name, number, here, pieces) for number, pieces in enumerate(planned)]

    def _write(
        self, split: str, cell: int, name: str, number: int, parts: Sequence[PartDocuments], pieces: Sequence[Piece]
    ) -> ShardFacts:
        path, index = (self._folder / one for one in shard_names(name, number, split))
        path = path.with_suffix(RANGES)
        tables = [
            parts[piece.file].rows(split, cell).slice(piece.first_document, piece.end_document - piece.first_document)
            for piece in pieces
        ]
        starts, tokens, sizes = (
            np.concatenate([table.column(column).to_numpy() for table in tables]) for column in ("start", "tokens", "text_bytes")
        )
        key = f"{self._source}/{split}"
        ranges = joined(starts, tokens, np.cumsum([file["tokens"] for file in self._whole[key]], dtype=np.int64))
        digest = write_ranges(path, ranges, [file["sha256"] for file in self._whole[key]])
        write_index_batches(index, _index(tables))
        return ShardFacts(
            tokens=int(tokens.sum()),
            documents=len(tokens),
            text_bytes=int(sizes.sum()),
            sha256=digest,
            index_sha256=sha256_file(index),
            ranges=len(ranges.ends),
            whole=key,
        )


def joined(starts: np.ndarray, tokens: np.ndarray, bounds: np.ndarray) -> Ranges:
    """Documents (where each begins among the tokens of files, and its tokens) as ranges; neighbours in one file are one.

    bounds: where each file ends among the tokens of all.
    """
    starts, tokens = starts[tokens > 0], tokens[tokens > 0]
    ends = starts + tokens
    apart = np.ones(len(starts), bool)
    apart[1:] = (starts[1:] != ends[:-1]) | np.isin(starts[1:], bounds)
    return Ranges(np.cumsum(tokens)[np.append(apart[1:], True)] if len(starts) else ends, starts[apart])


def _index(tables: Sequence[pa.Table]) -> Iterator[pa.RecordBatch]:
    """The rows of a shard's index."""
    position = 0
    for table in tables:
        for batch in table.to_batches(max_chunksize=INDEX_ROWS):
            ends = position + np.cumsum(batch.column("tokens").to_numpy())
            starts = np.concatenate([[position], ends[:-1]])
            position = int(ends[-1]) if len(ends) else position
            columns = [pa.array(starts), pa.array(ends), *(batch.column(name) for name in ("id", "src", "loc"))]
            yield pa.RecordBatch.from_arrays(columns, schema=ROWS)
