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

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.dedup.address import group_of, pack, read_remaining
from stages.dedup.bloom import BLOCK_BITS, Filter, design, load_filter, make_filter, save_filter
from stages.dedup.found import Filtered
from stages.dedup.shuffle import OpenFile, ShuffleWriter, open_local
from stages.dedup.spec import AnyDedup, Bff, Filtering, Paragraphs, read_filtering
from stages.dedup.tasks import PartGiven, PartToRead
from stages.dedup.together import MODES, NEWLINE, Threads, pass_together, read_ahead, start_threads
from stages.document import text_buffers
from stages.errors import UserError
from stages.kernels import bloom
from stages.kernels.paragraphs import hash_paragraphs, known_paragraphs
from stages.kernels.unicode_tables import code_points
from stages.marks import HowMuch, InFile, OutFile, Setting

# A removed piece of text: bytes start to stop of the document's text; a whole document has start 0 and stop WHOLE.
SPAN = pa.schema(
    [
        pa.field("doc", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("stop", pa.int64(), nullable=False),
        pa.field("probe", pa.uint64(), nullable=False),  # its first n-gram that the filter held
        pa.field("old", pa.uint16(), nullable=False),  # number, from 1, of the older run's filter that held it; 0: its own did
    ]
)
SPAN_KEYS = ("doc", "start", "stop")


_KEPT = threading.local()  # room for the hashes of a batch, used again: fresh pages cost a fifth of the hashing


@dataclass
class Hashed:
    """A batch of texts as the n-grams of their units; see the kernels `hash_ngrams` and `hash_paragraphs`."""

    offsets: np.ndarray
    hashes: np.ndarray
    unit_stops: np.ndarray
    unit_reaches: np.ndarray
    document_reaches: np.ndarray
    others: np.ndarray | None = None  # 64 more bits of each paragraph


def hash_texts(texts: pa.Array, spec: Filtering) -> Hashed:
    """The n-grams of texts, by unit and document. `hashes` holds until this thread's next call."""
    if isinstance(spec, Paragraphs):
        return _hash_paragraphs(texts, spec)
    assert isinstance(spec, Bff)
    data, offsets = text_buffers(texts)
    size = int(offsets[-1] - offsets[0])
    whole = spec.mode == "document"
    units = len(texts) + (0 if whole else int(np.count_nonzero(data[offsets[0] : offsets[-1]] == NEWLINE)))
    hashes = getattr(_KEPT, "hashes", None)
    if hashes is None or len(hashes) < size:
        hashes = _KEPT.hashes = np.empty(size, np.uint64)  # pages never written take no memory
    stops, reaches = np.empty(units, np.int64), np.empty(units, np.int64)
    documents = np.empty(len(texts), np.int64)
    used, count = bloom.hash_ngrams(
        data, offsets, code_points(), spec.ngram, whole, spec.seed, hashes, stops, reaches, documents
    )
    return Hashed(offsets, hashes[:count], stops[:used], reaches[:used], documents)


def _hash_paragraphs(texts: pa.Array, spec: Paragraphs) -> Hashed:
    data, offsets = text_buffers(texts)
    room = most_items(texts, spec)
    hashes, others = np.empty(room, np.uint64), np.empty(room, np.uint64)
    stops, reaches, documents = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(len(texts), np.int64)
    units, count = hash_paragraphs(
        data, offsets, code_points(), spec.min_chars, spec.seed, hashes, others, stops, reaches, documents
    )
    return Hashed(offsets, hashes[:count], stops[:units], reaches[:units], documents, others[:count])


def with_shards(parts: Sequence[PartGiven], shards: int) -> list[PartGiven]:
    """The parts with `shard`: the number of the one that all their documents belong to, or {file: shard}.

    Shards are runs of consecutive source files, as equal in number as can be: the files that `files` of the parts name,
    in canonical order, each source's its own. So a part is read for one shard, or for two at the seam; and what is
    compared hangs neither on where the files lie nor on how they are cut into parts.
    """
    if shards == 1:
        return [PartGiven({**part, "shard": 0}) for part in parts]
    files = dict.fromkeys((part["source"], name) for part in parts for name in part.get("files", ()))
    numbers = {file: i * shards // len(files) for i, file in enumerate(files)}
    found = []
    for part in parts:
        mine = {name: numbers[part["source"], name] for name in part.get("files", ())}
        single = len(set(mine.values())) == 1
        found.append(PartGiven({**part, "shard": next(iter(mine.values())) if single else mine}))
    return found


def shards_of(part: PartToRead) -> set[int]:
    """The shards that a part of `with_shards` has files of."""
    shard = part.get("shard", 0)
    return {shard} if isinstance(shard, int) else set(shard.values())


def documents_of(
    part: PartToRead, shard: int, columns: Sequence[str], open_file: OpenFile
) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
    """The addresses (int64) and the given columns of a part's documents of one shard, in batches."""
    shards = part.get("shard", 0)
    of_files = None if isinstance(shards, int) else shards
    for rows, batch in read_remaining(part, [*columns, "file"] if of_files else columns, open_file):
        if of_files:
            coded = batch.column("file").dictionary_encode()
            of_file = np.array([of_files[name] == shard for name in coded.dictionary.to_pylist()], bool)
            mine = of_file[coded.indices.to_numpy(zero_copy_only=False)] if len(rows) else np.zeros(0, bool)
            rows, batch = rows[mine], batch.filter(pa.array(mine))
        if len(rows):
            yield pack(part["ordinal"], rows), batch


def count(
    spec: Setting[AnyDedup], parts: InFile[Sequence[PartToRead]], open_file: OpenFile = open_local
) -> dict[str, dict[str, list[int]]]:
    """Documents and n-grams by part and shard: {part ordinal: {shard: [documents, n-grams]}}, ordinals as text.

    N-grams are counted from above (see the kernel `count_ngrams`); 0 where the recipe says how many to expect.
    """
    settings = read_filtering(spec)
    counted = settings.expected is None
    found: dict[str, dict[str, list[int]]] = {}
    for part in parts:
        sums: dict[str, list[int]] = {}
        for shard in sorted(shards_of(part)):
            documents = ngrams = 0
            for _, batch in documents_of(part, shard, ["text" if counted else "id"], open_file):
                documents += batch.num_rows
                ngrams += most_items(batch.column("text"), settings) if counted else 0
            if documents:
                sums[str(shard)] = [documents, ngrams]
        found[str(part["ordinal"])] = sums
    return found


def most_items(texts: pa.Array, spec: Filtering) -> int:
    """How many n-grams or paragraphs the texts have, counted from above."""
    data, offsets = text_buffers(texts)
    if not isinstance(spec, Bff):
        return len(texts) + int(np.count_nonzero(data[offsets[0] : offsets[-1]] == NEWLINE))
    counts = np.empty(len(texts), np.int64)
    bloom.count_ngrams(data, offsets, code_points(), spec.ngram, spec.mode == "document", counts)
    return int(counts.sum())


def deduplicate(
    spec: Setting[AnyDedup],
    shard: Setting[int],
    ngrams: Setting[int],
    parts: InFile[Sequence[PartToRead]],
    group_starts: Setting[Sequence[int]],
    spans_path: OutFile[str],
    filter_path: OutFile[str | None] = None,
    loaded_path: InFile[str | None] = None,
    old_paths: InFile[Sequence[str]] = (),
    threads: HowMuch[int] = 1,
    open_file: OpenFile = open_local,
) -> Filtered:
    """Take one shard's documents, in order, through a filter made for `ngrams`; write what goes, by group of parts.

    filter_path: where to save the filter afterwards. loaded_path: the saved filter to begin with. old_paths: filters of older
    runs, of which what they hold counts as seen and which take nothing in. threads: that share the filter, and give what one
    gives. Returns documents, ngrams, held (n-grams that the filter held), inserted, spans, filter_bytes, fill (share of its
    bits or slots in use).
    Raises UserError where the filter would exceed the memory given, or is too small for what it took.
    """
    settings = read_filtering(spec)
    name = f"{settings.reason}, shard {shard}"
    filter = _open_filter(settings, ngrams, loaded_path, name, open_file)
    old = _old_filters(settings, old_paths, filter.size, name, open_file)
    writer = ShuffleWriter(Path(spans_path), len(group_starts), SPAN, SPAN_KEYS, settings.witness_memory)
    documents = total = held = 0
    batches = (found for part in parts for found in documents_of(part, shard, ["text"], open_file))
    together = isinstance(settings, Bff) and threads > 1 and not old
    with start_threads(threads) if together else nullcontext() as workers:
        for docs, batch in read_ahead(batches) if together else batches:
            columns, counts = _pass(batch.column("text"), docs, settings, filter, old, workers)
            filter.check(name)
            writer.add(group_of(columns["doc"], group_starts), columns)
            documents += len(docs)
            total += int(counts[:, 0].sum())
            held += int(counts[:, 1].sum())
    if filter_path is not None:
        save_filter(filter, filter_path)
    used = 2 * filter.inserted if settings.exactly else int(np.bitwise_count(filter.bits).sum()) / 64
    fill = used / len(filter.bits)
    return {
        "documents": documents,
        "ngrams": total,
        "held": held,
        "inserted": filter.inserted,
        "spans": writer.finish(),
        "filter_bytes": filter.size,
        "fill": round(fill, 6),
    }


def _open_filter(spec: Filtering, ngrams: int, loaded: str | None, name: str, open_file: OpenFile) -> Filter:
    if loaded is None:
        items = spec.expected or ngrams
        return make_filter(items, spec.fp_rate, spec.words, spec.seed, spec.memory, name, exactly=spec.exactly)
    with open_file(loaded) as file:
        filter = load_filter(file, loaded, spec.memory)
    _check_kind(filter, spec, loaded)
    if filter.inserted + ngrams > filter.capacity:
        raise UserError(
            f"{loaded}: this Bloom filter holds {filter.inserted:,} of {filter.capacity:,} {filter.items}, and {ngrams:,} "
            f"come: make the first one with a larger {filter.expects}"
        )
    return filter


def _old_filters(
    spec: Filtering, paths: Sequence[str], used: int, name: str, open_file: OpenFile
) -> list[Filter]:
    """The filters of older runs. used: bytes of memory that are taken. Raises UserError where they need more than there is."""
    found = []
    for path in paths:
        with open_file(path) as file:
            filter = load_filter(file, path, spec.memory)
        used += filter.size
        if used > spec.memory:
            raise UserError(
                f"{name}: its own filter and those of the runs in `against` take {used / 2**30:,.2f} GiB up to {path}, more "
                f"than the memory given, {spec.memory / 2**30:,.2f} GiB: raise memory"
            )
        _check_kind(filter, spec, path)
        found.append(filter)
    return found


def _check_kind(filter: Filter, spec: Filtering, path: str) -> None:
    if (filter.ngram, filter.seed) != (spec.words, spec.seed):
        held, wanted = (f"{n}-grams" if n else "whole paragraphs" for n in (filter.ngram, spec.words))
        raise UserError(f"{path}: this Bloom filter holds {held} with seed {filter.seed}, not {wanted} with seed {spec.seed}")


def _pass(
    texts: pa.Array,
    docs: np.ndarray,
    spec: Filtering,
    filter: Filter,
    old: Sequence[Filter] = (),
    threads: Threads | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Take a batch through the filter: columns of `SPAN`, and (n-grams, held) of each document."""
    found = pass_together(texts, spec, filter, threads) if threads and isinstance(spec, Bff) else None
    spans, (rows, starts, stops, probes, by, counts) = found or _pass_alone(texts, spec, filter, old)
    columns = {"doc": docs[rows[:spans]], "start": starts[:spans], "stop": stops[:spans], "probe": probes[:spans]}
    columns["old"] = by[:spans]
    return {k: v.copy() for k, v in columns.items()}, counts


def _pass_alone(
    texts: pa.Array, spec: Filtering, filter: Filter, old: Sequence[Filter]
) -> tuple[int, tuple[np.ndarray, ...]]:
    """As `pass_together`, by this thread."""
    hashed = hash_texts(texts, spec)
    known = np.zeros(len(hashed.hashes) if old else 0, np.uint16)
    for number, one in enumerate(old, 1):
        bloom.mark_held(hashed.hashes, one.k, one.bits, number, known)
    room = len(hashed.unit_stops) + len(texts)
    rows, starts, stops = (np.empty(room, np.int64) for _ in range(3))
    probes, counts = np.empty(room, np.uint64), np.empty((len(texts), 2), np.int64)
    by = np.zeros(room, np.uint16)
    units = (hashed.unit_stops, hashed.unit_reaches, hashed.document_reaches)
    places = (rows, starts, stops, probes)
    if spec.exactly and hashed.others is not None:
        left = filter.capacity - filter.inserted
        spans, inserted = known_paragraphs(
            hashed.offsets, hashed.hashes, hashed.others, *units, filter.bits, left, *places, counts
        )
        inserted = left + 1 if inserted < 0 else inserted  # one more than it is made for: `check` tells of it
    else:
        rule = (spec.threshold, MODES[spec.mode]) if isinstance(spec, Bff) else (0.5, bloom.PARAGRAPH)
        spans, inserted = bloom.bff(
            hashed.offsets, hashed.hashes, *units, *rule, filter.k, filter.bits, known, *places, by, counts
        )
    filter.inserted += inserted
    return spans, (*places, by, counts)


def seconds_of_filter(spec: Bff, texts: Sequence[pa.Array], size: int) -> float:
    """Core seconds that texts take through an empty filter of `size` bytes, hashing included.

    N-grams lie anywhere in a filter, so one that is larger than the caches waits for memory at each of them. Its pages are
    written before the clock starts, as they are after the first of a long run's texts.
    """
    blocks = max(1, size * 8 // BLOCK_BITS)
    bits, (_, k) = np.ones(blocks * (BLOCK_BITS // 64), np.uint64), design(1, spec.fp_rate)
    bits[:] = 0
    filter = Filter(bits, k, spec.ngram, spec.seed, 1, spec.fp_rate)
    began = time.process_time()
    for batch in texts:
        _pass(batch, np.arange(len(batch)), spec, filter)
    return time.process_time() - began
