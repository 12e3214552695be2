"""The index of a finished dedup, and what it takes for a later one to be compared with it: old documents never go.

An index is two files for each group of parts. `.keys` is a shuffle file of the records by which copies are found, each with
the address of the document that stays for it; `.docs.parquet` names the documents that stay (address, id, source). So it holds
what `scatter` writes (16 or 24 bytes a record before compression; docs/dedup.md) and an id a document, whatever the texts' size.

In the later dedup an old document has a negative address, below those of all new ones, so it is the first of its cluster.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from stages.dedup.address import group_of, pack, read_remaining, read_rows
from stages.dedup.edges import EDGE, EDGE_KEYS, EdgeWriter, stars
from stages.dedup.removals import NAMED
from stages.dedup.scatter import add_first, in_range, read_records, record_schema
from stages.dedup.shuffle import (
    OpenFile,
    ShuffleWriter,
    column_values,
    open_local,
    read_partition,
)
from stages.dedup.spec import AnyClustered, AnyDedup, read_clustered
from stages.dedup.tasks import PartToRead
from stages.errors import InputError
from stages.marks import InFile, OutFile, Setting, in_key

KEYS, DOCS = ".keys", ".docs.parquet"
DOCUMENTS = pa.schema(
    [
        pa.field("doc", pa.int64(), nullable=False),  # its address there; rising
        pa.field("id", pa.large_string(), nullable=False),
        pa.field("source", pa.large_string(), nullable=False),
        pa.field("older", pa.bool_(), nullable=False),  # it is of a run that this one was compared with: id and source say so
    ]
)
_LOWEST, _BITS = -(1 << 62), 53  # of old addresses: an index each 2^53 of them
_COMPARED = ("method", "normalize", "ngram", "bands", "rows", "seed", "drop_query")


def index_name(spec: AnyClustered) -> str:
    """The beginning of an index's file names: one for all settings that make equal records."""
    known = {name: value for name, value in in_key(spec).items() if name in _COMPARED}
    return f"index-{hashlib.blake2b(orjson.dumps(known, option=orjson.OPT_SORT_KEYS), digest_size=6).hexdigest()}"


def write_index(
    spec: Setting[AnyDedup],
    parts: InFile[Sequence[PartToRead]],
    partitions: Setting[int],
    records_paths: InFile[Sequence[str]],
    ordinals: Setting[Sequence[Sequence[int]]],
    removals_paths: InFile[Mapping[str, str]],
    keys_path: OutFile[str],
    docs_path: OutFile[str],
    open_file: OpenFile = open_local,
    numbers: Setting[Sequence[int]] = (),
) -> int:
    """Write the index of one group of consecutive parts, from the files of `scatter` that hold records of it (ordinals: of the
    parts in each) and the removals of its parts (by ordinal as text). Returns the documents that it names."""
    settings = read_clustered(spec)
    gone, kept = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    count = 0
    with pq.ParquetWriter(docs_path, DOCUMENTS, compression="zstd") as writer:
        for part in parts:
            with open_file(removals_paths[str(part["ordinal"])]) as file:
                removed = pq.read_table(file)
            rows = np.asarray(removed.column("row"), np.int64)
            own = np.asarray(removed.column("representative_part").is_valid())
            gone.append(pack(part["ordinal"], rows))
            part_, row = (np.asarray(removed.column(f"representative_{what}").fill_null(0), np.int64) for what in ("part", "row"))
            kept.append(np.where(own, _ordinals(part_, own, numbers) << 32 | row, gone[-1]))
            for batch in _documents(part, rows, removed.filter(pa.array(~own)), open_file):
                writer.write_batch(batch)
                count += batch.num_rows
    schema, common = record_schema(settings)
    first, end = pack(parts[0]["ordinal"], np.array(0)), pack(parts[-1]["ordinal"] + 1, np.array(0))
    whither = np.concatenate(gone), np.concatenate(kept)
    keys = ShuffleWriter(Path(keys_path), partitions, schema, (*common, "doc"), settings.memory)
    for partition in range(partitions):
        table = read_records(records_paths, ordinals, partition, partitions, settings, open_file)
        doc = column_values(table, "doc")
        _add_keys(keys, partition, table.filter(pa.array((first <= doc) & (doc < end))), common, *whither)
    keys.finish()
    return count


