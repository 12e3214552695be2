"""What a ledger must answer, as plain dicts: the oracle of the tests."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

from pipeline.ledger import Entry, Output, Ref, report_of
from pipeline.ledger.ledger import OURS


def key_of(number: int) -> str:
    return f"{number:032x}"


def make_entry(
    number: int, paths: dict[str, int], *, stage: str = "0", similar: str | None = None, report: object = None
) -> Entry:
    """An entry of key `number` with outputs of the given sizes."""
    outputs = [Output(path, size, f"{size:032x}") for path, size in paths.items()]
    ref = Ref("map", "web", stage, number)
    return Entry(
        key_of(number), ref, "basis", "in", similar, outputs, [], 1.5, 1.25, 2**40, "a", "then", report=report_of(report)
    )


@dataclass
class Model:
    """files: path -> bytes. entries: in the order in which they were added. Each change that is one record is in history."""

    files: dict[str, int] = field(default_factory=dict)
    entries: dict[str, Entry] = field(default_factory=dict)
    bases: dict[str, dict[str, str]] = field(default_factory=dict)
    history: list[tuple[dict[str, Entry], dict[str, dict[str, str]]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.record()

    def record(self) -> None:
        self.history.append((copy.deepcopy(self.entries), copy.deepcopy(self.bases)))

    def roll_back(self, records: int) -> None:
        """The last records were lost. What was done to files was done."""
        if records:
            del self.history[-records:]
        self.entries, self.bases = copy.deepcopy(self.history[-1])

    def find(self, key: str) -> Entry | None:
        entry = self.entries.get(key)
        return entry if entry and self.present(entry) else None

    def present(self, entry: Entry) -> bool:
        return all(self.files.get(o.path) == o.bytes for o in entry.outputs if o.path not in entry.released)

    def latest(self, ref: Ref) -> Entry | None:
        return next((entry for entry in reversed(self.entries.values()) if entry.ref == ref), None)

    def lender(self, similar: str) -> Entry | None:
        found = (
            e for e in reversed(self.entries.values()) if e.similar == similar and not e.released and self.present(e)
        )
        return next(found, None)

    def owner(self, path: str) -> Entry | None:
        return next((e for e in self.entries.values() if any(o.path == path for o in e.outputs)), None)

    def released(self, path: str) -> str | None:
        owner = self.owner(path)
        return owner.key if owner and path in owner.released else None

    def add(self, entry: Entry) -> None:
        self.make_room([o.path for o in entry.outputs], but=entry.key)
        self.entries.pop(entry.key, None)
        self.entries[entry.key] = copy.deepcopy(entry)
        self.record()

    def add_basis(self, name: str, components: dict[str, str]) -> None:
        if name not in self.bases:
            self.bases[name] = components
            self.record()

    def make_room(self, paths: list[str], but: str = "") -> None:
        self.forget([e.key for p in paths if (e := self.owner(p)) and e.key != but])

    def forget(self, keys: list[str]) -> None:
        if there := [key for key in keys if key in self.entries]:
            for key in there:
                self.entries.pop(key, None)
            self.record()

    def release(self, outputs: list[tuple[str, list[str]]]) -> None:
        new = False
        for key, paths in outputs:
            entry = self.entries[key]
            new |= any(path not in entry.released for path in paths)
            entry.released = [o.path for o in entry.outputs if o.path in {*entry.released, *paths}]
            for path in paths:
                self.files.pop(path, None)
        if new:
            self.record()

    def sweep(self, used: set[str]) -> int:
        stale = [entry for key, entry in self.entries.items() if key not in used]
        for entry in stale:
            for output in entry.outputs:
                self.files.pop(output.path, None)
        kept = {o.path for key in used & self.entries.keys() for o in self.entries[key].outputs}
        for path in [p for p in self.files if OURS.fullmatch(p) and p not in kept]:
            del self.files[path]
        self.forget([entry.key for entry in stale])
        return len(stale)
