"""Who was removed for whom: the largest clusters of a run's dedups with samples, their sizes, and which source lost to which.

Read from the run's summary and from the removals (and the pieces that bff and substring cut out) that each dedup left beside
its parts. A piece is what was removed: a document, or a paragraph (of substring: any passage) of one that stays.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal, TypedDict

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console

from pipeline import storage
from pipeline.jobs.dedup import DedupSummary
from pipeline.recipe.overrides import nearest
from pipeline.run_folder.manifest import read_manifest
from pipeline.run_folder.run_summary import read_summary
from pipeline.tables import plain_table
from stages.dedup.address import pack, read_rows, row_of
from stages.errors import UserError
from stages.kernels.hashing import partition_of_document

MEMBERS = 3  # removed documents that are shown of a cluster
SAMPLE_CHARS = 300
PASS_BYTES = 256 << 20  # of addresses that are counted at a time; more are counted in several passes over the files
BATCH_ROWS = 1 << 16
BAR, GAP, HEIGHT, MARGIN, PANEL = 44, 8, 120, 48, 190  # pixels of the picture
LETTER = 7  # pixels of a bold letter, about
NOBODY = "(nobody named)"
PIECES = {
    "bff": "paragraph",
    "paragraphs": "paragraph",
    "substring": "passage",
}  # what the methods that cut texts cut out of them

Kind = Literal["document", "paragraph"]


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A document, or a paragraph of one, with the beginning of its text. Without id and text where `run.keep` left none."""

    what: Kind | msgspec.UnsetType = msgspec.UNSET  # of removed pieces
    id: str | None
    file: str
    record: int
    text: str | None
    source: str


class Cluster(msgspec.Struct, frozen=True):
    """A kept document and what was removed for it. size counts both; by_source: removed pieces of each source."""

    size: int
    by_source: dict[str, int]
    kept: Piece
    removed: list[Piece]  # the first MEMBERS


class DedupClusters(msgspec.Struct, frozen=True):
    """What a dedup removed.

    sizes: (size, clusters) pairs, rising; a size counts the kept document. lost: (source, source of the kept document or
    None, documents, paragraphs). largest: the largest clusters, by size.
    """

    name: str
    method: str
    documents: int
    removed: int
    paragraphs: int
    sizes: list[tuple[int, int]]
    lost: list[tuple[str, str | None, int, int]]
    largest: list[Cluster]


class Clusters(msgspec.Struct, frozen=True):
    """What the dedups of a run removed."""

    run: str
    dedups: list[DedupClusters]


def clusters(run: str, name: str | None = None, top: int = 5) -> Clusters:
    """What the dedups of a finished run removed, or the one that is named, with its `top` largest clusters.

    Raises UserError where there is no finished run or no dedup of that name.
    """
    read_manifest(run)
    dedups = read_summary(run).dedup
    names = list(dedups)
    if name is not None and name not in names:
        of_source = [n for n in names if n.split("/")[0] == name]
        if len(of_source) != 1:
            raise UserError(f"--dedup {name}: the run has no such dedup{nearest(name, names)}")
        name = of_source[0]
    wanted = names if name is None else [name]
    return Clusters(run, [_describe(run, n, dedups[n], top) for n in wanted])


def _describe(run: str, name: str, dedup: DedupSummary, top: int) -> DedupClusters:
    lost: Counter[tuple[str, str | None, Kind]] = Counter()
    for ordinal, kind, batch in _pieces(run, dedup, ["representative_source"]):
        for entry in batch.column("representative_source").value_counts():
            lost[dedup.read[ordinal].source, entry["values"].as_py(), kind] += entry["counts"].as_py()
    if dedup.sizes is not None:
        sizes, heads = dedup.sizes, [(c.part, c.row, c.size) for c in (dedup.largest or ())[:top]]
    else:
        sizes, heads = _count(run, dedup, top)
    pairs = sorted({(source, kept) for source, kept, _ in lost}, key=lambda p: (p[0], p[1] or ""))
    return DedupClusters(
        name=name,
        method=dedup.method,
        documents=dedup.documents,
        removed=dedup.removed,
        paragraphs=sum(n for (_, _, kind), n in lost.items() if kind == "paragraph"),
        sizes=sizes,
        lost=[(s, k, lost[s, k, "document"], lost[s, k, "paragraph"]) for s, k in pairs],
        largest=_samples(run, dedup, heads),
    )


