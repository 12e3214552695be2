"""DCLM's dedup of paragraphs and documents by a Bloom filter of token n-grams (its tool "bff", mode "old-both").

Source of the rules: mlfoundations/dclm, dedup/bff/src/main.rs, process_line_oldboth and process_line.

- Tokens are the segments of UAX #29 that are not all white space. N-grams do not cross paragraphs; a text is cut into
  paragraphs before every newline.
- A paragraph with more than `threshold` of its n-grams in the filter goes; all n-grams of the others are inserted. One
  with fewer tokens than an n-gram has no n-grams and stays.
- old-both: a document goes as a whole where more than `threshold` of all its n-grams were in the filter. What its other
  paragraphs inserted stays inserted.
- document: the text is one unit, and goes or stays as a whole. paragraph: paragraphs alone.
- A document of which nothing but white space is left goes.

Unlike the original, the hashes are fixed and documents are taken in canonical order, so the result is the same every
time; and a filter that would be too small for its n-grams is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from stages.dedup.address import group_of, pack, read_remaining
from stages.dedup.bloom import Filter, load_filter, make_filter, save_filter
from stages.dedup.shuffle import OpenFile, ShuffleWriter, open_local
from stages.dedup.spec import Bff, read_spec
from stages.document import document_hash, text_buffers
from stages.errors import UserError
from stages.kernels import bloom
from stages.kernels.unicode_tables import code_points

MODES = {"old-both": bloom.OLD_BOTH, "document": bloom.DOCUMENT, "paragraph": bloom.PARAGRAPH}
NEWLINE = 10

# A removed piece of text: bytes start to stop of the document's text; a whole document has start 0 and stop WHOLE.
SPAN = pa.schema(
    [
        pa.field("doc", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("probe", pa.uint64(), nullable=False),  # its first n-gram that the filter held
    ]
)
SPAN_KEYS = ("doc", "start", "stop")


@dataclass
class Hashed:
    """A batch of texts as the n-grams of their units; see the kernel `hash_ngrams`."""

    offsets: np.ndarray
    hashes: np.ndarray
    unit_stops: np.ndarray
    unit_reaches: np.ndarray
    document_reaches: np.ndarray


def hash_texts(texts: pa.Array, spec: Bff) -> Hashed:
    """The n-grams of texts, by unit and document."""
    data, offsets = text_buffers(texts)
    size = int(offsets[-1] - offsets[0])
    whole = spec.mode == "document"
    units = len(texts) + (0 if whole else int(np.count_nonzero(data[offsets[0] : offsets[-1]] == NEWLINE)))
    hashes = np.empty(size, np.uint64)  # pages never written take no memory
    stops, reaches = np.empty(units, np.int64), np.empty(units, np.int64)
    documents = np.empty(len(texts), np.int64)
    used, count = bloom.hash_ngrams(
        data, offsets, code_points(), spec.ngram, whole, spec.seed, hashes, stops, reaches, documents
    )
    return Hashed(offsets, hashes[:count], stops[:used], reaches[:used], documents)


def shard_of(files: pa.Array, shards: int) -> np.ndarray:
    """The shard (int64) that each document belongs to: a hash of the name of its source file."""
    coded = files.dictionary_encode()
    of_file = np.array([document_hash(name, "shard") % shards for name in coded.dictionary.to_pylist()], np.int64)
    return of_file[coded.indices.to_numpy(zero_copy_only=False)] if len(of_file) else np.zeros(0, np.int64)


def _documents(
    part: Mapping[str, Any], spec: Bff, shard: int | None, open_file: OpenFile, text: bool = True
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """The addresses (int64) and columns of a part's documents of one shard (None: all), in batches."""
    columns = (["text"] if text else []) + (["file"] if spec.shards > 1 else [])
    for rows, batch in read_remaining(part, columns or ["id"], open_file):
        if spec.shards > 1 and shard is not None:
            mine = shard_of(batch.column("file"), spec.shards) == shard
            if not mine.all():
                rows, batch = rows[mine], batch.filter(pa.array(mine))
        if len(rows):
            yield pack(part["ordinal"], rows), batch


