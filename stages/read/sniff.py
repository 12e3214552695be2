"""The first records of a file as they stand in it, and which of their fields look like text, id and URL."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stages.errors import InputError
from stages.read.arrow_values import json_rows, unique_names
from stages.read.csv_file import DELIMITERS
from stages.read.json_array import begins_array, element_blocks
from stages.read.lines import Block, Pieces, line_blocks
from stages.read.names import suffixes

BLOCK = 256 << 10
LONGEST = 8 << 20
TEXT_NAMES = ("text", "content", "body", "article", "document", "page_content", "raw_content", "maintext", "abstract", "code")
ID_NAMES = ("id", "_id", "doc_id", "docid", "uuid", "guid", "identifier")
URL_NAMES = ("url", "source_url", "link", "uri", "href", "permalink", "metadata.url", "meta.url")


@dataclass(frozen=True)
class Looks:
    """What the records of a file look like: their fields, and those that hold text, id and URL (None: none does).

    delimiter: of a CSV file, where its name does not tell it.
    """

    fields: tuple[str, ...]
    text: str | None
    id: str | None
    url: str | None
    delimiter: str | None = None


def looks_of(stream: BinaryIO, file: str, format: str, count: int = 50) -> Looks:
    """What the first `count` records of JSON lines, CSV or Parquet look like. Raises InputError where there is none."""
    delimiter = None
    if format == "parquet":
        records = _parquet_records(stream, file, count)
    elif format == "csv":
        records, delimiter = _csv_records(stream, file, count)
    else:
        records = _json_records(stream, file, count)
    if not records:
        raise InputError(file, "no record could be read at its beginning")
    fields = tuple(dict.fromkeys(str(name) for record in records for name in record if name is not None))
    text, id, url = _text_field(records, fields), _named(records, ID_NAMES, unique=True), _named(records, URL_NAMES)
    return Looks(fields, text, id, url, delimiter)


def _csv_records(stream: BinaryIO, file: str, count: int) -> tuple[Sequence[Mapping[str, Any]], str | None]:
    """The first records, and what parts their fields where the name does not tell it."""
    lines = [line.decode("utf-8-sig", "replace") for line in _lines(stream, file, 4 * count)]
    usual = "\t" if ".tsv" in suffixes(file) else ","
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))
    try:
        found = _delimiter(lines[0], usual) if lines else usual
        records = list(csv.DictReader((f"{line}\n" for line in lines), delimiter=found))[:count]
    except csv.Error as error:
        raise InputError(file, f"it is not valid CSV: {error}") from None
    return records, found if found != usual else None


def _lines(stream: BinaryIO, file: str, count: int) -> list[bytes]:
    found: list[bytes] = []
    for block in line_blocks(Pieces(stream, file), BLOCK, LONGEST):
        found += block.records if isinstance(block, Block) else []
        if len(found) >= count:
            break
    return found[:count]


def _json_records(stream: BinaryIO, file: str, count: int) -> list[Mapping[str, Any]]:
    pieces = Pieces(stream, file)
    blocks = element_blocks(pieces, LONGEST) if begins_array(pieces) else line_blocks(pieces, BLOCK, LONGEST)
    found: list[Mapping[str, Any]] = []
    for block in blocks:
        for line in block.records if isinstance(block, Block) else ():
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(value, dict):
                found.append(value)
        if len(found) >= count:
            break
    return found[:count]


def _parquet_records(stream: BinaryIO, file: str, count: int) -> list[Mapping[str, Any]]:
    try:
        batches = pq.ParquetFile(stream).iter_batches(count)
        batch = next((batch for batch in batches if batch.num_rows), None)
        if batch is None:
            return []
        return [orjson.loads(row) for row in json_rows(batch.columns, unique_names(batch.schema.names))[0]]
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(file, f"it is no readable Parquet file: {error}") from None


def _delimiter(header: str, usual: str) -> str:
    """What parts the names of a header: the usual one, unless only another one is in it."""
    found = {mark: len(next(csv.reader([header], delimiter=mark))) for mark in DELIMITERS}
    return usual if found[usual] > 1 else max(found, key=lambda mark: (found[mark], mark == usual))


def _values(records: Sequence[Mapping[str, Any]], name: str) -> Iterator[Any]:
    for record in records:
        value: Any = record
        for key in [name] if name in record else name.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        yield value


def _text_field(records: Sequence[Mapping[str, Any]], fields: Sequence[str]) -> str | None:
    """The field whose strings are the longest; of those that hold a good part of all text, one that is called so."""
    sizes = {name: sum(len(v) for v in _values(records, name) if isinstance(v, str)) for name in fields}
    longest = max(sizes.values(), default=0)
    if not longest:
        return None
    large = [name for name, size in sizes.items() if 4 * size >= longest]
    return next((name for name in TEXT_NAMES if name in large), max(sizes, key=lambda name: sizes[name]))


def _named(records: Sequence[Mapping[str, Any]], names: Sequence[str], unique: bool = False) -> str | None:
    """The first of these names under which all records have a string or a whole number; `unique`: no two the same."""
    for name in names:
        values = list(_values(records, name))
        if all(isinstance(v, str | int) and v != "" for v in values) and not (unique and len(set(values)) < len(values)):
            return name
    return None
