"""The arrays that the HTML kernels work on: names of their columns, and the workspace that holds them.

    out     uint8[...]            text of all blocks, one behind the other
    s       int64[STATE]          where the parser is (names below)
    stack   int32[DEPTH, ...]     open elements that matter: blocks, and inline elements with a meaning of their own
    el      int32[elements, ...]  block elements in the order of their start tags
    bl      int32[blocks, ...]    blocks of text in their order
    tok     uint32[...]           hashes of class, id, role and itemprop names, of elements and of blocks
    notes   int32[NOTES, 3]       what the page says of itself: (META_*, start, stop) in the page's bytes
    opens   int32[1024]           how many open elements there are of each name
    spans   int32[...]            scratch of `read_attributes`
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stages.kernels.html_tables import ATTRIBUTES

DEPTH = 512  # of open elements, as browsers have it; what is nested deeper stands in the last one
NOTES = 256
ELEMENT_TOKENS = 24  # names kept of one element
BLOCK_TOKENS = 8  # names kept of the inline elements of one block

# State.
(W, B0, PEND, BREAKS, NE, NB, NT, SP, NN, LINK, LINK_FROM, LINK_BYTES, MUTE, OWNER, FLAGS, BLOCK_TOK, RENDER_START,
 RENDER_END, RENDER_PEND, FORMULA_START, FORMULA_END, APART, CODE, CODE_KEPT, PRE, NEWLINE, SKIPPED, SKIP_COUNT, TEX_START,
 TEX_STOP, TEX_DISPLAY, MATH, RENDERINGS, DISPLAYS, FULL, IMAGES, SOURCE, NO_END, DELIMITER, RENDER_BLOCK,
 STATE) = range(41)  # fmt: skip

# Open elements: where in `opens`, tag, nearest element of `el`, meaning, text written before it, space pending before it,
# children so far, BLOCK or another kind of tag.
S_OPEN, S_TAG, S_ELEMENT, S_FLAGS, S_MARK, S_PEND, S_CHILDREN, S_KIND, STACK = range(9)

# Meanings of an open element beyond those of classes (html_tables).
IS_SUP, IS_SUB, IS_MATH, IS_CODE, IS_PRE, IS_MUTED, IS_GROUP, IS_ROOT = (1 << bit for bit in range(9, 17))

# Elements.
(E_PARENT, E_TAG, E_DEPTH, E_TOK, E_TOKS, E_FIRST, E_LAST, E_FLAGS, E_GROUPS, E_CELL, E_ROW, E_TABLE, E_ITEM, E_LIST,
 E_NUMBER, E_CHILDREN, ELEMENT) = range(17)  # fmt: skip

# Blocks.
(B_START, B_STOP, B_ELEMENT, B_LINK, B_FLAGS, B_TOK, B_TOKS, B_SOURCE, B_IMAGES, BLOCK_COLUMNS) = range(10)

# What a block holds: bits of B_FLAGS.
(HAS_LINK, HAS_BOLD, HAS_ITALIC, HAS_CODE, HAS_TIME, HAS_BUTTON, HAS_LABEL, HAS_SMALL, HAS_SPAN, HAS_IMAGE, HAS_BREAK,
 HAS_PRE, HAS_MATH, HAS_SUP, HAS_QUOTE, ALL_CODE, AFTER_BREAK) = (1 << bit for bit in range(17))  # fmt: skip


@dataclass(frozen=True)
class Workspace:
    """Arrays for pages of up to `page_bytes` bytes, `elements` block elements and as many blocks."""

    page_bytes: int
    out: np.ndarray
    s: np.ndarray
    stack: np.ndarray
    el: np.ndarray
    bl: np.ndarray
    tok: np.ndarray
    notes: np.ndarray
    opens: np.ndarray
    spans: np.ndarray

    @classmethod
    def of_size(cls, page_bytes: int, elements: int) -> Workspace:
        """Allocate. What is not touched takes no memory."""
        return cls(
            page_bytes,
            np.empty(2 * page_bytes + 4096, np.uint8),
            np.zeros(STATE, np.int64),
            np.zeros((DEPTH, STACK), np.int32),
            np.empty((elements, ELEMENT), np.int32),
            np.empty((elements, BLOCK_COLUMNS), np.int32),
            np.empty(8 * elements + 64, np.uint32),
            np.zeros((NOTES, 3), np.int32),
            np.zeros(1024, np.int32),
            np.zeros((len(ATTRIBUTES), 2), np.int32),
        )

    def arrays(self) -> tuple[np.ndarray, ...]:
        """The arrays in the order in which `html_blocks` takes them."""
        return self.out, self.s, self.stack, self.el, self.bl, self.tok, self.notes, self.opens, self.spans