def _ordinals(parts: np.ndarray, own: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """The ordinals of the parts of kept documents (`own`: where they are of this run), which are called by their numbers."""
    if not len(numbers):
        return parts
    order = np.argsort(numbers)
    place = np.searchsorted(np.asarray(numbers, np.int64)[order], np.where(own, parts, numbers[0]))
    return order[place].astype(np.int64)


def _documents(part: PartToRead, removed: np.ndarray, older: pa.Table, open_file: OpenFile) -> list[pa.RecordBatch]:
    """The documents of a part that stay, and, under the addresses of those that went for them, those of older runs."""
    found = []
    for rows, batch in read_remaining(part, ["id"], open_file):
        stays = ~np.isin(rows, removed)
        source = pa.repeat(pa.scalar(part["source"], pa.large_string()), int(stays.sum()))
        ids = batch.column("id").filter(pa.array(stays)).cast(pa.large_string())
        found.append(_batch(pack(part["ordinal"], rows[stays]), ids, source, False))
    if older.num_rows:
        ids, sources = (older.column(name).combine_chunks() for name in ("representative", "representative_source"))
        found.append(_batch(pack(part["ordinal"], column_values(older, "row")), ids, sources, True))
    table = pa.Table.from_batches(found, DOCUMENTS)
    return table.sort_by("doc").combine_chunks().to_batches() if older.num_rows else table.to_batches()


def _batch(docs: np.ndarray, ids: pa.Array, sources: pa.Array, older: bool) -> pa.RecordBatch:
    flags = pa.array(np.full(len(docs), older))
    return pa.RecordBatch.from_arrays([pa.array(docs), ids, sources, flags], schema=DOCUMENTS)


def _add_keys(
    keys: ShuffleWriter, partition: int, table: pa.Table, common: Sequence[str], gone: np.ndarray, kept: np.ndarray
) -> None:
    """Add records under the documents that stay. gone: addresses of those that do not, rising; kept: for which each went."""
    doc = column_values(table, "doc")
    at = np.minimum(np.searchsorted(gone, doc), max(len(gone) - 1, 0))
    stays = np.where(gone[at] == doc, kept[at], doc) if len(gone) else doc
    columns: dict[str, np.ndarray | pa.Array] = {name: column_values(table, name) for name in common}
    keys.add(np.full(len(doc), partition, np.int32), columns | {"doc": stays})


class Old:
    """The index files that a dedup is compared with, in the order in which they were named."""

    def __init__(self, paths: Sequence[str]) -> None:
        """paths: of one kind. Those of one dedup follow one another; `index-HASH-00012.keys` begins with part 12."""
        folders = list(dict.fromkeys(path.rpartition("/")[0] for path in paths))
        if len(folders) > 512:
            raise InputError(paths[0], f"{len(folders)} dedups are more than the 512 that one can be compared with")
        self.paths = list(paths)
        self.number = {path: folders.index(path.rpartition("/")[0]) for path in paths}
        self.starts: list[list[tuple[int, str]]] = [[] for _ in folders]
        for path in paths:
            name = path.rpartition("/")[2].partition(".")[0]
            self.starts[self.number[path]].append((int(name.rpartition("-")[2]), path))
        for starts in self.starts:
            starts.sort()

    def records(self, partition: int, partitions: int, schema: pa.Schema, open_file: OpenFile) -> list[pa.Table]:
        """The records of one range of keys, the addresses being old ones."""
        found = []
        for path in self.paths:
            base = _LOWEST + (self.number[path] << _BITS)
            for table in in_range(path, partition, partitions, open_file):
                doc = column_values(table, "doc")
                if len(doc) and int(doc.max()) >> _BITS:
                    raise InputError(path, "its run has more parts of documents than 2,097,151")
                found.append(table.set_column(schema.get_field_index("doc"), schema.field("doc"), pa.array(doc + base)))
        return found

    def names(self, docs: np.ndarray, open_file: OpenFile) -> tuple[pa.Array, pa.Array]:
        """The ids and sources of old documents (rising, distinct), with their run: `id (RUN/source)`, `RUN/source`."""
        ids, sources = [], []
        number, address = (docs - _LOWEST) >> _BITS, (docs - _LOWEST) & ((1 << _BITS) - 1)
        for index in np.unique(number).tolist():
            mine = address[number == index]
            starts = self.starts[index]
            which = np.searchsorted([start for start, _ in starts], mine >> 32, side="right") - 1
            for place in np.unique(which).tolist():
                found = _look_up(starts[place][1], mine[which == place], open_file)
                ids.append(found[0])
                sources.append(found[1])
        return pa.concat_arrays(ids), pa.concat_arrays(sources)


def _look_up(path: str, docs: np.ndarray, open_file: OpenFile) -> tuple[pa.Array, pa.Array]:
    with open_file(path) as file:
        there = np.asarray(pq.read_table(file, columns=["doc"]).column("doc"), np.int64)
    rows = np.searchsorted(there, docs)
    if (rows >= len(there)).any() or (there[rows] != docs).any():
        raise InputError(path, "lacks documents that its keys name: the index is not whole; run its recipe again with --verify")
    with open_file(path) as file:
        batches = [batch for _, batch in read_rows(file, path, ["id", "source", "older"], rows)]
    table = pa.Table.from_batches(batches).combine_chunks()
    run = path.partition("/parts/dedup/")[0].rpartition("/")[2]
    ids, sources = [], []
    for row in table.to_pylist():
        source = row["source"] if row["older"] else f"{run}/{row['source']}"
        sources.append(source)
        ids.append(row["id"] if row["older"] else f"{row['id']} ({source})")
    return pa.array(ids, pa.large_string()), pa.array(sources, pa.large_string())


def settle(
    spec: Setting[AnyDedup],
    partitions: Setting[int],
    which: Setting[Sequence[int]],
    stars_paths: InFile[Sequence[str]],
    docs_paths: InFile[Sequence[str]],
    group_starts: Setting[Sequence[int]],
    out_path: OutFile[str],
    named_path: OutFile[str],
    open_file: OpenFile = open_local,
) -> dict[str, int]:
    """Part the clusters: new documents that are copies of old ones go for these (as `name` writes them, to `named_path`);
    clusters of new documents alone go on, as `large_star` writes them. Returns removed."""
    settings, old = read_clustered(spec), Old(docs_paths)
    rest = EdgeWriter(out_path, partitions, settings.memory)
    writer = ShuffleWriter(Path(named_path), len(group_starts), NAMED, ("doc",), settings.memory)
    removed = 0
    for partition in which:
        table = read_partition(stars_paths, partition, EDGE, EDGE_KEYS, open_file)
        node, first = column_values(table, "node"), column_values(table, "other")
        new = node >= 0
        alone = new & (first >= 0)
        rest.add_directed(node[alone], first[alone])
        doc, kept = node[new & ~alone], first[new & ~alone]
        if not len(doc):
            continue
        heads, place = np.unique(kept, return_inverse=True)
        ids, sources = (names.take(pa.array(place)) for names in old.names(heads, open_file))
        writer.add(group_of(doc, group_starts), {"doc": doc, "kept": kept, "kept_id": ids, "kept_source": sources})
        removed += len(doc)
    rest.finish()
    writer.finish()
    return {"removed": removed}


def group_with_old(
    spec: Setting[AnyDedup],
    partitions: Setting[int],
    which: Setting[Sequence[int]],
    records_paths: InFile[Sequence[str]],
    ordinals: Setting[Sequence[Sequence[int]]],
    first_paths: InFile[Sequence[str]],
    first_ordinals: Setting[Sequence[Sequence[int]]],
    index_paths: InFile[Sequence[str]],
    edges_path: OutFile[str],
    open_file: OpenFile = open_local,
) -> dict[str, int]:
    """As `scatter.group`, with the records of old documents (`index_paths`: files of keys) among those of the new ones."""
    settings, old = read_clustered(spec), Old(index_paths)
    schema, common = record_schema(settings)
    edges = EdgeWriter(edges_path, partitions, settings.memory)
    add_first(edges, first_paths, first_ordinals, open_file)
    count = largest = 0
    for partition in which:
        new = read_records(records_paths, ordinals, partition, partitions, settings, open_file)
        if not new.num_rows:
            continue
        table = _with_old(new, old.records(partition, partitions, schema, open_file), schema, common)
        first, member, centre = stars(table, common)
        edges.add(member, centre)
        count += table.num_rows
        largest = max(largest, int(np.diff(np.append(np.flatnonzero(first), table.num_rows)).max()))
    return {"records": count, "edges": edges.finish(), "largest": largest}


def _with_old(table: pa.Table, old: Sequence[pa.Table], schema: pa.Schema, common: Sequence[str]) -> pa.Table:
    """Records of new documents with those old ones that share a key with one of them, sorted by key and address."""
    if not old:
        return table
    both = pa.concat_tables([table, *old]).combine_chunks()
    order = np.lexsort([column_values(both, name) for name in ("doc", *reversed(common))])
    both = both.take(pa.array(order))
    first = np.zeros(both.num_rows, bool)
    first[:1] = True
    for name in common:
        values = column_values(both, name)
        first[1:] |= values[1:] != values[:-1]
    groups = np.cumsum(first) - 1
    has_new = np.zeros(int(groups[-1]) + 1, bool)
    has_new[groups[column_values(both, "doc") >= 0]] = True
    return both.filter(pa.array(has_new[groups])).cast(schema)
