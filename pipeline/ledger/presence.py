"""Which files of a run are there: folders are listed when one of their files is first asked for, and only then."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from pipeline import storage
from pipeline.ledger.index import UNIT_DEPTH, unit_of
from pipeline.ledger.table import ABSENT, PRESENT, UNKNOWN, Table
from pipeline.storage.backends import backend
from pipeline.storage.errors import from_os_error

AT_ONCE = 4096  # files


class Presence:
    """Sizes of files by the hash of their path in the run's folder, 16 bytes a file that was listed."""

    def __init__(self, run: str, table: Table) -> None:
        self.run, self.table = run, table
        self._listed: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._by_unit: tuple[np.ndarray, np.ndarray] | None = None  # outputs by folder, and the folder of each
        self._changed: dict[int, int | None] = {}  # what this process itself deleted, or no entry tells any more

    def of_outputs(self, row: int) -> bytearray:
        """States of an entry's outputs, none of them unknown."""
        table = self.table
        states = table.states(row)
        if UNKNOWN in states:
            names = list(table.units)
            for unit in {table.unit[n] for n in table.outputs(row) if table.state[n] == UNKNOWN}:
                self._mark(unit, names[unit])
            states = table.states(row)
        return states

    def _mark(self, number: int, unit: str) -> None:
        """Compare all outputs of one folder with what lies there."""
        hashes, sizes = self._list(unit)
        outputs = self._outputs_in(number)
        # Of the same memory as the table's columns: gone before these grow again.
        state, path, size = (
            np.frombuffer(column, kind)
            for column, kind in ((self.table.state, np.uint8), (self.table.path, np.int64), (self.table.size, np.int64))
        )
        outputs = outputs[state[outputs] == UNKNOWN]
        if len(hashes):
            wanted = path[outputs]
            place = np.minimum(np.searchsorted(hashes, wanted), len(hashes) - 1)
            there = (hashes[place] == wanted) & (sizes[place] == size[outputs])
        else:
            there = np.zeros(len(outputs), bool)
        state[outputs] = np.where(there, PRESENT, ABSENT)

    def _outputs_in(self, number: int) -> np.ndarray:
        """The outputs that lie in one folder, of those that were there when this was first asked; later ones are known."""
        if self._by_unit is None:
            units = np.array(self.table.unit, np.uint32)
            order = np.argsort(units, kind="stable").astype(np.uint32)
            self._by_unit = order, units[order]
        order, units = self._by_unit
        low, high = np.searchsorted(units, [number, number + 1])
        return order[low:high]

    def _list(self, unit: str) -> tuple[np.ndarray, np.ndarray]:
        if unit not in self._listed:
            hashes, sizes = array("q"), array("q")
            whole = len(unit.split("/")) >= UNIT_DEPTH
            for prefix, names, numbers in list_folder(self.run, unit, whole):
                hashes.extend([hash(prefix + name) for name in names])
                sizes.extend(numbers)
            column = np.array(hashes, np.int64)
            order = np.argsort(column)
            self._listed[unit] = column[order], np.array(sizes, np.int64)[order]
        return self._listed[unit]

    def size_of(self, path: str) -> int | None:
        """Size of a file of the run's folder; None where it is not there."""
        owner = self.table.owner(path)
        if owner and self.table.state[owner[1]] == PRESENT:
            return self.table.size[owner[1]]
        key = hash(path)
        if key in self._changed:
            return self._changed[key]
        hashes, sizes = self._list(unit_of(path))
        place = int(hashes.searchsorted(key))
        return int(sizes[place]) if place < len(hashes) and hashes[place] == key else None

    def deleted(self, path: str) -> None:
        """A file was removed."""
        owner = self.table.owner(path)
        if owner and self.table.state[owner[1]] == PRESENT:
            self.table.state[owner[1]] = ABSENT
        self._changed[hash(path)] = None

    def written(self, path: str) -> None:
        """A file was written, and an entry tells its size."""
        self._changed.pop(hash(path), None)

    def orphaned(self, row: int) -> None:
        """An entry is forgotten; its files are still there."""
        table = self.table
        for number in table.outputs(row):
            if table.state[number] == PRESENT:
                self._changed[table.path[number]] = table.size[number]


def list_folder(run: str, folder: str, whole: bool) -> Iterator[tuple[str, list[str], list[int]]]:
    """Files right in `folder` of a run (or with `whole`, anywhere below it), some at a time: a prefix, names that make
    paths in the run's folder with it, and sizes.

    Hidden names are left out: they are unfinished files.
    """
    uri = storage.join(run, folder) if folder else run
    prefix = f"{folder}/" if folder else ""
    if storage.is_local(run):
        yield from _list_local(storage.local_path(uri), prefix, whole)
        return
    start = len(uri) + 1
    store = backend(run)
    files = iter(store.list_tree(uri + "/") if whole else store.list_level(uri + "/", "")[1])
    while some := [(entry.uri[start:], entry.size) for entry in islice(files, AT_ONCE)]:
        shown = [(name, size) for name, size in some if not name.startswith(".") and "/." not in name]
        yield prefix, [name for name, _ in shown], [size for _, size in shown]


def _list_local(folder: Path, prefix: str, whole: bool) -> Iterator[tuple[str, list[str], list[int]]]:
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)  # names are then short for the system to look up
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise from_os_error(error, folder, "list") from None
    below: list[str] = []
    try:
        with os.scandir(descriptor) as items:
            while some := list(islice(items, AT_ONCE)):
                files = [item for item in some if not item.name.startswith(".") and not item.is_dir()]
                if len(files) < len(some):
                    below += [item.name for item in some if item.is_dir() and not item.name.startswith(".")]
                yield prefix, *_sizes(files)
    finally:
        os.close(descriptor)
    for name in below if whole else ():
        yield from _list_local(folder / name, f"{prefix}{name}/", whole)


def _sizes(files: list[os.DirEntry[str]]) -> tuple[list[str], list[int]]:
    try:
        return [item.name for item in files], [item.stat().st_size for item in files]
    except FileNotFoundError:  # removed since the folder was read
        there = [item for item in files if _exists(item)]
        return _sizes(there)


def _exists(item: os.DirEntry[str]) -> bool:
    try:
        item.stat()
        return True
    except FileNotFoundError:
        return False
