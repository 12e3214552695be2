"""The clusters of a run's dedups for people: tables on a terminal, and a picture of the sizes as SVG."""

from __future__ import annotations

import math
from html import escape
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.summary import plain_table
from stages.errors import UserError

BAR, GAP, HEIGHT, MARGIN, PANEL = 44, 8, 120, 48, 190  # pixels of the picture
LETTER = 7  # pixels of a bold letter, about
NOBODY = "(nobody named)"
PIECES = {"bff": "paragraph", "substring": "passage"}  # what the methods that cut texts cut out of them


def size_ranges(sizes: list[list[int]]) -> list[tuple[str, int, int]]:
    """(range, clusters, documents) by size: 2, 3, 4, then 5-8, 9-16 and so on; ranges up to the largest, empty ones too."""
    found: list[tuple[str, int, int]] = []
    low, high = 2, 2
    while sizes and low <= sizes[-1][0]:
        mine = [(size, count) for size, count in sizes if low <= size <= high]
        name = f"{low:,}" if low == high else f"{low:,}-{high:,}"
        found.append((name, sum(count for _, count in mine), sum(size * count for size, count in mine)))
        low, high = high + 1, high + 1 if high < 4 else 2 * high
    return found


def show_clusters(found: dict[str, Any], console: Console) -> None:
    """Print what `clusters` found."""
    for dedup in found["dedups"]:
        share = dedup["removed"] / max(dedup["documents"], 1)
        pieces = PIECES.get(dedup["method"], "paragraph") + "s"
        cut = f", and {dedup['paragraphs']:,} {pieces} of others" if dedup["paragraphs"] else ""
        console.rule(f"dedup {dedup['name']} ({dedup['method']})", align="left", characters="=")
        console.print(f"removed {dedup['removed']:,} of {dedup['documents']:,} documents ({share:.1%}){cut}", highlight=False)
        if not dedup["lost"]:
            continue
        cuts = dedup["method"] in PIECES
        console.print("size: the document that stays, and what was removed for it", highlight=False)
        sizes = plain_table("clusters by size")
        for heading in ("size", "clusters", "pieces" if cuts else "documents"):
            sizes.add_column(heading, justify="right")
        for name, count, documents in size_ranges(dedup["sizes"]):
            if count:
                sizes.add_row(name, f"{count:,}", f"{documents:,}")
        console.print(sizes)
        lost = plain_table("lost by a source")
        lost.add_column("source")
        lost.add_column("to")
        lost.add_column("documents", justify="right")
        if dedup["paragraphs"]:
            lost.add_column(pieces, justify="right")
        for source, kept, documents, paragraphs in dedup["lost"]:
            cells = [source, kept or NOBODY, f"{documents:,}", f"{paragraphs:,}"]
            lost.add_row(*cells[: len(lost.columns)])
        console.print(lost)
        for one in dedup["largest"]:
            sources = ", ".join(f"{count:,} of {source}" for source, count in one["by_source"].items())
            count, s = one["size"] - 1, "" if one["size"] == 2 else "s"
            kind = f"piece{s} of text removed that one document held first" if cuts else f"document{s} removed for one that stays"
            console.print(f"{count:,} {kind}: {sources}", style="bold", markup=False, highlight=False)
            _show_piece("kept   ", one["kept"], console)
            for piece in one["removed"]:
                _show_piece("removed", piece, console, pieces[:-1])
            console.print()


def _show_piece(what: str, piece: dict[str, Any], console: Console, name_of_cut: str = "paragraph") -> None:
    name = "its text was let go (run.keep)" if piece["id"] is None else piece["id"]
    paragraph = f"a {name_of_cut} of " if piece.get("what") == "paragraph" else ""
    where = f"{piece['source']}; {piece['file']}, record {piece['record']}"
    console.print(f"  {what} {paragraph}{name} ({where})", markup=False, highlight=False)
    if piece["text"] is not None:
        text = " ".join(piece["text"].split())
        console.print(f"    {text[:150]}{'...' if len(text) > 150 else ''}", markup=False, highlight=False, style="dim")


def sizes_svg(found: dict[str, Any]) -> str:
    """A picture: of each dedup that removed something, bars of how many clusters there are of each size."""
    panels = [(d, size_ranges(d["sizes"])) for d in found["dedups"] if d["sizes"]]
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
        axes = f"across: {'pieces' if dedup['method'] in PIECES else 'documents'} of a cluster; up: clusters, log scale"
        out.append(f'<text x="{width - MARGIN}" y="{base + 28}" text-anchor="end" fill="#666">{axes}</text>')
    if not panels:
        out.append(f'<text x="{MARGIN}" y="{MARGIN}">no document was removed</text>')
    return "\n".join([*out, "</svg>", ""])


def _title(dedup: dict[str, Any]) -> str:
    removed = f"{dedup['removed']:,} of {dedup['documents']:,} documents removed"
    return f"{dedup['name']} ({dedup['method']}): clusters by size; {removed}"


def write_svg(found: dict[str, Any], path: str) -> None:
    """Write the picture to a local file. Raises UserError where that cannot be."""
    try:
        Path(path).write_text(sizes_svg(found))
    except OSError as error:
        raise UserError(f"--svg {path}: cannot be written: {error.strerror}") from None


def _height(count: int) -> float:
    """Of a bar, on a logarithmic scale on which one cluster is seen and none is not."""
    return math.log2(count + 1)
