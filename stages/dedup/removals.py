"""The list of removed documents of each part, each with the document kept for it: by id, source and address."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.dedup.address import group_of, part_of, read_rows, row_of
from stages.dedup.choose import CHOSEN
from stages.dedup.found import Cluster, Named, Removed
from stages.dedup.shuffle import OpenFile, ShuffleWriter, column_values, open_local, read_partition
from stages.dedup.spec import AnyDedup, read_spec
from stages.dedup.tasks import PartToRead
from stages.marks import HowMuch, InFile, OutFile, Setting

NAMED = pa.schema(
    [
        pa.field("doc", pa.int64(), nullable=False),
        pa.field("kept", pa.int64(), nullable=False),
        pa.field("kept_id", pa.large_string(), nullable=False),
        pa.field("kept_source", pa.large_string(), nullable=False),
    ]
)

REMOVALS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),  # of the removed document in its part; rising
        pa.field("reason", pa.large_string(), nullable=False),
        # The document kept for it; null where there is none to name (a false positive, or an n-gram of a saved filter). Of a run
    # that this one was compared with, `id (RUN/source)` and RUN/source, without a place.
        pa.field("representative", pa.large_string()),  # its id
        pa.field("representative_source", pa.large_string()),
        pa.field("representative_part", pa.int32()),  # its number, as handed to the dedup; its ordinal where it has none
        pa.field("representative_row", pa.int64()),
    ]
)


COPIES = pa.schema([pa.field("row", pa.int64(), nullable=False), pa.field("copies", pa.int64(), nullable=False)])


def _range_of_part(docs: np.ndarray, ordinal: int) -> tuple[int, int]:
    """Where the documents of a part begin and end in a rising array of addresses."""
    begin, end = np.searchsorted(docs, [np.int64(ordinal) << np.int64(32), np.int64(ordinal + 1) << np.int64(32)])
    return int(begin), int(end)


def name(
    group: Setting[int],
    parts: InFile[Sequence[PartToRead]],
    chosen_paths: InFile[Sequence[str]],
    group_starts: Setting[Sequence[int]],
    out_path: OutFile[str],
    memory: HowMuch[int],
    copies_paths: OutFile[Mapping[str, str]] | None = None,
    open_file: OpenFile = open_local,
    show: Setting[int] = 20,
) -> Named:
    """Look up the ids of the kept documents in one group of parts ({"ordinal", "path", "source"} each). copies_paths: where to
    write, for each part (by its ordinal as text), as how many its documents were found (`COPIES`), of those found more than once.

    Returns removed, and of the clusters whose kept document lies here: sizes, [size, clusters] pairs with the kept one
    counted, and largest, the `show` largest as {"size", "part", "row", "id", "source"}.
    """
    table = read_partition(chosen_paths, group, CHOSEN, ("kept", "doc"), open_file)
    kept, doc = column_values(table, "kept"), column_values(table, "doc")
    heads, first, counts = np.unique(kept, return_index=True, return_counts=True)
    writer = ShuffleWriter(Path(out_path), len(group_starts), NAMED, ("doc",), memory)
    candidates: list[Cluster] = []
    for part in parts:
        begin, end = _range_of_part(heads, part["ordinal"])
        if copies_paths is not None:
            found = {"row": row_of(heads[begin:end]).astype(np.int64), "copies": counts[begin:end] + 1}
            pq.write_table(pa.table(found, COPIES), copies_paths[str(part["ordinal"])])
        if begin == end:
            continue
        with open_file(part["path"]) as file:
            for piece, batch in read_rows(file, part["path"], ["id"], row_of(heads[begin:end])):
                ids = batch.column("id")
                head, count, start = heads[begin:end][piece], counts[begin:end][piece], first[begin:end][piece]
                rows = np.repeat(np.arange(len(head)), count)
                span = slice(int(start[0]), int(start[-1] + count[-1]))
                writer.add(
                    group_of(doc[span], group_starts),
                    {
                        "doc": doc[span],
                        "kept": head[rows],
                        "kept_id": ids.take(pa.array(rows)),
                        "kept_source": pa.repeat(pa.scalar(part["source"], pa.large_string()), len(rows)),
                    },
                )
                for i in np.argsort(-count, kind="stable")[:show]:
                    candidates.append(
                        {
                            "size": int(count[i]) + 1,
                            "part": part["ordinal"],
                            "row": int(row_of(head[i : i + 1])[0]),
                            "id": ids[int(i)].as_py(),
                            "source": part["source"],
                        }
                    )
                candidates = largest_clusters(candidates, show)
    writer.finish()
    sizes, clusters = np.unique(counts + 1, return_counts=True)
    return {
        "removed": len(doc),
        "sizes": [[int(s), int(c)] for s, c in zip(sizes, clusters, strict=True)],
        "largest": candidates,
    }


def largest_clusters(clusters: Sequence[Cluster], show: int) -> list[Cluster]:
    """The largest first, equal ones in canonical order; for merging what the tasks of `name` return."""
    return sorted(clusters, key=lambda c: (-c["size"], c["part"], c["row"]))[:show]


def remove(
    spec: Setting[AnyDedup],
    group: Setting[int],
    parts: InFile[Sequence[PartToRead]],
    named_paths: InFile[Sequence[str]],
    out_paths: OutFile[Mapping[str, str]],
    open_file: OpenFile = open_local,
    numbers: Setting[Sequence[int]] = (),
) -> Removed:
    """Write the removals of one group of parts: for each part a Parquet file of `REMOVALS`, sorted by row.

    `out_paths` are the files to write, by the part's ordinal as text; numbers: what the parts are called, by ordinal, as those of
    kept documents. Returns removed ({ordinal: documents}) and lost,
    [source, source of the kept document, documents].
    """
    reason = read_spec(spec).reason
    table = read_partition(named_paths, group, NAMED, ("doc",), open_file)
    doc, kept = column_values(table, "doc"), column_values(table, "kept")
    removed: dict[str, int] = {}
    lost: dict[tuple[str, str], int] = {}
    for part in parts:
        begin, end = _range_of_part(doc, part["ordinal"])
        mine = table.slice(begin, end - begin)
        columns = [
            pa.array(row_of(doc[begin:end]), pa.int64()),
            pa.repeat(pa.scalar(reason, pa.large_string()), end - begin),
            mine.column("kept_id").combine_chunks(),
            mine.column("kept_source").combine_chunks(),
            _places(kept[begin:end], numbers),
            pa.array(row_of(kept[begin:end]), pa.int64(), mask=kept[begin:end] < 0),
        ]
        write_removals(pa.Table.from_arrays(columns, schema=REMOVALS), out_paths[str(part["ordinal"])])
        removed[str(part["ordinal"])] = end - begin
        for entry in pc.value_counts(mine.column("kept_source")):
            pair = (part["source"], entry["values"].as_py())
            lost[pair] = lost.get(pair, 0) + entry["counts"].as_py()
    return {"removed": removed, "lost": [[*pair, count] for pair, count in sorted(lost.items())]}


def called(parts: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """What parts, given by their ordinals, are called: `numbers` by ordinal, or as they are where there are none."""
    return np.asarray(numbers, np.int32)[parts] if len(numbers) else parts


def _places(kept: np.ndarray, numbers: Sequence[int]) -> pa.Array:
    """The parts of kept documents, as they are called; null for an old document, which is of another run."""
    return pa.array(called(part_of(np.maximum(kept, 0)), numbers), mask=kept < 0)


def write_removals(table: pa.Table, path: str) -> None:
    """Write the removals of one part, sorted by row."""
    pq.write_table(table, path, compression="zstd", use_dictionary=["reason", "representative_source"])  # type: ignore[arg-type]
