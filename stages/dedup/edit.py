"""What bff leaves of each part: the texts without the removed paragraphs, and the removals of whole documents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.dedup.address import BATCH_BYTES, earlier_removals, pack, part_of, row_of
from stages.dedup.bff import SPAN, SPAN_KEYS
from stages.dedup.holders import HOLDER, HOLDER_KEYS
from stages.dedup.removals import REMOVALS, called, write_removals
from stages.dedup.shuffle import OpenFile, column_values, open_local, read_partition, sort_order
from stages.dedup.spec import AnyDedup, read_spec
from stages.dedup.tasks import PartToRead
from stages.document import replace_column, text_array, text_buffers
from stages.kernels.bloom import WHOLE
from stages.kernels.cut import blank_without, cut_spans
from stages.kernels.unicode_tables import code_points
from stages.marks import InFile, OutFile, Setting
from stages.parts import PartWriter, read_part

CUTS = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),  # bytes of the document's text before the dedup
        pa.field("stop", pa.int64(), nullable=False),
        *(f for f in REMOVALS if f.name.startswith("representative")),
    ]
)
"""Paragraphs that were cut out of documents which stay, sorted by row and start."""


def edit(
    spec: Setting[AnyDedup],
    group: Setting[int],
    parts: InFile[Sequence[PartToRead]],
    spans_paths: InFile[Sequence[str]],
    holders_paths: InFile[Sequence[str]],
    part_paths: OutFile[Mapping[str, str]],
    removals_paths: OutFile[Mapping[str, str]],
    cuts_paths: OutFile[Mapping[str, str]],
    open_file: OpenFile = open_local,
    written: Callable[[str], None] = lambda path: None,
    numbers: Setting[Sequence[int]] = (),
) -> dict[str, dict[str, int]]:
    """Write one group of parts anew: the same rows with their texts cut, the removals, and the paragraphs cut out.

    Documents that go keep their row and their text, and are listed in the removals; rows that an earlier dedup removed
    are copied as they are. Outputs go by the part's ordinal as text; `written` is told of each that is whole. Returns, by
    part: documents, bytes (of text, of documents not removed earlier), removed, removed_bytes, paragraphs and cut_bytes (of
    the documents that stay). numbers: what the parts are called, by ordinal, as those of kept documents.
    """
    settings = read_spec(spec)
    reason, old = settings.reason, [run_of(path) for path in getattr(settings, "against", ())]
    spans = _with_holders(
        read_partition(spans_paths, group, SPAN, SPAN_KEYS, open_file),
        read_partition(holders_paths, group, HOLDER, HOLDER_KEYS, open_file),
        numbers,
        old,
    )
    report = {}
    for part in parts:
        key = str(part["ordinal"])
        report[key] = _edit_part(
            part, spans, reason, part_paths[key], removals_paths[key], cuts_paths[key], open_file
        )
        for paths in (part_paths, removals_paths, cuts_paths):
            written(paths[key])
    return report


def run_of(path: str) -> str:
    """What an older run's filter is told of as, by its file: RUN, or RUN/SOURCE where it is of one source."""
    run, _, rest = path.partition("/parts/dedup/")
    name, source = run.rpartition("/")[2], rest.partition("/")[0]
    return name if source in ("all", "") else f"{name}/{source}"


def _with_holders(spans: pa.Table, found: pa.Table, numbers: Sequence[int], old: Sequence[str]) -> pa.Table:
    """Spans, sorted, with the representative of each: the first holder, or null. Where an older run's filter held what is
    looked for, that run (`old`), which is all that a filter tells."""
    span, held = _numbered(spans, found)
    named, first = np.unique(held, return_index=True)
    place = np.full(int(span.max(initial=-1)) + 1, -1, np.int64)
    known = named < len(place)
    place[named[known]] = first[known]
    place = place[span]
    take = pa.array(place, mask=place < 0)
    holder = column_values(found, "holder")
    chosen = {
        "representative": found.column("holder_id").combine_chunks().take(take),
        "representative_source": found.column("holder_source").combine_chunks().take(take),
        "representative_part": pa.array(called(part_of(holder), numbers)).take(take),
        "representative_row": pa.array(row_of(holder), pa.int64()).take(take),
    }
    if old:
        number = column_values(spans, "old") if "old" in spans.column_names else np.zeros(spans.num_rows, np.uint16)
        which = pa.array(number.astype(np.int64) - 1, mask=number == 0)
        for name, told in (("representative", [f"a document ({run})" for run in old]), ("representative_source", old)):
            chosen[name] = pc.coalesce(chosen[name], pa.array(told, pa.large_string()).take(which))
    for name, values in chosen.items():
        spans = spans.append_column(name, values)
    return spans


