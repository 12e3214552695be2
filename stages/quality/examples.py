"""Labelled texts staged on disk, and handed out in an order that hangs on nothing but the texts and a seed.

fastText learns from a text file, line by line, so the order of the lines matters; and a classifier is judged on
documents that it has not seen. Both are settled here: a document's place is a hash of its text, the first ones of each
label are held out, the rest is trained on. In whatever order and batches the documents come, the outcome is the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.document import text_array, text_buffers
from stages.errors import UserError
from stages.kernels.fasttext_lines import JOIN_LINES, join_lines
from stages.kernels.hashing import hash_texts, partition_of

Texts = Iterable["pa.RecordBatch | pa.Array | str"]
"""Where texts come from: record batches with a column `text`, text arrays, or single strings, also mixed."""

SCHEMA = pa.schema([("key", pa.uint64()), ("label", pa.int8()), ("text", pa.large_string())])
PIECE_BYTES = 4 << 20  # texts are staged in batches of about this size
MAX_PARTITIONS = 512  # files open at a time

# Words that mean something to fastText's reader and must not be taken from a text: a label in a text would become a
# class, and what follows an end-of-sentence word would be a line of its own. Prediction ignores the same.
_SPACE = r"[ \n\r\t\v\f\x00]"
_LABEL_WORD = rf"(^|{_SPACE})__label__[^ \n\r\t\v\f\x00]*"
_AFTER_END = rf"(?s)(^|{_SPACE})</s>({_SPACE}.*)?$"


@dataclass
class Staged:
    """The staged texts of both labels: one Arrow file, and what it holds."""

    path: Path
    documents: list[int]  # of each label
    bytes: list[int]  # of each label, once lines are joined
    empty: list[int]  # texts of each label with nothing in them, left out


def training_texts(texts: pa.Array) -> pa.Array:
    """The texts as a classifier learns from them: lines joined (as for prediction), and fastText's own words taken out."""
    if not pa.types.is_large_string(texts.type):
        texts = texts.cast(pa.large_string())
    texts = text_array(*join_lines(*text_buffers(texts), JOIN_LINES, 0))
    for sign, pattern in (("__label__", _LABEL_WORD), ("</s>", _AFTER_END)):
        hit = pc.match_substring(texts, sign)
        if pc.any(hit).as_py():
            texts = pc.if_else(hit, pc.replace_substring_regex(texts, pattern, r"\1"), texts)
    return texts


def stage(sources: tuple[Texts, ...], path: Path, seed: int) -> Staged:
    """Write the texts of each source, labelled 0, 1, ... in turn, to one Arrow file at `path`; memory for one batch."""
    staged = Staged(path, [0] * len(sources), [0] * len(sources), [0] * len(sources))
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
        for label, source in enumerate(sources):
            for given in _arrays(source):
                texts = training_texts(given)
                data, offsets = text_buffers(texts)
                full = np.diff(offsets) > 0
                staged.empty[label] += len(texts) - int(full.sum())
                staged.documents[label] += int(full.sum())
                staged.bytes[label] += int(offsets[-1] - offsets[0])
                hashes = np.empty((len(texts), 2), np.uint64)
                hash_texts(data, offsets, seed, hashes)
                labels = np.full(len(texts), label, np.int8)
                batch = pa.record_batch([pa.array(hashes[:, 0].copy()), pa.array(labels), texts], schema=SCHEMA)
                writer.write_batch(batch.filter(pa.array(full)))
    return staged


def in_order(staged: Staged, scratch: Path, memory_bytes: int) -> Iterator[pa.RecordBatch]:
    """The staged rows by ascending key (label among equals), in batches, with about `memory_bytes` of them in memory."""
    partitions = max(1, -(-sum(staged.bytes) // memory_bytes))
    if partitions > MAX_PARTITIONS:
        raise UserError(
            f"{sum(staged.bytes)} bytes of training text need {partitions} partitions of {memory_bytes} bytes to be put "
            f"in order, and {MAX_PARTITIONS} is the limit: give less text, or raise shuffle_mb"
        )
    paths = [staged.path] if partitions == 1 else _scatter(staged.path, scratch, partitions)
    for path in paths:
        with pa.OSFile(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
        if path != staged.path:
            path.unlink()
        order = np.lexsort((table["label"].to_numpy(), table["key"].to_numpy()))
        start, piece = 0, max(1, len(order) * PIECE_BYTES // max(1, table.nbytes))
        while start < len(order):
            rows = table.take(pa.array(order[start : start + piece])).combine_chunks()
            yield from rows.to_batches()
            start += piece


def _scatter(source: Path, scratch: Path, partitions: int) -> list[Path]:
    """Distribute the rows over files by ranges of their key; returns the files in order of key."""
    paths = [scratch / f"part-{number:05d}.arrow" for number in range(partitions)]
    files = [pa.OSFile(str(path), "wb") for path in paths]
    writers: list[pa.RecordBatchFileWriter] = [pa.ipc.new_file(file, SCHEMA) for file in files]
    try:
        with pa.OSFile(str(source)) as file:
            reader = pa.ipc.open_file(file)
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                place = np.empty(batch.num_rows, np.int32)
                partition_of(batch.column("key").to_numpy(), partitions, place)
                for partition in np.unique(place):
                    writers[int(partition)].write_batch(batch.filter(pa.array(place == partition)))
    finally:
        for writer, file in zip(writers, files, strict=True):
            writer.close()
            file.close()
    return paths


def _arrays(source: Texts) -> Iterator[pa.Array]:
    """Text arrays of about PIECE_BYTES, whatever the source hands out."""
    strings: list[str] = []
    size = 0
    for item in source:
        if isinstance(item, str):
            strings.append(item)
            size += len(item)
        else:
            column = item.column("text") if isinstance(item, pa.RecordBatch) else item
            yield column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if size >= PIECE_BYTES:
            yield pa.array(strings, pa.large_string())
            strings, size = [], 0
    if strings:
        yield pa.array(strings, pa.large_string())
