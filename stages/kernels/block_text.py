"""The text of a page from the blocks that are kept: paragraphs, lists, tables and code in a plain form.

Paragraphs are parted by an empty line. Items of lists begin with `- ` or their number, two spaces further in for each
list around them. A table's row is a line, its cells parted by tabs, an empty cell included; a table that lays out
paragraphs is none: its cells are paragraphs. Code keeps its lines.
"""

from __future__ import annotations

import numpy as np

from stages.kernels import html_layout as L
from stages.kernels.compile import kernel, light
from stages.kernels.html_tables import TAG
from stages.kernels.utf8 import append

_OL, _LI, _PRE = (TAG[name] for name in ("ol", "li", "pre"))
LONG_CELL = 400  # bytes of text above which a cell is no datum
MOST_INDENT = 8  # levels of lists that are told apart
SEPARATOR_BYTES = 2 * MOST_INDENT + 40  # most bytes before one block
_LAYOUT = 1


@light
def _find_layout_tables(el, bl, blocks):
    """Set E_NUMBER of each table to _LAYOUT where its cells hold paragraphs."""
    cell = np.int64(-1)
    in_cell = size = np.int64(0)
    for b in range(blocks):
        element = bl[b, L.B_ELEMENT]
        if el[element, L.E_TABLE] < 0 or el[element, L.E_CELL] < 0:
            continue
        if el[element, L.E_CELL] != cell:
            cell = np.int64(el[element, L.E_CELL])
            in_cell = size = 0
        in_cell += 1
        size += bl[b, L.B_STOP] - bl[b, L.B_START]
        if (in_cell > 3 or size > LONG_CELL) and not bl[b, L.B_FLAGS] & L.HAS_PRE:
            el[el[element, L.E_TABLE], L.E_NUMBER] = _LAYOUT


@light
def _write(dest, at, byte, count):
    for i in range(count):
        dest[at + i] = byte
    return at + count


@light
def _write_number(dest, at, number):
    size = 1
    rest = number
    while rest >= 10:
        rest //= 10
        size += 1
    for i in range(size):
        dest[at + size - 1 - i] = 0x30 + number % 10
        number //= 10
    return at + size


@light
def _in_table(el, element):
    """The table of data that an element is a cell's content of; -1 for none."""
    table = np.int64(el[element, L.E_TABLE])
    if table < 0 or el[element, L.E_CELL] < 0 or el[element, L.E_ROW] < 0 or el[table, L.E_NUMBER] == _LAYOUT:
        return np.int64(-1)
    return table


@light
def _separate(dest, at, el, bl, before, b):
    """Write what stands between the kept blocks `before` (-1: none) and b."""
    element = bl[b, L.B_ELEMENT]
    table = _in_table(el, element)
    level = min(np.int64(el[element, L.E_LIST]), np.int64(MOST_INDENT))
    item = el[element, L.E_ITEM] if level else -1
    if before >= 0:
        last = bl[before, L.B_ELEMENT]
        both_code = bl[b, L.B_FLAGS] & L.HAS_PRE and bl[before, L.B_FLAGS] & L.HAS_PRE
        newlines = 2
        if table >= 0 and table == _in_table(el, last):
            if el[element, L.E_CELL] == el[last, L.E_CELL]:
                return _write(dest, at, 0x0A if both_code else 0x20, 1)
            if el[element, L.E_ROW] == el[last, L.E_ROW]:
                columns = el[el[element, L.E_CELL], L.E_NUMBER] - el[el[last, L.E_CELL], L.E_NUMBER]
                return _write(dest, at, 0x09, min(max(columns, 1), 16))
            newlines = 1
        elif (level and el[last, L.E_LIST]) or _are_lines(el, bl, before, b):
            newlines = 1
        at = _write(dest, at, 0x0A, newlines)
    if table >= 0 and not bl[b, L.B_FLAGS] & L.HAS_PRE:
        return _write(dest, at, 0x09, min(el[el[element, L.E_CELL], L.E_NUMBER], 16))
    if level:
        at = _write(dest, at, 0x20, 2 * (level - 1))
    if item >= 0 and el[item, L.E_TAG] == _LI:
        if el[item, L.E_CHILDREN] >= 0:
            el[item, L.E_CHILDREN] = -1  # has its sign
            parent = el[item, L.E_PARENT]
            if parent >= 0 and el[parent, L.E_TAG] == _OL:
                at = _write_number(dest, at, np.int64(el[item, L.E_NUMBER]))
                at = _write(dest, at, 0x2E, 1)
            else:
                at = _write(dest, at, 0x2D, 1)
            return _write(dest, at, 0x20, 1)
        return _write(dest, at, 0x20, 2)
    return at


@light
def _are_lines(el, bl, before, b):
    """Whether two blocks are lines of one piece of code: preformatted, in elements of one tag below one element."""
    one, other = bl[before, L.B_ELEMENT], bl[b, L.B_ELEMENT]
    if not (bl[b, L.B_FLAGS] & L.HAS_PRE and bl[before, L.B_FLAGS] & L.HAS_PRE):
        return False
    if el[one, L.E_TAG] != el[other, L.E_TAG] or el[one, L.E_TAG] == _PRE:
        return False
    if el[one, L.E_TABLE] >= 0:
        return el[one, L.E_TABLE] == el[other, L.E_TABLE]
    return el[one, L.E_PARENT] == el[other, L.E_PARENT]


@kernel("int64(vec_uint8, vec_int64, int32[:, ::1], int32[:, ::1], vec_uint8, vec_uint8)")
def block_text(out, s, el, bl, kept, dest):
    """Write the text of the blocks whose `kept` is not 0 to `dest`; returns its bytes.

    `dest` must hold the text and SEPARATOR_BYTES for each block. Once only for a parsed page: it marks `el`.
    """
    blocks = s[L.NB]
    _find_layout_tables(el, bl, blocks)
    at = np.int64(0)
    before = np.int64(-1)
    for b in range(blocks):
        if kept[b]:
            at = _separate(dest, at, el, bl, before, b)
            at = append(dest, at, out, bl[b, L.B_START], bl[b, L.B_STOP])
            before = np.int64(b)
    return at
