"""What a recipe says about how a source is read (`read:`), and which part of a file a task reads."""

from __future__ import annotations

import re
from typing import Any, Literal, get_args

from pydantic import Field, PositiveInt, model_validator

from stages.errors import InputError
from stages.read.compression import SUFFIXES, Compression
from stages.read.names import suffixes
from stages.step import Settings
from stages.units import Bytes
from stages.user_code import installed, is_import_path

Format = Literal["warc", "jsonl", "parquet", "csv", "text"]
FORMATS = get_args(Format)
READERS = {"datatrove": "stages.read.datatrove_reader:read"}  # built as users' readers are
RecordType = Literal["response", "resource", "conversion", "metadata"]

OTHER_COMPRESSIONS = frozenset({".br", ".lz4", ".lzo", ".snappy", ".sz", ".z", ".zip", ".7z", ".rar", ".tar", ".tgz"})  # not read
PLAIN_TEXT = "text/plain"
TEXT_TYPE = re.compile(r"text/(?!html\b|xml\b)|application/(?:.*\+)?json\Z")  # media types read as text, not as pages

_FORMATS: dict[str, Format] = {
    ".warc": "warc",
    ".wet": "warc",
    ".wat": "warc",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".txt": "text",
}


class ReadSpec(Settings):
    """How the files of a source are read. Fields of nested objects are named with dots: `metadata.url`."""

    format: str | None = None
    """What the files hold: warc, jsonl, parquet, csv, text, datatrove (one of its readers), or a reader of your own as
    module:function; left out, their names tell."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What datatrove's reader, or one of your own, is called with."""
    compression: Compression | None = None
    """How they are compressed; left out, the first bytes tell, and the name where they do not."""
    max_record_bytes: Bytes = Field(default=64 << 20, gt=0)
    """A line, row or page of more bytes is dropped (`max_record_bytes`)."""

    text_field: str = "text"
    """JSON, Parquet, CSV: the field that holds the text."""
    id_field: str | None = "id"
    """JSON, Parquet, CSV: the field that holds the id; a record without one is called FILE:RECORD."""
    url_field: str | None = "url"
    """JSON, Parquet, CSV: the field that holds the URL."""
    metadata: bool = True
    """JSON, Parquet, CSV: keep all other fields, as a JSON object."""
    strict: bool = False
    """Refuse texts that are no valid UTF-8, and numbers that JSON does not have, instead of mending them."""

    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """CSV: what parts the fields; left out, a tab in .tsv and else a comma."""

    document: Literal["file", "line"] = "file"
    """Plain text: whether a file is one document, or each of its lines."""

    record_types: tuple[RecordType, ...] | None = Field(default=None, min_length=1)
    """WARC: types of the records to read; left out, `response`, and `conversion` in a .wet file."""
    mime_types: tuple[str, ...] | None = None
    """WARC: media types to keep; left out, HTML and XHTML, and text/plain in a .wet file."""
    status: tuple[int, ...] = (200,)
    """WARC: HTTP status codes of the responses to keep."""

    @model_validator(mode="after")
    def _known(self) -> ReadSpec:
        if self.format is not None and self.format not in FORMATS and self.reader() is None:
            known = ", ".join((*FORMATS, *READERS))
            raise ValueError(f"format {self.format}: there are {known}, and readers of your own as module:function")
        if self.options and self.reader() is None:
            raise ValueError("options are for a reader that `format` names as datatrove, or as module:function")
        return self

    def reader(self) -> str | None:
        """The import path of the reader that `format` names; None for Headrace's own formats."""
        if self.format is None or self.format in FORMATS:
            return None
        own = self.format if is_import_path(self.format) else installed("readers", self.format)
        return READERS.get(self.format) or own

    def seeks(self, file: str) -> bool:
        """Whether the file is read at many places, and so has to be opened with seeking."""
        return self.format_of(file) not in ("warc", "jsonl", "csv", "text")

    def records_of(self, file: str) -> tuple[str, ...]:
        """The WARC record types to read of this file."""
        return self.record_types or (("conversion",) if ".wet" in suffixes(file) else ("response",))

    def types_of(self, file: str) -> tuple[str, ...]:
        """The media types to read of this file, in lower case."""
        if self.mime_types is not None:
            return tuple(mime.lower() for mime in self.mime_types)
        return (PLAIN_TEXT,) if ".wet" in suffixes(file) else ("text/html", "application/xhtml+xml")

    def holds_pages(self, file: str) -> bool:
        """Whether documents of this file may be pages, whose text a step has to take out."""
        pages = any(not TEXT_TYPE.match(mime) for mime in self.types_of(file))
        return self.format_of(file) == "warc" and pages and set(self.records_of(file)) != {"conversion"}

    def format_of(self, file: str) -> str:
        """The format of this file: as set, else by its name. Raises InputError where the name does not tell."""
        if self.format is not None:
            return self.format
        found = [suffix for suffix in suffixes(file) if suffix not in SUFFIXES]
        if found and found[-1] in OTHER_COMPRESSIONS:
            read = ", ".join(sorted(SUFFIXES))
            raise InputError(file, f"it is packed in a way that is not read ({read} are): unpack it, or pack it anew")
        if not found or found[-1] not in _FORMATS:
            known = ", ".join(sorted(_FORMATS))
            raise InputError(file, f"its name does not say what it holds ({known}): set `format` under `read`")
        return _FORMATS[found[-1]]


class Part(Settings):
    """A part of one file, so that several tasks can read it: a byte range of plain JSON lines, or Parquet row groups.

    `offset` and `length` must cut between lines, and `first_record` be the true ordinal of the first line
    (stages/read/split.py finds them); the stream given to the reader then holds exactly that range.
    """

    offset: int = Field(default=0, ge=0)
    length: PositiveInt | None = None  # None: to the end
    first_record: PositiveInt = 1
    label: str | None = None  # what ids of documents without one call the file; None: its name
    row_groups: tuple[int, ...] | None = None  # Parquet: numbers of the row groups to read, ascending; None: all
