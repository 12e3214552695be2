"""The engine `blocks`: the main text of a page by a model of its blocks of text, compiled, in this process.

One pass over the bytes gives blocks of text (`html_blocks`), two stages of a model say how likely each belongs to the main
text (`linear_scores`, `tree_scores`), a decision relative to the page keeps some (`keep_blocks`), and what is kept is
written as text (`block_text`). Time and memory are linear in the page's size, whatever it holds: nothing recurses, nothing
backtracks, and a page with more elements than MOST_ELEMENTS is refused. So no process of its own is needed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from stages.charset import Decoded
from stages.errors import DocumentFailure
from stages.extract.block_model import BlockModel, default_model
from stages.extract.page_metadata import PageMetadata, read_metadata
from stages.kernels import html_layout as L
from stages.kernels.block_decide import keep_blocks
from stages.kernels.block_dense import tree_scores
from stages.kernels.block_hashes import linear_scores
from stages.kernels.block_stats import STATS, SUMS, block_stats
from stages.kernels.block_text import SEPARATOR_BYTES, block_text
from stages.kernels.html_blocks import html_blocks
from stages.kernels.html_tables import TAG, references

MOST_ELEMENTS = 1 << 20
DELIMITERS = {"dollars": 0, "brackets": 1, "none": 2}
_PAD = bytes(8)


class PageTooComplex(ValueError):
    """A page with more than MOST_ELEMENTS block elements or blocks of text."""


@dataclass(frozen=True)
class Options:
    """What the recipe says of the engine."""

    math: str = "dollars"  # what stands around TeX: a key of DELIMITERS
    headline: bool = False  # whether the page's first <h1> is text


class Parsed:
    """The blocks of one page after another, in arrays that are allocated once. Not for several threads at once."""

    def __init__(self, page_bytes: int) -> None:
        self.workspace = L.Workspace.of_size(page_bytes, MOST_ELEMENTS)
        self.stats = np.empty((MOST_ELEMENTS, STATS), np.int32)
        self.sums = np.empty((MOST_ELEMENTS, SUMS), np.float32)
        self.first, self.second = np.empty(MOST_ELEMENTS, np.float32), np.empty(MOST_ELEMENTS, np.float32)
        self.kept = np.empty(MOST_ELEMENTS, np.uint8)
        self.blocks = 0
        self.page = b""

    def parse(self, page: bytes, math: str = "dollars") -> None:
        """Parse a page (UTF-8). Raises PageTooComplex."""
        names, values = references()
        data = np.frombuffer(page + _PAD, np.uint8)
        html_blocks(data, 0, len(page), DELIMITERS[math], names, values, *self.workspace.arrays())
        if self.workspace.s[L.FULL]:
            raise PageTooComplex(f"the page has more than {MOST_ELEMENTS:,} elements or blocks of text")
        self.page, self.blocks = page, int(self.workspace.s[L.NB])
        w = self.workspace
        if self.blocks:
            block_stats(data, w.out, w.s, w.el, w.bl, w.tok, w.notes, self.stats, self.sums)

    def score(self, model: BlockModel) -> np.ndarray:
        """The probability of each block (float32), valid until the next page."""
        w = self.workspace
        if self.blocks:
            linear_scores(
                w.out, w.s, w.el, w.bl, w.tok, self.stats, model.weights, np.float32(model.scale), np.float32(model.bias),
                self.first,
            )  # fmt: skip
            tree_scores(
                w.s, w.el, w.bl, self.stats, self.sums, self.first, model.roots, model.depths, model.nodes, model.numbers,
                self.second,
            )  # fmt: skip
        return self.second[: self.blocks]

    def decide(self, scores: np.ndarray, limit: float, share: float, headline: bool = False) -> np.ndarray:
        """Which blocks are kept (uint8), valid until the next page."""
        w = self.workspace
        keep_blocks(w.s, w.el, w.bl, self.stats, scores, limit, share, headline, self.kept)
        return self.kept[: self.blocks]

    def text(self) -> bytes:
        """The text of the blocks that are kept, UTF-8; once only for each page."""
        w = self.workspace
        dest = np.empty(int(w.s[L.B0]) + self.blocks * SEPARATOR_BYTES, np.uint8)
        size = block_text(w.out, w.s, w.el, w.bl, self.kept, dest)
        return dest[:size].tobytes()

    def block(self, number: int) -> str:
        """The text of one block."""
        row = self.workspace.bl[number]
        return self.workspace.out[row[L.B_START] : row[L.B_STOP]].tobytes().decode("utf-8", "replace")

    def tags(self) -> np.ndarray:
        """The tag of each block's element (int32), as html_tables numbers them."""
        w = self.workspace
        return w.el[w.bl[: self.blocks, L.B_ELEMENT], L.E_TAG]

    def metadata(self) -> PageMetadata:
        """What the page says of itself."""
        w = self.workspace
        headings = self.tags() == TAG["h1"]
        first = int(headings.argmax()) if self.blocks else 0
        heading = self.block(first) if self.blocks and headings[first] else None
        return read_metadata(self.page, w.notes[: int(w.s[L.NN])].tolist(), heading)


@dataclass
class Extracted:
    """What became of some pages, in their order: text (empty for one that failed), metadata, and the failures."""

    texts: list[bytes]
    replaced: list[int]  # characters of each page put for bytes that mean nothing
    metadata: list[PageMetadata]
    failures: list[DocumentFailure]  # `row` is the page's position


def extract_pages(pages: Iterable[Decoded], options: Options) -> Extracted:
    """Main text and metadata of decoded pages."""
    found = Extracted([], [], [], [])
    for row, page in enumerate(pages):
        try:
            text, metadata = extract_page(page.text.encode("utf-8", "replace"), options)
        except PageTooComplex as error:
            found.failures.append(DocumentFailure(row, f"PageTooComplex: {error}", ""))
            text, metadata = b"", PageMetadata()
        found.texts.append(text)
        found.replaced.append(page.replaced)
        found.metadata.append(metadata)
    return found


_HERE = threading.local()


def parsed(page_bytes: int) -> Parsed:
    """This thread's arrays, for pages of up to that size."""
    held: Parsed | None = getattr(_HERE, "parsed", None)
    if held is None or held.workspace.page_bytes < page_bytes:
        held = _HERE.parsed = Parsed(page_bytes)
    return held


def extract_page(page: bytes, options: Options | None = None, model: BlockModel | None = None) -> tuple[bytes, PageMetadata]:
    """Main text (UTF-8) and metadata of a page of HTML in UTF-8. Raises PageTooComplex."""
    options, model = options or Options(), model or default_model()
    here = parsed(max(1 << 20, 1 << len(page).bit_length()))
    here.parse(page, options.math)
    here.decide(here.score(model), model.limit, model.share, options.headline)
    return here.text(), here.metadata()


def prepare() -> None:
    """Load the model and the kernels."""
    extract_page(b"<p>")
