"""Records of evaluation sets: JSON lines, plain or compressed, and the strings in their fields."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import zstandard

from stages.errors import InputError, UserError
from stages.read.compression import MAGIC


def records(file: str) -> Iterator[tuple[int, Any]]:
    """The records of a file of JSON lines with their numbers, from 1; blank lines are counted and passed over.

    Raises InputError for a line that is no JSON, or a file that cannot be read on.
    """
    record = 0
    try:
        for record, line in enumerate(_lines(file), start=1):
            if line.strip():
                yield record, json.loads(line)
    except ValueError as error:
        raise InputError(file, f"is no JSON ({error})", record) from error
    except (EOFError, OSError, zlib.error, zstandard.ZstdError) as error:
        raise InputError(file, f"cannot be read on ({error})", record + 1) from error


def digests(files: Sequence[str]) -> list[str]:
    """A digest of the content of each file; UserError for one that cannot be read."""
    found = []
    for file in files:
        try:
            with Path(file).open("rb") as opened:
                found.append(hashlib.file_digest(opened, "blake2b").hexdigest()[:40])
        except OSError as error:
            raise UserError(f"the evaluation set {file} cannot be read: {error.strerror or error}") from error
    return found


def _lines(file: str) -> Iterator[bytes]:
    """Lines of a file that may be compressed with gzip or zstd."""
    with Path(file).open("rb") as raw:
        head = raw.read(4)
        raw.seek(0)
        opened: Any = raw
        if head.startswith(MAGIC["gzip"]):
            opened = gzip.GzipFile(fileobj=raw)
        elif head.startswith(MAGIC["zstd"]):
            opened = io.BufferedReader(zstandard.ZstdDecompressor().stream_reader(raw, read_across_frames=True))
        yield from opened


def strings(values: Any, field: str) -> list[str]:
    """The strings of a field (named with dots within nested objects): one, those of a list, or none."""
    for name in field.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    found = values if isinstance(values, list) else [values]
    return [value for value in found if isinstance(value, str)]
