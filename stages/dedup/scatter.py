"""Records of documents, by which copies are found: the first phase of exact, url and minhash.

Each document gives one record (its 128-bit hash) or one for each band (the band's 64-bit key), sent to the partition
of its key. Copies that one task sees itself are joined at once: of each key it sends on the first document alone, and
edges from the others to it. So a key shared by a million documents costs each later task one record a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.dedup.address import pack, read_remaining
from stages.dedup.edges import EDGE, EdgeWriter, stars
from stages.dedup.normalize import Normalization, normalize
from stages.dedup.shuffle import (
    OpenFile,
    ShuffleWriter,
    block_count,
    column_values,
    open_local,
    read_block,
    sort_table,
)
from stages.dedup.spec import AnyClustered, AnyDedup, MinHash, Url, read_clustered
from stages.dedup.tasks import PartToRead
from stages.dedup.urls import normalize_urls
from stages.document import text_buffers
from stages.kernels.hashing import hash_texts, partition_of
from stages.kernels.minhash import band_keys, minhash_signatures, row_constants
from stages.marks import InFile, OutFile, Setting

_KEY, _CHECK, _DOC = (
    pa.field(name, type, nullable=False)
    for name, type in (("key", pa.uint64()), ("check", pa.uint64()), ("doc", pa.int64()))
)
HASHED = pa.schema([_KEY, _CHECK, _DOC])
BANDED = pa.schema([_KEY, _DOC])


def record_schema(spec: AnyClustered) -> tuple[pa.Schema, tuple[str, ...]]:
    """The schema of a method's records, and the columns that copies have in common."""
    return (BANDED, ("key",)) if isinstance(spec, MinHash) else (HASHED, ("key", "check"))


def hashed_texts(texts: pa.Array, how: Normalization) -> tuple[np.ndarray, np.ndarray]:
    """128-bit hashes of normalized texts, (n, 2) uint64, and a mask of the texts that are not empty then."""
    data, offsets = normalize(*text_buffers(texts), how)
    hashes = np.empty((len(offsets) - 1, 2), np.uint64)
    hash_texts(data, offsets, 0, hashes)
    return hashes, offsets[1:] > offsets[:-1]


def signatures(texts: pa.Array, spec: MinHash) -> tuple[np.ndarray, np.ndarray]:
    """MinHash signatures, (n, bands * rows) uint64, and each text's number of n-grams (int64)."""
    data, offsets = normalize(*text_buffers(texts), spec.normalize)
    out = np.empty((len(offsets) - 1, spec.bands * spec.rows), np.uint64)
    counts = np.empty(len(offsets) - 1, np.int64)
    minhash_signatures(data, offsets, spec.ngram, *row_constants(spec.bands * spec.rows, spec.seed), out, counts)
    return out, counts


def records(batch: pa.RecordBatch, docs: np.ndarray, spec: AnyClustered) -> dict[str, np.ndarray]:
    """The records of a batch's documents, by column, in canonical order; none of those with nothing to compare."""
    if isinstance(spec, MinHash):
        signed, counts = signatures(batch.column("text"), spec)
        signed, docs = signed[counts > 0], docs[counts > 0]
        keys = np.empty((len(docs), spec.bands), np.uint64)
        band_keys(np.ascontiguousarray(signed), spec.rows, keys)
        return {"key": keys.ravel(), "doc": np.repeat(docs, spec.bands)}
    if isinstance(spec, Url):
        urls = normalize_urls(batch.column("url"), spec.drop_query)
        hashes, present = hashed_texts(urls.fill_null(""), "none")
    else:
        hashes, present = hashed_texts(batch.column("text"), spec.normalize)
    return {"key": hashes[present, 0], "check": hashes[present, 1], "doc": docs[present]}