def _pieces(
    run: str, dedup: DedupSummary, columns: list[str], ends: bool = False
) -> Iterator[tuple[str, Kind, pa.RecordBatch]]:
    """Removed pieces in batches, each with the ordinal of its part and what they are: document or paragraph."""
    sorts: tuple[tuple[Kind, dict[str, str]], ...] = (("document", dedup.removals), ("paragraph", dedup.cuts or {}))
    for kind, files in sorts:
        more = ["start", "stop"] if ends and kind == "paragraph" else []
        for ordinal, path in files.items():
            if kind == "document" and not dedup.removed_of_part[ordinal]:
                continue
            with storage.open_random(storage.join(run, path)) as file:
                for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=[*columns, *more]):
                    yield ordinal, kind, batch


def _ordinals(dedup: DedupSummary) -> np.ndarray:
    """The ordinals of parts by what they are called where they are named as those of representatives."""
    numbers = [int(ordinal) if read.number is None else read.number for ordinal, read in dedup.read.items()]
    found = np.zeros(max(numbers, default=0) + 1, np.int64)
    found[numbers] = [int(ordinal) for ordinal in dedup.read]
    return found


def _heads(batch: pa.RecordBatch, ordinals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Addresses of the representatives of a batch of pieces, of those that have one, and the mask of these."""
    named = batch.column("representative_row").is_valid().to_numpy(zero_copy_only=False)
    part = batch.column("representative_part").fill_null(0).to_numpy(zero_copy_only=False)
    row = batch.column("representative_row").fill_null(0).to_numpy(zero_copy_only=False)
    return (ordinals[part[named]] << 32) | row[named], named


def _count(run: str, dedup: DedupSummary, top: int) -> tuple[list[tuple[int, int]], list[tuple[int, int, int]]]:
    """Sizes of clusters and the largest ones, (part, row, size), where the dedup itself did not count them.

    A part of the addresses at a time, chosen by a hash: memory stays within PASS_BYTES, about, however many there are.
    """
    pieces = dedup.removed + sum(report.paragraphs for report in (dedup.reports or {}).values())
    passes = max(1, -(-pieces * 8 * 3 // PASS_BYTES))
    sizes: Counter[int] = Counter()
    ordinals = _ordinals(dedup)
    largest: list[tuple[int, int, int]] = []
    for number in range(passes):
        found = [np.zeros(0, np.int64)]
        for _, _, batch in _pieces(run, dedup, ["representative_part", "representative_row"]):
            heads, _ = _heads(batch, ordinals)
            if passes > 1:
                which = np.empty(len(heads), np.int32)
                partition_of_document(heads, passes, which)
                heads = heads[which == number]
            found.append(heads)
        heads, counts = np.unique(np.concatenate(found), return_counts=True)
        for size, clusters_of_it in zip(*np.unique(counts + 1, return_counts=True), strict=True):
            sizes[int(size)] += int(clusters_of_it)
        for i in np.argsort(-counts, kind="stable")[:top]:
            largest.append((int(heads[i] >> 32), int(row_of(heads[i : i + 1])[0]), int(counts[i]) + 1))
        largest = sorted(largest, key=lambda c: (-c[2], c[0], c[1]))[:top]
    return sorted(sizes.items()), largest


@dataclass(frozen=True)
class _Place:
    """Where a piece lies: the ordinal of its part, its row there, and of a paragraph its bytes in the text."""

    part: int
    row: int
    what: Kind | msgspec.UnsetType = msgspec.UNSET
    start: int = 0
    stop: int | None = None


def _samples(run: str, dedup: DedupSummary, heads: list[tuple[int, int, int]]) -> list[Cluster]:
    """The clusters of some representatives (part, row, size), with the first of their removed pieces in order."""
    address = np.array([pack(part, np.array(row)) for part, row, _ in heads], np.int64)
    by_source: list[Counter[str]] = [Counter() for _ in heads]
    ordinals = _ordinals(dedup)
    removed: list[list[_Place]] = [[] for _ in heads]
    for ordinal, kind, batch in _pieces(run, dedup, ["row", "representative_part", "representative_row"], ends=True):
        heads_of, named = _heads(batch, ordinals)
        rows = np.flatnonzero(named)
        for head, counts, places in zip(address, by_source, removed, strict=True):
            mine = rows[heads_of == head]
            counts[dedup.read[ordinal].source] += len(mine)
            for i in mine[: MEMBERS - len(places)].tolist():
                span = [batch.column(c)[i].as_py() for c in ("start", "stop")] if kind == "paragraph" else ()
                places.append(_Place(int(ordinal), batch.column("row")[i].as_py(), kind, *span))
    kept = [_Place(part, row) for part, row, _ in heads]
    pieces = _read_pieces(run, dedup, [*kept, *(place for places in removed for place in places)])
    return [
        Cluster(size, dict(sorted((+counts).items())), pieces[head], [pieces[place] for place in places])
        for (_, _, size), counts, head, places in zip(heads, by_source, kept, removed, strict=True)
    ]


class _Document(TypedDict):
    """Columns of a part that are read of a document; of one whose part is gone there is only its place."""

    id: str | None
    file: str
    record: int
    text: str | None


def _read_pieces(run: str, dedup: DedupSummary, places: list[_Place]) -> dict[_Place, Piece]:
    """The pieces at these places; each part is read once, and of it only the row groups that hold them."""
    by_part: dict[int, list[_Place]] = {}
    for place in places:
        by_part.setdefault(place.part, []).append(place)
    found: dict[_Place, Piece] = {}
    for ordinal, mine in by_part.items():
        part = dedup.read[str(ordinal)]
        rows = np.unique([place.row for place in mine])
        documents: dict[int, _Document] = {}
        if storage.exists(storage.join(run, part.path)):
            with storage.open_random(storage.join(run, part.path)) as file:
                for part_rows, batch in read_rows(file, part.path, ["id", "file", "record", "text"], rows):
                    documents |= dict(zip(rows[part_rows].tolist(), batch.to_pylist(), strict=True))
        for place in mine:
            document = documents.get(place.row) or _Document(id=None, file=part.path, record=place.row + 1, text=None)
            found[place] = Piece(
                what=place.what,
                id=document["id"],
                file=document["file"],
                record=document["record"],
                text=_beginning(document["text"], place),
                source=part.source,
            )
    return found


def _beginning(text: str | None, place: _Place) -> str | None:
    """At most SAMPLE_CHARS characters of a document's text, or of the paragraph of it at `place`."""
    if text is None:
        return None
    piece = text.encode()[place.start : place.stop].decode(errors="replace").strip("\n")
    return piece if len(piece) <= SAMPLE_CHARS else piece[:SAMPLE_CHARS] + "..."


# ---- tables and picture


def size_ranges(sizes: list[tuple[int, int]]) -> list[tuple[str, int, int]]:
    """(range, clusters, documents) by size: 2, 3, 4, then 5-8, 9-16 and so on; ranges up to the largest, empty ones too."""
    found: list[tuple[str, int, int]] = []
    low, high = 2, 2
    while sizes and low <= sizes[-1][0]:
        mine = [(size, count) for size, count in sizes if low <= size <= high]
        name = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        found.append((name, sum(count for _, count in mine), sum(size * count for size, count in mine)))
        low, high = high + 1, high + 1 if high < 4 else 2 * high
    return found


def show_clusters(found: Clusters, console: Console) -> None:
    """Print what `clusters` found."""
    for dedup in found.dedups:
        share = dedup.removed / max(dedup.documents, 1)
        pieces = PIECES.get(dedup.method, "paragraph") + "s"
        cut = f", and {dedup.paragraphs:,} {pieces} of others" if dedup.paragraphs else ""
        console.rule(f"dedup {dedup.name} ({dedup.method})", align="left", characters="=")
        console.print(f"removed {dedup.removed:,} of {dedup.documents:,} documents ({share:.1%}){cut}", highlight=False)
        if not dedup.lost:
            continue
        cuts = dedup.method in PIECES
        console.print("size: the document that stays, and what was removed for it", highlight=False)
        sizes = plain_table("clusters by size", "size", "clusters", "pieces" if cuts else "documents")
        for name, count, documents in size_ranges(dedup.sizes):
            if count:
                sizes.add_row(name, f"{count:,}", f"{documents:,}")
        console.print(sizes)
        columns = ("source~", "to~", "documents", *([pieces] if dedup.paragraphs else []))
        lost = plain_table("lost by a source", *columns)
        for source, kept, documents, paragraphs in dedup.lost:
            cells = [source, kept or NOBODY, f"{documents:,}", f"{paragraphs:,}"]
            lost.add_row(*cells[: len(columns)])
        console.print(lost)
        for one in dedup.largest:
            sources = ", ".join(f"{count:,} of {source}" for source, count in one.by_source.items())
            count, s = one.size - 1, "" if one.size == 2 else "s"
            kind = f"piece{s} of text removed that one document held first" if cuts else f"document{s} removed for one that stays"
            console.print(f"{count:,} {kind}: {sources}", style="bold", markup=False, highlight=False)
            _show_piece("kept   ", one.kept, console)
            for piece in one.removed:
                _show_piece("removed", piece, console, pieces[:-1])
            console.print()


def _show_piece(what: str, piece: Piece, console: Console, name_of_cut: str = "paragraph") -> None:
    name = "its text was let go (run.keep)" if piece.id is None else piece.id
    paragraph = f"a {name_of_cut} of " if piece.what == "paragraph" else ""
    where = f"{piece.source}; {piece.file}, record {piece.record}"
    console.print(f"  {what} {paragraph}{name} ({where})", markup=False, highlight=False)
    if piece.text is not None:
        text = " ".join(piece.text.split())
        console.print(f"    {text[:150]}{'...' if len(text) > 150 else ''}", markup=False, highlight=False, style="dim")


def sizes_svg(found: Clusters) -> str:
    """A picture: of each dedup that removed something, bars of how many clusters there are of each size."""
    panels = [(d, size_ranges(d.sizes)) for d in found.dedups if d.sizes]
    titles = [_title(dedup) for dedup, _ in panels]
    width = 2 * MARGIN + max([(BAR + GAP) * len(bars) for _, bars in panels] + [LETTER * len(t) for t in titles] + [360])
    height = max(1, len(panels)) * PANEL + MARGIN // 2
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
    ]
    for number, (dedup, bars) in enumerate(panels):
        base = number * PANEL + MARGIN // 2 + 24 + HEIGHT
        out.append(f'<text x="{MARGIN}" y="{base - HEIGHT - 22}" font-weight="bold">{escape(titles[number])}</text>')
        out.append(f'<line x1="{MARGIN}" y1="{base}" x2="{width - MARGIN}" y2="{base}" stroke="black"/>')
        most = max(count for _, count, _ in bars)
        for i, (name, count, _) in enumerate(bars):
            x, tall = MARGIN + i * (BAR + GAP), round(HEIGHT * _height(count) / _height(most))
            out.append(f'<rect x="{x}" y="{base - tall}" width="{BAR}" height="{tall}" fill="#4477aa"/>')
            out.append(f'<text x="{x + BAR // 2}" y="{base - tall - 4}" text-anchor="middle">{count:,}</text>')
            out.append(f'<text x="{x + BAR // 2}" y="{base + 14}" text-anchor="middle">{name}</text>')
        axes = f"across: {'pieces' if dedup.method in PIECES else 'documents'} of a cluster; up: clusters, log scale"
        out.append(f'<text x="{width - MARGIN}" y="{base + 28}" text-anchor="end" fill="#666">{axes}</text>')
    if not panels:
        out.append(f'<text x="{MARGIN}" y="{MARGIN}">no document was removed</text>')
    return "\n".join([*out, "</svg>", ""])


def _title(dedup: DedupClusters) -> str:
    removed = f"{dedup.removed:,} of {dedup.documents:,} documents removed"
    return f"{dedup.name} ({dedup.method}): clusters by size; {removed}"


def write_svg(found: Clusters, path: str) -> None:
    """Write the picture to a local file. Raises UserError where that cannot be."""
    try:
        Path(path).write_text(sizes_svg(found))
    except OSError as error:
        raise UserError(f"--svg {path}: cannot be written: {error.strerror}") from None


def _height(count: int) -> float:
    """Of a bar, on a logarithmic scale on which one cluster is seen and none is not."""
    return math.log2(count + 1)
