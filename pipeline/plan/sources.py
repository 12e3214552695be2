"""Where a source's files lie, and how they are cut into splits: what one task reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.recipe import Source
from stages.cache import cache_root
from stages.errors import UserError
from stages.read import ReadSpec
from stages.read.compression import compression_of

SAMPLE = "sample:"
FOOTER_READERS = 16


@dataclass(frozen=True)
class File:
    """One source file, some row groups of a Parquet file, or a range of a plain JSON lines file.

    name: as documents and errors name it (the recipe's way). version: changes when the content does.
    lines: of a range: its offset, its length in bytes, and the ordinal of its first line.
    """

    uri: str
    name: str
    size: int
    version: str
    row_groups: tuple[int, ...] | None = None
    lines: tuple[int, int, int] | None = None

    def identity(self) -> list[Any]:
        """What of it decides the bytes that are read."""
        return [self.name, self.size, self.version, self.row_groups, *([self.lines] if self.lines else [])]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def sample_folder() -> Path:
    """Where the sample corpus lies on this machine, collected when it is first asked for."""
    return cache_root() / "sample"


def list_files(source: str, paths: Sequence[str]) -> list[File]:
    """All files of a source in canonical order: patterns as the recipe orders them, names sorted within each.

    Raises UserError for a pattern that matches nothing: a source that silently is empty ruins a mixture.
    """
    files: list[File] = []
    seen: set[str] = set()
    for pattern in paths:
        found = _list_sample(pattern) if pattern.startswith(SAMPLE) else _list_stored(pattern)
        if not found:
            raise UserError(f"sources.{source}.read.paths: nothing found at {pattern}; check the path or pattern")
        files += [file for file in found if file.name not in seen]
        seen |= {file.name for file in found}
    return files


def _list_stored(pattern: str) -> list[File]:
    return [File(entry.uri, entry.uri, entry.size, entry.version) for entry in storage.list_files(pattern)]


def _list_sample(pattern: str) -> list[File]:
    """Files of the sample corpus: named without this machine's paths, and told apart by their checksums."""
    from stages.sample.write import write_sample

    folder = sample_folder()
    report = write_sample(folder)
    digests = {name: digest for source in report["sources"].values() for name, digest in source["files"].items()}
    found = storage.list_files(f"{folder}/{pattern.removeprefix(SAMPLE)}")
    names = {entry.uri: entry.uri.removeprefix(f"{folder}/") for entry in found}
    return [File(e.uri, SAMPLE + names[e.uri], e.size, digests[names[e.uri]]) for e in found]


def is_cut_by_lines(file: File, read: ReadSpec, split_bytes: int) -> bool:
    """Whether a file is large, and its lines can be read from its middle: plain JSON lines."""
    return file.size > split_bytes and read.format_of(file.name) == "jsonl" and compression_of(file.name) is None


def splits(
    files: Sequence[File], read: ReadSpec, split_bytes: int, ranges: Mapping[str, list[list[int]]]
) -> list[list[File]]:
    """Files in order, gathered (small ones) or cut to about `split_bytes` each.

    Large Parquet files are cut by row groups; large plain JSON lines by `ranges`: uri -> [offset, length, first line].
    """
    pieces: list[File] = []
    large = [f for f in files if f.size > split_bytes and read.format_of(f.name) == "parquet"]
    with ThreadPoolExecutor(FOOTER_READERS) as pool:
        cut = dict(zip([f.uri for f in large], pool.map(lambda f: _row_groups(f, split_bytes), large), strict=True))
    for file in files:
        if file.uri in ranges and is_cut_by_lines(file, read, split_bytes):
            pieces += [replace(file, size=length, lines=(at, length, first)) for at, length, first in ranges[file.uri]]
        else:
            pieces += cut.get(file.uri, [file])
    gathered: list[list[File]] = []
    size = 0
    for piece in pieces:
        if not gathered or size + piece.size > split_bytes:
            gathered.append([])
            size = 0
        gathered[-1].append(piece)
        size += piece.size
    return gathered


def _row_groups(file: File, split_bytes: int) -> list[File]:
    try:
        with storage.open_random(file.uri) as stream:
            metadata = pq.read_metadata(stream)
    except (pa.ArrowException, OSError):
        return [file]  # the task that reads it says what is wrong, and counts it among the files that failed
    pieces: list[File] = []
    groups: list[int] = []
    size = 0
    for index in range(metadata.num_row_groups):
        group = metadata.row_group(index)
        weight = sum(group.column(c).total_compressed_size for c in range(group.num_columns))
        if groups and size + weight > split_bytes:
            pieces.append(File(file.uri, file.name, size, file.version, tuple(groups)))
            groups, size = [], 0
        groups.append(index)
        size += weight
    if groups:
        pieces.append(File(file.uri, file.name, size, file.version, tuple(groups)))
    return pieces or [file]


def list_all(sources: dict[str, Source]) -> dict[str, list[File]]:
    """`list_files` for every source."""
    return {name: list_files(name, source.read.paths) for name, source in sources.items()}
