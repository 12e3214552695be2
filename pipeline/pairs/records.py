"""Records of JSON lines (plain, gzip, zstd, bzip2, xz) and Parquet files, one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from stages.errors import InputError, UserError
from stages.read.compression import DamagedError, Members

ENDINGS = (".jsonl", ".jsonl.zst", ".json.zst", ".jsonl.gz", ".json.gz", ".jsonl.bz2", ".jsonl.xz", ".parquet")
PARQUET_ROWS = 256  # read at once


@dataclass(frozen=True)
class Record:
    """One record: its fields, or why it has none."""

    file: str
    number: int  # from 1
    fields: dict[str, Any]
    problem: str | None = None  # the rule's name: bad_json, max_record_bytes
    detail: str = ""


def find_files(patterns: list[str]) -> list[storage.Entry]:
    """The files that patterns name, sorted and each once. Raises UserError where one names none."""
    found: dict[str, storage.Entry] = {}
    for pattern in patterns:
        listed = [entry for entry in storage.list_files(pattern) if entry.uri.endswith(ENDINGS)]
        if not listed:
            raise UserError(f"{pattern}: there is no .jsonl (.zst, .gz, .bz2, .xz) or .parquet file")
        found |= {entry.uri: entry for entry in listed}
    return [found[uri] for uri in sorted(found)]


def read_records(uri: str, max_bytes: int) -> Iterator[Record]:
    """The records of one file in order. Raises InputError for a file that cannot be read, or not to its end."""
    if uri.endswith(".parquet"):
        yield from _parquet(uri)
        return
    with storage.open_stream(uri) as stream:
        for number, line in enumerate(_lines(stream, uri, max_bytes), start=1):
            if line is None:
                detail = f"more than {max_bytes:,} bytes"
                yield Record(uri, number, {}, "max_record_bytes", detail)
            elif line.strip():
                yield _parsed(uri, number, line)


def _parsed(uri: str, number: int, line: bytes) -> Record:
    try:
        fields = orjson.loads(line)
    except orjson.JSONDecodeError:
        try:  # Python's parser knows NaN and unpaired surrogates
            fields = json.loads(line)
        except (ValueError, RecursionError) as error:
            return Record(uri, number, {}, "bad_json", f"no JSON ({error})")
    if not isinstance(fields, dict):
        return Record(uri, number, {}, "bad_json", f"{type(fields).__name__}, not an object")
    try:  # as it is written later
        orjson.dumps(fields)
    except TypeError as error:
        return Record(uri, number, {}, "bad_json", f"what cannot be written again ({error})")
    return Record(uri, number, fields)


def _lines(stream: BinaryIO, uri: str, most: int) -> Iterator[bytes | None]:
    """The lines of a stream; None for one of more than `most` bytes, which is not held."""
    members, held, size = Members.of_file(stream, uri), [], 0
    try:
        while members.open():
            while piece := members.read():
                *whole, rest = piece.split(b"\n")
                for part in whole:
                    yield b"".join([*held, part]) if size + len(part) <= most else None
                    held, size = [], 0
                size += len(rest)
                held = [*held, rest] if size <= most else []
    except DamagedError as error:
        raise InputError(uri, f"is damaged ({error.reason}, at byte {error.offset})") from None
    if size:
        yield b"".join(held) if size <= most else None


def _parquet(uri: str) -> Iterator[Record]:
    number = 0
    try:
        with storage.open_random(uri) as stream, pq.ParquetFile(stream) as file:
            for batch in file.iter_batches(batch_size=PARQUET_ROWS):
                for row in batch.to_pylist():
                    number += 1
                    yield Record(uri, number, row)
    except (pa.ArrowInvalid, pa.ArrowException) as error:
        raise InputError(
            uri, f"is no Parquet file that can be read ({str(error).splitlines()[0]})", number + 1
        ) from None
