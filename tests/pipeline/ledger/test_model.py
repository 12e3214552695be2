"""Any sequence of changes, kills and openings leaves a ledger that answers as a plain model does."""

from __future__ import annotations

import random
import shutil
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from ledger_model import Model, key_of, make_entry

from pipeline import storage
from pipeline.ledger import Ledger, Ref, compact, tail

KEYS = range(5)
SIMILAR = ("alike", "like this")
SHARED = ("tokens/web/0.npy", "tokens/web/1.npy", "summary.json")
LEFT = (
    f"parts/web/0/00001-{key_of(9)}.kept.parquet",
    "parts/dedup/web/dedup/scatter-records-00001",
    "parts/web/0/deep/notes",
    "parts/notes",
    "tokens/web/left",
)

keys = st.sampled_from(KEYS)
sizes = st.integers(0, 2)
SMALL = {"GARBAGE_FROM": 4000, "MANY": 2}  # so that a handful of entries is put together often


class Killed(BaseException):
    """What a kill is here: nothing that the ledger could answer to."""


def own_paths(number: int) -> list[str]:
    key = key_of(number)
    return [f"parts/web/{number % 2}/00000-{key}.kept.parquet", f"parts/web/0/deep/{key}.dropped", f"parts/{key}"]


def all_paths() -> list[str]:
    return [*SHARED, *LEFT, *(path for number in KEYS for path in own_paths(number))]


