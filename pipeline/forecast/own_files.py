"""The beginnings of a few of a source's files, copied here, for a small run of the recipe over text of its own.

A file that is read from its front is cut after so many bytes: its reader leaves out the record that the cut went through. Of
Parquet, rows are taken, in the codec that they are stored in. What cannot be read in part is taken whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.jobs.inputs import SourceFile, open_listed, open_listed_random
from stages.errors import UserError
from stages.read import ReadSpec
from stages.read.compression import HEAD_BYTES, compression_by
from stages.units import show_bytes

LARGE_FILES = 8  # that are read of a source whose files are large
SMALL_FILES = 256  # that are read of one whose files are small
LEAST = 1 << 20  # bytes of a large file: less would tell little of it
MOST_WHOLE = 64 << 20  # bytes of a file that cannot be read in part
CHUNK_BYTES = 1 << 20
ROWS = 256  # of a Parquet file that are decoded at a time


@dataclass(frozen=True)
class Beginnings:
    """Copies of the beginnings of a source's files, and the bytes of the files that they are."""

    files: list[SourceFile]
    stored: int

    def first(self, part: int) -> list[SourceFile]:
        """So many of them that they are about one `part`th of all."""
        return self.files[: max(1, len(self.files) // part)]


def beginnings(files: Sequence[SourceFile], read: ReadSpec, budget: int, folder: Path) -> Beginnings:
    """Copy about `budget` bytes of files that are spread evenly over the listing to `folder`.

    Raises UserError (StorageError among them) where one cannot be read.
    """
    chosen = spread(files, budget)
    wanted = shares({file.name: file.size for file in chosen}, budget)
    copies, stored = [], 0
    for number, file in enumerate(chosen):
        path = folder / f"{number:03d}"
        stored += _copy(file, read, max(1, wanted[file.name]), path)
        now = storage.stat(str(path))
        copies.append(replace(file, uri=str(path), size=now.size, version=now.version, witness=now.witness, whole=None))
    return Beginnings(copies, stored)


def shares(sizes: Mapping[str, int], budget: int) -> dict[str, int]:
    """The budget cut into equal shares; what those of less size than theirs leave goes to the others."""
    found = {}
    for number, (name, size) in enumerate(sorted(sizes.items(), key=lambda item: item[1])):
        found[name] = min(size, budget // (len(sizes) - number))
        budget -= found[name]
    return found


def spread(files: Sequence[SourceFile], budget: int) -> list[SourceFile]:
    """Files at even distances: as many as hold the bytes asked for, of large ones a few more than that."""
    files = [file for file in files if file.size]
    mean = sum(file.size for file in files) / max(len(files), 1)
    wanted = max(1, min(LARGE_FILES, budget // LEAST), min(SMALL_FILES, -(-budget // max(int(mean), 1))))
    count = min(wanted, len(files))
    return [files[(2 * number + 1) * len(files) // (2 * count)] for number in range(count)]


def _copy(file: SourceFile, read: ReadSpec, share: int, path: Path) -> int:
    """Write the beginning of a file; the bytes of the file that it stands for."""
    kind = read.format_of(file.name)
    if file.size > share and kind == "parquet":
        return _copy_rows(file, share, path)
    whole = file.size <= share
    if not whole and (read.seeks(file.name) or (kind == "text" and read.document == "file")):
        if file.size > MOST_WHOLE:
            raise UserError(f"{file.name} can only be read as a whole, and has {show_bytes(file.size)}")
        whole = True
    with open_listed(file, 0, None if whole else share) as stream, path.open("wb") as out:
        shutil.copyfileobj(stream, out, CHUNK_BYTES)
    if not whole and kind != "warc":
        _end_with_a_line(path, file.name)
    return path.stat().st_size


def _end_with_a_line(path: Path, name: str) -> None:
    """Cut what stands behind the last line end of a plain file off; of a file that is compressed, or one line, nothing."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(0)
        if compression_by(file.read(HEAD_BYTES), name) is not None:
            return
        while end:
            start = max(0, end - CHUNK_BYTES)
            file.seek(start)
            if (found := file.read(end - start).rfind(b"\n")) >= 0:
                file.truncate(start + found + 1)
                return
            end = start


def _copy_rows(file: SourceFile, share: int, path: Path) -> int:
    """Write the first rows of a Parquet file; their bytes in it."""
    try:
        with open_listed_random(file) as stream, pq.ParquetFile(stream, buffer_size=CHUNK_BYTES, pre_buffer=False) as table:
            sizes = [_group_bytes(table.metadata.row_group(number)) for number in range(table.num_row_groups)]
            rows = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
            per_row = sum(sizes) / max(sum(rows), 1)
            left = max(1, int(share / max(per_row, 1)))
            codec = table.metadata.row_group(0).column(0).compression.lower() if rows else "none"
            codec = "none" if codec == "uncompressed" else codec
            taken = 0
            with pq.ParquetWriter(path, table.schema_arrow, compression=codec) as out:
                for batch in table.iter_batches(ROWS):
                    out.write_batch(batch.slice(0, left - taken))
                    taken = min(left, taken + batch.num_rows)
                    if taken == left:
                        break
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file.name} cannot be read as Parquet ({error})") from None
    return int(per_row * taken)


def _group_bytes(group: pq.RowGroupMetaData) -> int:
    return sum(group.column(number).total_compressed_size for number in range(group.num_columns))