def count(
    spec: Mapping[str, Any], parts: Sequence[Mapping[str, Any]], open_file: OpenFile = open_local
) -> dict[str, dict[str, list[int]]]:
    """Documents and n-grams by part and shard: {part ordinal: {shard: [documents, n-grams]}}, ordinals as text.

    N-grams are 0 where the recipe says how many to expect.
    """
    settings: Bff = read_spec(dict(spec))  # type: ignore[assignment]
    counted = settings.expected_ngrams is None
    found: dict[str, dict[str, list[int]]] = {}
    for part in parts:
        sums = np.zeros((settings.shards, 2), np.int64)
        for _, batch in _documents(part, settings, None, open_file, text=counted):
            shard = np.zeros(batch.num_rows, np.int64)
            if settings.shards > 1:
                shard = shard_of(batch.column("file"), settings.shards)
            np.add.at(sums[:, 0], shard, 1)
            if counted:
                hashed = hash_texts(batch.column("text"), settings)
                ends = np.append(0, hashed.unit_reaches)[hashed.document_reaches]
                np.add.at(sums[:, 1], shard, np.diff(ends, prepend=0))
        held = np.flatnonzero(sums[:, 0])
        found[str(part["ordinal"])] = {str(s): [int(v) for v in sums[s]] for s in held}
    return found


def deduplicate(
    spec: Mapping[str, Any],
    shard: int,
    ngrams: int,
    parts: Sequence[Mapping[str, Any]],
    group_starts: Sequence[int],
    spans_path: str,
    filter_path: str | None = None,
    loaded_path: str | None = None,
    open_file: OpenFile = open_local,
) -> dict[str, Any]:
    """Take one shard's documents, in order, through a filter made for `ngrams`; write what goes, by group of parts.

    filter_path: where to save the filter afterwards. loaded_path: the saved filter to begin with. Returns documents,
    ngrams, held (n-grams that the filter held), inserted, spans, filter_bytes, fill (share of the bits set).
    Raises UserError where the filter would exceed the memory given, or is too small for what it took.
    """
    settings: Bff = read_spec(dict(spec))  # type: ignore[assignment]
    name = f"{settings.reason}, shard {shard}"
    filter = _open_filter(settings, ngrams, loaded_path, name, open_file)
    writer = ShuffleWriter(Path(spans_path), len(group_starts), SPAN, SPAN_KEYS, settings.witness_memory)
    documents = total = held = 0
    for part in parts:
        for docs, batch in _documents(part, settings, shard, open_file):
            columns, counts = _pass(batch.column("text"), docs, settings, filter)
            filter.check(name)
            writer.add(group_of(columns["doc"], group_starts), columns)
            documents += len(docs)
            total += int(counts[:, 0].sum())
            held += int(counts[:, 1].sum())
    if filter_path is not None:
        save_filter(filter, filter_path)
    fill = int(np.bitwise_count(filter.bits).sum()) / (64 * len(filter.bits))
    return {
        "documents": documents,
        "ngrams": total,
        "held": held,
        "inserted": filter.inserted,
        "spans": writer.finish(),
        "filter_bytes": filter.size,
        "fill": round(fill, 6),
    }


def _open_filter(spec: Bff, ngrams: int, loaded: str | None, name: str, open_file: OpenFile) -> Filter:
    if loaded is None:
        return make_filter(spec.expected_ngrams or ngrams, spec.fp_rate, spec.ngram, spec.seed, spec.memory, name)
    with open_file(loaded) as file:
        filter = load_filter(file, loaded, spec.memory)
    if (filter.ngram, filter.seed) != (spec.ngram, spec.seed):
        raise UserError(
            f"{loaded}: this Bloom filter holds {filter.ngram}-grams with seed {filter.seed}, "
            f"not {spec.ngram}-grams with seed {spec.seed}"
        )
    if filter.inserted + ngrams > filter.capacity:
        raise UserError(
            f"{loaded}: this Bloom filter holds {filter.inserted:,} of {filter.capacity:,} n-grams, and {ngrams:,} "
            "come: make the first one with a larger expected_ngrams"
        )
    return filter


def _pass(
    texts: pa.Array, docs: np.ndarray, spec: Bff, filter: Filter
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Take a batch through the filter: columns of `SPAN`, and (n-grams, held) of each document."""
    hashed = hash_texts(texts, spec)
    room = len(hashed.unit_stops) + len(texts)
    rows, starts, stops = (np.empty(room, np.int64) for _ in range(3))
    probes, counts = np.empty(room, np.uint64), np.empty((len(texts), 2), np.int64)
    spans, inserted = bloom.bff(
        hashed.offsets,
        hashed.hashes,
        hashed.unit_stops,
        hashed.unit_reaches,
        hashed.document_reaches,
        spec.threshold,
        MODES[spec.mode],
        filter.k,
        filter.bits,
        rows,
        starts,
        stops,
        probes,
        counts,
    )
    filter.inserted += inserted
    columns = {"doc": docs[rows[:spans]], "start": starts[:spans], "stop": stops[:spans], "probe": probes[:spans]}
    return {k: v.copy() for k, v in columns.items()}, counts