def _numbered(a: pa.Table, b: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """A number for each row of both tables, equal where doc, start and stop are."""
    columns = [np.concatenate([column_values(a, name), column_values(b, name)]) for name in SPAN_KEYS]
    order = sort_order(columns)
    order = np.arange(len(columns[0])) if order is None else order
    fresh = np.zeros(len(order), bool)
    for column in columns:
        fresh[1:] |= np.diff(column[order]) != 0
    numbers = np.empty(len(order), np.int64)
    numbers[order] = np.cumsum(fresh)
    return numbers[: a.num_rows], numbers[a.num_rows :]


def _edit_part(
    part: PartToRead,
    spans: pa.Table,
    reason: str,
    part_path: str,
    removals_path: str,
    cuts_path: str,
    open_file: OpenFile,
) -> dict[str, int]:
    begin, end = np.searchsorted(
        column_values(spans, "doc"), [pack(part["ordinal"], np.array(0)), pack(part["ordinal"] + 1, np.array(0))]
    )
    spans = spans.slice(begin, end - begin)
    span_rows = row_of(column_values(spans, "doc")).astype(np.int64)
    earlier = earlier_removals(part, open_file)
    removals, cuts = [], []
    report: dict[str, int] = dict.fromkeys(("documents", "bytes", "removed", "removed_bytes", "paragraphs", "cut_bytes"), 0)
    with open_file(part["path"]) as file, ExitStack() as stack:
        writer = None
        for first, batch in read_part(file, BATCH_BYTES):
            here = slice(*np.searchsorted(span_rows, [first, first + batch.num_rows]))
            mine = spans.slice(here.start, here.stop - here.start)
            stays_out = earlier[slice(*np.searchsorted(earlier, [first, first + batch.num_rows]))] - first
            batch, goes, cut = _edit_batch(batch, mine, span_rows[here] - first, stays_out, report)
            removals.append(_removals(goes, first, mine, span_rows[here], reason))
            cuts.append(_cuts(mine.filter(pa.array(cut)), span_rows[here][cut]))
            if writer is None:
                writer = stack.enter_context(PartWriter(Path(part_path), batch.schema))
            writer.write(batch)
        if writer is None:
            file.seek(0)
            stack.enter_context(PartWriter(Path(part_path), pq.ParquetFile(file).schema_arrow))
    write_removals(pa.concat_tables(removals) if removals else REMOVALS.empty_table(), removals_path)
    pq.write_table(pa.concat_tables(cuts) if cuts else CUTS.empty_table(), cuts_path, compression="zstd")
    return report


def _edit_batch(
    batch: pa.RecordBatch, spans: pa.Table, rows: np.ndarray, stays_out: np.ndarray, report: dict[str, int]
) -> tuple[pa.RecordBatch, np.ndarray, np.ndarray]:
    """The batch with its texts cut, the rows that go, and the mask of the spans cut out of rows that stay."""
    data, offsets = text_buffers(batch.column("text"))
    lengths = offsets[1:] - offsets[:-1]
    start, stop = column_values(spans, "start"), column_values(spans, "stop")
    cut = stop != WHOLE
    gone = np.empty(batch.num_rows, np.uint8)
    blank_without(data, offsets, rows[cut], start[cut], stop[cut], code_points(), gone)
    gone[rows[~cut]] = 1
    gone[stays_out] = 0
    goes = np.flatnonzero(gone)
    cut &= gone[rows] == 0  # what goes keeps its text
    text = _cut(data, offsets, rows[cut], start[cut], stop[cut])
    live = np.ones(batch.num_rows, bool)
    live[stays_out] = False
    report["documents"] += int(live.sum())
    report["bytes"] += int(lengths[live].sum())
    report["removed"] += len(goes)
    report["removed_bytes"] += int(lengths[goes].sum())
    report["paragraphs"] += int(cut.sum())
    report["cut_bytes"] += int((stop - start)[cut].sum())
    if cut.any():
        batch = replace_column(batch, "text", text_array(*text))
    return batch, goes, cut


def _cut(
    data: np.ndarray, offsets: np.ndarray, rows: np.ndarray, start: np.ndarray, stop: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    if not len(rows):
        return data, offsets
    out, out_offsets = np.empty(int(offsets[-1] - offsets[0]), np.uint8), np.empty(len(offsets), np.int64)
    size = cut_spans(data, offsets, rows, start, stop, out, out_offsets)
    return out[:size], out_offsets


def _removals(goes: np.ndarray, first: int, spans: pa.Table, span_rows: np.ndarray, reason: str) -> pa.Table:
    """The removals of a batch: rows `goes` of it, each with the representative of its first span, if it has one.

    The span of a whole document stands before those of its paragraphs.
    """
    rows = goes + first
    place = np.searchsorted(span_rows, rows)
    has = place < len(span_rows)
    has[has] = span_rows[place[has]] == rows[has]
    take = pa.array(place, mask=~has)
    columns = [pa.array(rows), pa.repeat(pa.scalar(reason, pa.large_string()), len(rows))]
    columns += [_combined(spans.column(f.name)).take(take) for f in REMOVALS if f.name.startswith("representative")]
    return pa.Table.from_arrays(columns, schema=REMOVALS)


def _cuts(spans: pa.Table, rows: np.ndarray) -> pa.Table:
    columns = [pa.array(rows), *(spans.column(f.name) for f in CUTS if f.name != "row")]
    return pa.Table.from_arrays([_combined(c) for c in columns], schema=CUTS)


def _combined(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
