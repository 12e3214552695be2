"""What a recipe says about how a source is read (`read:`), and which part of a file a task reads."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from pydantic import Field, PositiveInt

from stages.errors import InputError
from stages.read.compression import SUFFIXES, path_of
from stages.step import Settings

Format = Literal["warc", "jsonl", "parquet"]
RecordType = Literal["response", "resource", "conversion"]

_FORMATS: dict[str, Format] = {
    ".warc": "warc",
    ".wet": "warc",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}


class ReadSpec(Settings):
    """How the files of a source are read. Fields of nested objects are named with dots: `metadata.url`."""

    format: Format | None = None  # None: by the file's name
    max_record_bytes: PositiveInt = 64 << 20  # a line, row or page larger than this is left out (`max_record_bytes`)

    # JSON lines and Parquet
    text_field: str = "text"
    id_field: str | None = "id"  # where a record has none, its id is "<file name>:<record>"
    url_field: str | None = "url"
    metadata: bool = True  # keep all other fields, as a JSON object

    # WARC
    record_types: tuple[RecordType, ...] = Field(("response",), min_length=1)
    mime_types: tuple[str, ...] = ("text/html", "application/xhtml+xml")
    status: tuple[int, ...] = (200,)  # HTTP status codes of the responses to keep

    def format_of(self, file: str) -> Format:
        """The format of this file: as set, else by its name. Raises InputError where the name does not tell."""
        if self.format is not None:
            return self.format
        name = PurePosixPath(path_of(file))
        suffix = PurePosixPath(name.stem).suffix if name.suffix in SUFFIXES else name.suffix
        if suffix not in _FORMATS:
            known = ", ".join(sorted(_FORMATS))
            raise InputError(file, f"its name does not say what it holds ({known}): set `format` under `read`")
        return _FORMATS[suffix]


class Part(Settings):
    """A part of one file, so that several tasks can read it: a byte range of plain JSON lines, or Parquet row groups.

    `offset` and `length` must cut between lines, and `first_record` be the true ordinal of the first line
    (stages/read/split.py finds them); the stream given to the reader then holds exactly that range.
    """

    offset: int = Field(0, ge=0)
    length: PositiveInt | None = None  # None: to the end
    first_record: PositiveInt = 1
    row_groups: tuple[int, ...] | None = None  # Parquet: numbers of the row groups to read, ascending; None: all