def scatter(
    spec: Setting[AnyDedup],
    parts: InFile[Sequence[PartToRead]],
    partitions: Setting[int],
    records_path: OutFile[str],
    edges_path: OutFile[str],
    open_file: OpenFile = open_local,
) -> dict[str, int]:
    """Write the records and the first edges of some parts ({"ordinal", "path", "removals"} each), which have their places in
    this list for ordinals (`tasks.by_place`): so the files are the same whatever other parts there are.

    Returns documents, compared (those with records), bytes (of text read), records and edges (rows written).
    """
    settings = read_clustered(spec)
    schema, common = record_schema(settings)
    edges = EdgeWriter(edges_path, partitions, settings.memory // 4)

    def combine(table: pa.Table) -> pa.Table:
        first, member, centre = stars(table, common)
        edges.add(member, centre)
        return table if len(member) == 0 else table.filter(pa.array(first))

    writer = ShuffleWriter(Path(records_path), partitions, schema, (*common, "doc"), settings.memory, combine)
    documents = compared = size = 0
    column = "url" if isinstance(settings, Url) else "text"
    for part in parts:
        for rows, batch in read_remaining(part, [column], open_file):
            columns = records(batch, pack(part["ordinal"], rows), settings)
            partition = np.empty(len(columns["key"]), np.int32)
            partition_of(np.ascontiguousarray(columns["key"]), partitions, partition)
            writer.add(partition, columns)
            documents += batch.num_rows
            compared += len(partition) // settings.records_per_document
            if column == "text":
                offsets = text_buffers(batch.column("text"))[1]
                size += int(offsets[-1] - offsets[0])
    written = writer.finish()
    return {
        "documents": documents,
        "compared": compared,
        "bytes": size,
        "records": written,
        "edges": edges.finish(),
    }


def in_range(path: str, partition: int, partitions: int, open_file: OpenFile) -> Iterator[pa.Table]:
    """What a file of records holds of one of `partitions` ranges of keys, in however many ranges it was written itself."""
    with open_file(path) as file:
        there = block_count(file, path)
        for block in range(partition * there // partitions, -(-(partition + 1) * there // partitions)):
            table = read_block(file, block, path)
            if table is None:
                continue
            if there != partitions:
                place = np.empty(table.num_rows, np.int32)
                partition_of(np.ascontiguousarray(column_values(table, "key")), partitions, place)
                table = table.filter(pa.array(place == partition))
            yield table


def read_records(
    paths: Sequence[str],
    ordinals: Sequence[Sequence[int]],
    partition: int,
    partitions: int,
    spec: AnyClustered,
    open_file: OpenFile,
) -> pa.Table:
    """One range of keys out of files of `scatter`, sorted by key and address. ordinals: of the parts in each file."""
    schema, common = record_schema(spec)
    at, field = schema.get_field_index("doc"), schema.field("doc")
    pieces = [
        table.set_column(at, field, pa.array(_address(column_values(table, "doc"), there)))
        for path, there in zip(paths, ordinals, strict=True)
        for table in in_range(path, partition, partitions, open_file)
    ]
    if not pieces:
        return schema.empty_table()
    return sort_table(pa.concat_tables(pieces).combine_chunks(), (*common, "doc"))[0]


def add_first(edges: EdgeWriter, paths: Sequence[str], ordinals: Sequence[Sequence[int]], open_file: OpenFile) -> None:
    """Write the edges that `scatter` found, block by block. ordinals: of the parts in each file."""
    for path, there in zip(paths, ordinals, strict=True):
        with open_file(path) as file:
            for block in range(block_count(file, path)):
                if (table := read_block(file, block, path)) is not None:
                    node, other = (_address(column_values(table, name), there) for name in EDGE.names)
                    edges.add_directed(node, other)


def _address(docs: np.ndarray, ordinals: Sequence[int]) -> np.ndarray:
    """Addresses in a run of those in a file whose parts have these ordinals there."""
    parts = np.asarray(ordinals, np.int64)[docs >> np.int64(32)]
    return parts << np.int64(32) | (docs & np.int64(0xFFFFFFFF))


def group(
    spec: Setting[AnyDedup],
    partitions: Setting[int],
    which: Setting[Sequence[int]],
    records_paths: InFile[Sequence[str]],
    ordinals: Setting[Sequence[Sequence[int]]],
    first_paths: InFile[Sequence[str]],
    first_ordinals: Setting[Sequence[Sequence[int]]],
    edges_path: OutFile[str],
    open_file: OpenFile = open_local,
) -> dict[str, int]:
    """Join the records of some partitions (`which`) across all files of `scatter`: writes their edges, and the first edges in
    some files of it (`first_paths`). ordinals: of the parts in each file.

    Returns records (rows read), edges (rows written) and largest (records of the largest group; a task of `scatter`
    counts once in it).
    """
    settings = read_clustered(spec)
    common = record_schema(settings)[1]
    edges = EdgeWriter(edges_path, partitions, settings.memory)
    add_first(edges, first_paths, first_ordinals, open_file)
    count = largest = 0
    for partition in which:
        table = read_records(records_paths, ordinals, partition, partitions, settings, open_file)
        if not table.num_rows:
            continue
        first, member, centre = stars(table, common)
        edges.add(member, centre)
        count += table.num_rows
        largest = max(largest, int(np.diff(np.append(np.flatnonzero(first), table.num_rows)).max()))
    return {"records": count, "edges": edges.finish(), "largest": largest}
