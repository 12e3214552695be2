"""The ledger of a run: which tasks are done, and what they left. What a rerun may skip, it finds here.

RUN/ledger/ holds segments (`segment`) of checksummed lines (`lines`), to which the run's driver alone adds (`tail`), and
which are put together now and then (`compact`). In memory are columns (`table`); entries are read when they are asked for.
A task counts as done when its entry is there and its outputs are there in the size that the entry names, but for those let
go on purpose (`released`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import islice
from types import TracebackType
from typing import TypeVar

import msgspec

from pipeline import storage
from pipeline.ledger.compact import compact
from pipeline.ledger.entry import Basis, Entry, Forget, Record, Ref, Release, similar_hash
from pipeline.ledger.opening import open_segments, seal_left
from pipeline.ledger.presence import Presence, list_folder
from pipeline.ledger.segment import FOLDER, Segment, Spill
from pipeline.ledger.table import ABSENT, RELEASED, Table
from pipeline.ledger.tail import LocalTail, Names, Place, RemoteTail, Tail
from stages.errors import UserError

PARTS = "parts"  # where all interim files lie
OURS = re.compile(  # names of interim files: by place and key, or, of a dedup's calls, by kind and numbers
    PARTS + r"/(.+/\d{5}-[0-9a-f]{32}\.[\w.]+|dedup/.+/[a-z][a-z_-]*(-\d+)+(\.\w+)?)"
)
BATCH = 1000  # keys or files that are named in one record or request
TRIES = 5

T = TypeVar("T")


class Ledger:
    """The ledger of one run's folder. Closed at the end of a `with`.

    One that is opened for reading writes nothing, and may be opened while the run goes on, on another machine too; it
    tells what was there when it was opened. notes: what was not as a clean end leaves it, a sentence each.
    """

    def __init__(self, run: str, *, writable: bool = False, still_ours: Callable[[], None] | None = None) -> None:
        """writable: the run's lock is held. still_ours: raises where it was lost; asked before files are put together.

        Raises UserError for a ledger that is damaged, or of another version.
        """
        self.run = run.rstrip("/")
        self.folder = storage.join(self.run, FOLDER)
        self.notes: list[str] = []
        self._still_ours = still_ours or (lambda: None)
        self._tail: Tail | None = None
        self._spill, self._tail_spill = Spill(), Spill()
        self._segments: list[Segment] = []
        self._order: list[int] = []  # of the segments that count, oldest first
        self._open(writable)

    def _open(self, writable: bool) -> None:
        self._let_go()
        opened = open_segments(self.run, self._spill)
        self.table = Table()
        self.presence = Presence(self.run, self.table)
        if writable:
            seal_left(opened)
            self.notes += opened.notes
        while opened.segments:
            segment, index = opened.segments.pop(0)
            self.table.load(self._opened(segment), index)
        self.table.settle()
        if writable:
            self._still_ours()
            storage.delete_many(opened.needless)
            self._names = Names(self.folder, opened.listing.epoch + 1)
            self._names.claim()
            if storage.is_local(self.run):
                self._tail = LocalTail(self.folder, self._names, self._opened)
            else:
                self._tail = RemoteTail(self.folder, self._names, self._opened, self._tail_spill)
            self._compact()

    def _opened(self, segment: Segment) -> int:
        self._segments.append(segment)
        self._order.append(len(self._segments) - 1)
        self.table.live_bytes += [0] * (len(self._segments) - len(self.table.live_bytes))
        return len(self._segments) - 1

    def _compact(self) -> None:
        self._order = compact(self.folder, self._segments, self._order, self.table, self._names.next, self._spill)

    # What is there

    def find(self, key: str) -> Entry | None:
        """The entry of a task that is done, or None."""
        return self._reading(lambda: self._find(bytes.fromhex(key)))

    def _find(self, key: bytes) -> Entry | None:
        row = self.table.rows.get(key)
        if row is None or ABSENT in self.presence.of_outputs(row):
            return None
        return self._entry(row)

    def entry(self, key: str) -> Entry | None:
        """The entry of a task, also where its outputs are gone; None where there is none."""
        return self._reading(lambda: self._of_key(bytes.fromhex(key)))

    def _of_key(self, key: bytes) -> Entry | None:
        row = self.table.rows.get(key)
        return None if row is None else self._entry(row)

    def latest(self, ref: Ref) -> Entry | None:
        """The entry that was added last with this Ref, under any key; its outputs may be gone."""
        return self._reading(lambda: self._latest(ref))

    def _latest(self, ref: Ref) -> Entry | None:
        for row in self.table.by_ref.numbers(ref.hash()):
            if self.table.alive[row] and (entry := self._entry(row)).ref == ref:
                return entry
        return None

    def lender(self, similar: str | None) -> Entry | None:
        """An entry that measured the same documents the same way under other limits, all its parts still there."""
        return self._reading(lambda: self._lender(similar)) if similar else None

    def _lender(self, similar: str | None) -> Entry | None:
        for row in self.table.by_similar.numbers(similar_hash(similar)):
            if not self.table.alive[row]:
                continue
            states = self.presence.of_outputs(row)
            if ABSENT in states or RELEASED in states:
                continue
            if (entry := self._entry(row)).similar == similar:
                return entry
        return None

    def released(self, path: str) -> str | None:
        """The key of the task whose output this was, if it was let go."""
        return self._reading(lambda: self._released(path))

    def _released(self, path: str) -> str | None:
        owner = self.table.owner(path)
        if owner is None or self.table.state[owner[1]] != RELEASED:
            return None
        return self._entry(owner[0]).key

    def size_of(self, path: str) -> int | None:
        """Bytes of a file of the run's folder, None where there is none."""
        return self.presence.size_of(path)

    def basis(self, name: str) -> dict[str, str] | None:
        """The named components of a basis."""
        return self._reading(lambda: self._basis(name))

    def _basis(self, name: str) -> dict[str, str] | None:
        place = self.table.bases.get(name)
        return self._segments[place[0]].basis(place[1], place[2]).components if place else None

    def count(self) -> int:
        """How many entries there are."""
        return len(self.table.rows)

    def keys(self) -> list[str]:
        """The keys of all entries, in the order in which they were added."""
        return [key.hex() for key, _ in sorted(self.table.rows.items(), key=lambda row: row[1])]

    def output_bytes(self) -> int:
        """Bytes of all outputs that were not let go, as their entries tell them: nothing is listed."""
        return self.table.output_bytes()

    def entries(self) -> Iterator[Entry]:
        """All entries, in the order in which they were added; one at a time in memory."""
        row, stop, last = 0, len(self.table.alive), b""
        while (row := self.table.alive.find(1, row, stop)) >= 0:
            try:
                entry = self._entry(row)
            except storage.MissingError:
                if self._tail is not None:
                    raise
                row, stop = self._again(last)
                continue
            row, last = row + 1, bytes.fromhex(entry.key)
            yield entry

    def _again(self, last: bytes) -> tuple[int, int]:
        """Open anew, because the run has put segments together: where to go on after a key, and where to stop."""
        self._open(writable=False)
        if last and last not in self.table.rows:
            raise UserError(f"{self.folder}: was swept while it was read; ask again")
        return self.table.rows[last] + 1 if last else 0, len(self.table.alive)

    def _reading(self, ask: Callable[[], T]) -> T:
        """What `ask` returns; where the run has put together what it reads, it is opened anew."""
        for _ in range(TRIES - 1):
            try:
                return ask()
            except storage.MissingError:
                if self._tail is not None:
                    raise
                self._open(writable=False)
        return ask()

    def _entry(self, row: int) -> Entry:
        table = self.table
        entry = self._segments[table.segment[row]].entry(table.offset[row], table.length[row])
        states = table.states(row)
        if RELEASED in states:
            entry.released = [o.path for o, state in zip(entry.outputs, states, strict=True) if state == RELEASED]
        return entry

    # What changes it

    def add(self, entry: Entry) -> None:
        """Take in the entry of a task that has just finished, its outputs being there.

        Entries of other keys that wrote one of its outputs are forgotten: no entry may vouch for others' bytes.
        """
        if len(bytes.fromhex(entry.key)) != 16:
            raise ValueError(f"not a key of 32 hex digits: {entry.key}")
        self.make_room([output.path for output in entry.outputs], but=entry.key)
        self._forgotten([bytes.fromhex(entry.key)])
        self.table.add(entry, *self._append(entry))
        for output in entry.outputs:
            self.presence.written(output.path)

    def add_basis(self, name: str, components: dict[str, str]) -> None:
        """Keep what a basis is made of; once for each hash."""
        if name not in self.table.bases:
            self.table.bases[name] = self._append(Basis(name, components))

    def make_room(self, paths: Iterable[str], *, but: str | None = None) -> None:
        """Forget entries (all `but` one) whose outputs are about to be written over, before they are."""
        keys: set[str] = set()
        spared = None if but is None else self.table.rows.get(bytes.fromhex(but))
        for path in paths:
            owner = self.table.owner(path)
            if owner and owner[0] != spared:
                keys.add(self._entry(owner[0]).key)
        self.forget(sorted(keys))

    def forget(self, keys: Collection[str]) -> None:
        """Remove entries. Their outputs stay."""
        there = [key for key in keys if bytes.fromhex(key) in self.table.rows]
        for start in range(0, len(there), BATCH):
            self._append(Forget(there[start : start + BATCH]))
        if there:
            self.flush()
        self._forgotten([bytes.fromhex(key) for key in there])
        self.table.forget(bytes.fromhex(key) for key in there)

    def _forgotten(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if (row := self.table.rows.get(key)) is not None:
                self.presence.orphaned(row)

    def release(self, outputs: Iterable[tuple[str, list[str]]]) -> None:
        """Let outputs of done tasks go, given as (key, paths): it is recorded first, then they are removed.

        What was recorded before a kill, and not yet removed, is removed too. Raises KeyError for a key without an entry.
        """
        every = iter(outputs)
        while batch := list(islice(every, BATCH)):
            self._release(batch)

    def _release(self, batch: list[tuple[str, list[str]]]) -> None:
        table, items, there = self.table, [], []
        for key, paths in batch:
            row = table.rows[bytes.fromhex(key)]
            states = {table.path[number]: table.state[number] for number in table.outputs(row)}
            if unknown := [path for path in paths if hash(path) not in states]:
                raise ValueError(f"{unknown[0]} is no output of the task {key}")
            new = [path for path in paths if states[hash(path)] != RELEASED]
            items += [(key, new)] if new else []
            there += [path for path in paths if self.size_of(path) is not None]
        if items:
            self._append(Release(items))
            self.flush()
        for key, paths in items:
            table.mark_released(table.rows[bytes.fromhex(key)], paths)
        self._delete(there)

    def sweep(self, used: Collection[str]) -> int:
        """Remove entries of other settings, and their outputs, once a run is whole. Returns how many entries went.

        Parts of which no entry tells go too, by their names: their tasks were killed before they were done, and never ran
        again. Files of other names are somebody else's.
        """
        keep = {bytes.fromhex(key) for key in used}
        stale = [key for key in self.table.rows if key not in keep]
        # Entries go last: where a kill comes between, they still say what is there to be removed.
        rows = (self.table.rows[key] for key in stale)
        every = (output.path for row in rows for output in self._entry(row).outputs)  # no other entry names them
        while batch := list(islice(every, BATCH)):
            self._delete(batch)
        for prefix, names, _ in list_folder(self.run, PARTS, whole=True):
            ours = (path for name in names if OURS.fullmatch(path := prefix + name))
            self._delete([path for path in ours if self.table.owner(path) is None])
        self.forget([key.hex() for key in stale])
        return len(stale)

    def _delete(self, paths: list[str]) -> None:
        storage.delete_many([storage.join(self.run, path) for path in paths])
        for path in paths:
            self.presence.deleted(path)

    def _append(self, record: Record) -> Place:
        if self._tail is None:
            raise RuntimeError(f"{self.folder} is open for reading only")
        return self._tail.append(record)

    def flush(self) -> None:
        """All that was added outlasts a kill of this process, and of its machine."""
        if self._tail is not None:
            self._tail.sync()

    def close(self) -> None:
        """Write what is left to be written, and put together what has become garbage; nothing may be asked after it."""
        self._close(tidy=True)

    def _close(self, tidy: bool) -> None:
        tail, self._tail = self._tail, None
        try:
            if tail is not None:
                tail.close()
                if tidy and self._segments:
                    self._still_ours()
                    self._compact()
                self._names.drop()
        finally:
            self._let_go()
            self._spill.close()
            self._tail_spill.close()

    def _let_go(self) -> None:
        for segment in self._segments:
            segment.close()
        self._segments, self._order = [], []

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close(tidy=error is None)


def report_of(value: object) -> msgspec.Raw:
    """A report as an entry holds it."""
    return msgspec.Raw(msgspec.json.encode(value))