class LedgerMachine(RuleBasedStateMachine):
    """One run's folder: its ledger, always open for writing, beside the model of it."""

    root: str | None = None  # where runs lie; None: a temporary folder on this disk
    runs = 0

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="ledger-") if self.root is None else ""
        LedgerMachine.runs += 1
        self.run = self.folder or f"{self.root}/{LedgerMachine.runs}"
        self.model = Model()
        small = [mock.patch.object(compact, name, value) for name, value in SMALL.items()]
        small += [mock.patch.object(module, "SEGMENT_BYTES", 4800) for module in (compact, tail)]
        small += [mock.patch.object(tail, "PENDING_RECORDS", 3), mock.patch.object(tail, "PENDING_SECONDS", 1e9)]
        small += [mock.patch.object(tail, "SMALL_OBJECTS", 3), mock.patch.object(tail, "REGION_BYTES", 4000)]
        small += [mock.patch.object(module, "INDEX_FROM", 600) for module in (compact, tail)]
        self.patches = small
        for patch in small:
            patch.start()
        self.ledger = Ledger(self.run, writable=True)

    def teardown(self) -> None:
        self.ledger.close()
        for patch in self.patches:
            patch.stop()
        if self.folder:
            shutil.rmtree(self.folder)

    def write(self, path: str, size: int) -> None:
        storage.write_bytes(storage.join(self.run, path), b"x" * size)
        self.model.files[path] = size

    @rule(
        number=keys,
        data=st.data(),
        similar=st.sampled_from((None, *SIMILAR)),
        stage=st.sampled_from("01"),
        length=st.sampled_from((1, 100, 1500)),
        announced=st.booleans(),
    )
    def add(
        self, number: int, data: st.DataObject, similar: str | None, stage: str, length: int, announced: bool
    ) -> None:
        paths = data.draw(st.lists(st.sampled_from([*SHARED, *own_paths(number)]), unique=True, max_size=4))
        outputs = {path: data.draw(sizes) for path in paths}
        entry = make_entry(number, outputs, stage=stage, similar=similar, report={"of": [number, "x" * length]})
        if announced:
            self.ledger.make_room(list(outputs))
            self.model.make_room(list(outputs))
        for path, size in outputs.items():
            self.write(path, size)
        self.ledger.add(entry)
        self.model.add(entry)

    @rule(name=st.sampled_from("ab"))
    def add_basis(self, name: str) -> None:
        self.ledger.add_basis(name, {"code": name})
        self.model.add_basis(name, {"code": name})

    @rule(numbers=st.lists(keys, unique=True, max_size=3))
    def forget(self, numbers: list[int]) -> None:
        self.ledger.forget([key_of(number) for number in numbers])
        self.model.forget([key_of(number) for number in numbers])

    @rule(paths=st.lists(st.sampled_from(SHARED), max_size=2))
    def make_room(self, paths: list[str]) -> None:
        self.ledger.make_room(paths)
        self.model.make_room(paths)

    @precondition(lambda self: self.model.entries)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        chosen = data.draw(st.lists(st.sampled_from(sorted(self.model.entries)), unique=True, min_size=1))
        items = []
        for key in chosen:
            paths = [output.path for output in self.model.entries[key].outputs]
            items.append((key, data.draw(st.lists(st.sampled_from(paths), unique=True)) if paths else []))
        self.ledger.release(items)
        self.model.release(items)

    @rule(path=st.sampled_from(LEFT))
    def leave(self, path: str) -> None:
        """A file that no entry tells of; seen when the run is opened again."""
        self.write(path, 1)
        self.reopen()

    @precondition(lambda self: self.model.files)
    @rule(data=st.data(), size=st.sampled_from((None, 5)))
    def damage(self, data: st.DataObject, size: int | None) -> None:
        """A file is removed or cut while no run goes on."""
        path = data.draw(st.sampled_from(sorted(self.model.files)))
        if size is None:
            storage.delete(storage.join(self.run, path))
            del self.model.files[path]
        else:
            self.write(path, size)
        self.reopen()

    @rule(used=st.sets(keys))
    def sweep(self, used: set[int]) -> None:
        assert self.ledger.sweep({key_of(n) for n in used}) == self.model.sweep({key_of(n) for n in used})
        prefix = self.run + "/"
        there = {entry.uri.removeprefix(prefix) for entry in storage.list_files(prefix)}
        assert {path for path in there if not path.startswith("ledger/")} == set(self.model.files)

    @rule()
    def reopen(self) -> None:
        self.ledger.close()
        self.ledger = Ledger(self.run, writable=True)
        assert self.ledger.notes == []

    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        """The process dies; of the file that it added to, any number of bytes got to the disk."""
        lost = self.abandon(data)
        self.model.roll_back(lost)
        self.ledger = Ledger(self.run, writable=True)
        assert len(self.ledger.notes) <= 1

    def abandon(self, data: st.DataObject) -> int:
        """Let the ledger go as a kill does; returns how many records were lost."""
        end, self.ledger._tail = self.ledger._tail, None
        self.ledger.close()
        if isinstance(end, tail.RemoteTail):
            with end._wake:
                end._closed = True
                end._wake.notify_all()
            return end._pending
        if end._segment is None:
            return 0
        path = Path(end._segment.uri)
        whole = path.read_bytes()
        left = whole[: data.draw(st.integers(0, len(whole)))]
        path.write_bytes(left)
        return whole.count(b"\n") - max(left.count(b"\n"), 1)

    @rule(after=st.integers(0, 8), order=st.randoms(use_true_random=False))
    def kill_while_put_together(self, after: int, order: random.Random) -> None:
        """The process dies at one of the writes and removals of files while it opens or closes."""
        calls = [0]

        def dying(original: Any) -> Any:
            def call(*args: Any, **named: Any) -> Any:
                calls[0] += 1
                if calls[0] > after:
                    raise Killed
                return original(*args, **named)

            return call

        def delete_one(uris: Any) -> None:
            uris = list(uris)
            order.shuffle(uris)  # as S3 may carry out a request to delete many
            for uri in uris:
                delete([uri])

        delete = dying(storage.delete_many)
        with (
            mock.patch.object(storage, "delete_many", delete_one),
            mock.patch.object(storage, "write_bytes", dying(storage.write_bytes)),
            mock.patch.object(storage, "open_output", dying(storage.open_output)),
        ):
            lost = 0
            end = self.ledger._tail
            try:
                self.ledger.close()
                self.ledger = Ledger(self.run, writable=True)
            except Killed:
                lost = end._pending if isinstance(end, tail.RemoteTail) else 0
        self.model.roll_back(lost)
        if calls[0] > after:
            self.ledger = Ledger(self.run, writable=True)

    @rule()
    def read_beside(self) -> None:
        """Another process reads while this one writes."""
        self.ledger.flush()
        with Ledger(self.run) as reader:
            self.compare(reader)

    @invariant()
    def answers(self) -> None:
        self.compare(self.ledger)

    def compare(self, ledger: Ledger) -> None:
        model = self.model
        assert ledger.count() == len(model.entries)
        there = [o.bytes for e in model.entries.values() for o in e.outputs if o.path not in e.released]
        assert ledger.output_bytes() == sum(there)
        assert [plain(e) for e in ledger.entries()] == [plain(e) for e in model.entries.values()]
        for number in KEYS:
            assert plain(ledger.entry(key_of(number))) == plain(model.entries.get(key_of(number)))
            assert plain(ledger.find(key_of(number))) == plain(model.find(key_of(number)))
            for stage in "01":
                ref = Ref("map", "web", stage, number)
                assert plain(ledger.latest(ref)) == plain(model.latest(ref))
        for similar in SIMILAR:
            assert plain(ledger.lender(similar)) == plain(model.lender(similar))
        for path in all_paths():
            assert ledger.released(path) == model.released(path)
            assert ledger.size_of(path) == model.files.get(path), path
        for name in "ab":
            assert ledger.basis(name) == model.bases.get(name)


def plain(entry: Any) -> Any:
    return None if entry is None else msgspec.json.encode(entry)


def test_on_a_local_disk() -> None:
    run_state_machine_as_test(
        LedgerMachine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_on_s3(s3: Any) -> None:
    machine = type("S3Machine", (LedgerMachine,), {"root": s3.uri("ledgers")})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=8, stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
