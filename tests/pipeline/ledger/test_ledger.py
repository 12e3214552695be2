"""The ledger's files: what a kill, damage, another driver and another version leave, and what is said of it."""

from __future__ import annotations

import errno
import os
import random
import time
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import pytest
from ledger_model import key_of, make_entry

from pipeline import storage
from pipeline.ledger import Entry, Ledger, compact, segment, tail
from pipeline.storage.s3_client import client
from stages.errors import UserError


def done(run: str | Path, number: int, *paths: str, report: object = None, similar: str | None = None) -> Entry:
    """The entry of a task whose outputs are there."""
    for path in paths:
        storage.write_bytes(storage.join(str(run), path), path.encode())
    return make_entry(number, {path: len(path.encode()) for path in paths}, report=report, similar=similar)


def fill(run: str | Path, *entries: Entry, **named: Any) -> None:
    with Ledger(str(run), writable=True, **named) as ledger:
        for entry in entries:
            ledger.add(entry)


def content(run: str | Path) -> list[bytes]:
    with Ledger(str(run)) as ledger:
        return [msgspec.json.encode(entry) for entry in ledger.entries()]


def logs(run: Path) -> list[Path]:
    return sorted((run / "ledger").glob("*.log"))


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.parent.name != "ledger"}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"cut")], ids=["missing", "cut"])
def test_a_task_is_done_only_while_its_outputs_are_there(tmp_path: Path, damage: Any) -> None:
    fill(tmp_path, done(tmp_path, 1, "parts/web/0/a", similar="like"))
    with Ledger(str(tmp_path)) as ledger:
        assert ledger.find(key_of(1)) and ledger.lender("like")
    damage(tmp_path / "parts/web/0/a")
    with Ledger(str(tmp_path)) as ledger:
        assert ledger.find(key_of(1)) is None and ledger.lender("like") is None
        assert ledger.latest(make_entry(1, {}).ref).key == key_of(1)


def test_what_is_released_stays_done_and_is_removed_also_after_a_kill_in_between(tmp_path: Path) -> None:
    fill(tmp_path, done(tmp_path, 1, "parts/a", "parts/a.dropped"))
    with Ledger(str(tmp_path), writable=True) as ledger, mock.patch.object(storage, "delete_many", lambda uris: None):
        ledger.release([(key_of(1), ["parts/a"])])  # the kill: recorded, not removed
    assert (tmp_path / "parts/a").exists()
    with Ledger(str(tmp_path), writable=True) as ledger:
        ledger.release([(key_of(1), ["parts/a"])])
        assert files(tmp_path) == {"parts/a.dropped"}
    with Ledger(str(tmp_path)) as ledger:
        assert ledger.find(key_of(1)).released == ["parts/a"]
        assert ledger.released("parts/a") == key_of(1) and ledger.released("parts/a.dropped") is None


KILLED = f"parts/web/0/00000-{key_of(9)}.kept.parquet"


def test_a_sweep_that_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    fill(tmp_path, done(tmp_path, 1, "tokens/1"), done(tmp_path, 2, "tokens/0", "parts/b"))
    for path in (KILLED, "tokens/2", "notes.txt", "parts/notes.txt"):
        storage.write_bytes(f"{tmp_path}/{path}", b"left")
    with Ledger(str(tmp_path), writable=True) as ledger, mock.patch.object(Ledger, "forget", lambda self, keys: None):
        ledger.sweep({key_of(2)})  # the kill: outputs removed, entries not
    with Ledger(str(tmp_path), writable=True) as ledger:
        assert ledger.count() == 2 and ledger.sweep({key_of(2)}) == 1
    assert files(tmp_path) == {"tokens/0", "parts/b", "tokens/2", "notes.txt", "parts/notes.txt"}
    with Ledger(str(tmp_path)) as ledger:
        assert ledger.find(key_of(2)) and ledger.count() == 1


def test_any_flipped_bit_is_noticed_or_changes_nothing(tmp_path: Path) -> None:
    """Of a log with its index and of one whose writer was killed; and of the index."""
    with Ledger(str(tmp_path), writable=True) as ledger:
        ledger.add_basis("basis", {"code": "1"})
        for number in range(3):
            ledger.add(done(tmp_path, number, f"parts/{number}", report={"words": "ä" * number}))
        ledger.release([(key_of(0), ["parts/0"])])
        ledger.forget([key_of(1)])
    (log,) = logs(tmp_path)
    index = log.with_suffix(".idx")
    whole, sealed, right = log.read_bytes(), index.read_bytes(), content(tmp_path)
    rng, noticed, torn = random.Random(0), 0, 0
    for has_index in (True, False):
        for place in range(len(whole)):
            log.write_bytes(flipped(whole, place, rng.randrange(8)))
            index.write_bytes(sealed) if has_index else index.unlink(missing_ok=True)
            try:
                found = content(tmp_path)
            except UserError as error:
                assert str(log) in str(error) and "damaged at byte" in str(error) and "delete" in str(error)
                noticed += 1
                continue
            if found != right:  # the last line's end was hit: as a kill leaves it
                assert not has_index and place == len(whole) - 1
                torn += 1
    assert torn <= 1 and noticed > len(whole)
    log.write_bytes(whole)
    for place in rng.sample(range(len(sealed)), 200):
        index.write_bytes(flipped(sealed, place, rng.randrange(8)))
        assert content(tmp_path) == right


def flipped(data: bytes, place: int, bit: int) -> bytes:
    return data[:place] + bytes([data[place] ^ 1 << bit]) + data[place + 1 :]


def test_damage_is_named_with_file_and_offset(tmp_path: Path) -> None:
    fill(tmp_path, *(done(tmp_path, number, f"parts/{number}") for number in range(3)))
    (log,) = logs(tmp_path)
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(lines[0] + lines[1] + lines[2].replace(b"basis", b"bosis") + lines[3])
    offset = len(lines[0] + lines[1])
    said = f"{log}: damaged at byte {offset:,} \\(its checksum is wrong\\); put the file back .* or delete {log.parent}, and"
    with pytest.raises(UserError, match=said), Ledger(str(tmp_path)) as ledger:
        assert ledger.find(key_of(0))
        ledger.find(key_of(1))
    log.with_suffix(".idx").unlink()
    with pytest.raises(UserError, match=said):
        Ledger(str(tmp_path), writable=True)


def test_a_log_that_lost_its_end_after_it_was_closed_is_damaged(tmp_path: Path) -> None:
    fill(tmp_path, *(done(tmp_path, number, f"parts/{number}") for number in range(2)))
    (log,) = logs(tmp_path)
    log.write_bytes(log.read_bytes()[:-3])
    with pytest.raises(UserError, match="its last 3 bytes are missing"):
        Ledger(str(tmp_path))


def test_a_line_that_a_kill_cut_off_is_dropped_and_said_once(tmp_path: Path) -> None:
    fill(tmp_path, *(done(tmp_path, number, f"parts/{number}") for number in range(2)))
    (log,) = logs(tmp_path)
    log.with_suffix(".idx").unlink()
    log.write_bytes(log.read_bytes()[:-3])
    with Ledger(str(tmp_path)) as reader:
        assert reader.count() == 1 and reader.notes == []  # a reader may meet a line that is being written
    with Ledger(str(tmp_path), writable=True) as ledger:
        assert ledger.find(key_of(0)) and ledger.find(key_of(1)) is None
        assert len(ledger.notes) == 1 and str(log) in ledger.notes[0]
        ledger.add(done(tmp_path, 1, "parts/1"))
    with Ledger(str(tmp_path), writable=True) as ledger:
        assert ledger.count() == 2 and ledger.notes == []


@pytest.mark.parametrize("name", ["ledger/025fa9fbfcae4339f4fd.json", "ledger/" + "a" * 32 + ".json"])
def test_a_ledger_of_an_older_version_is_refused(tmp_path: Path, name: str) -> None:
    storage.write_bytes(f"{tmp_path}/{name}", b"{}")
    for writable in (False, True):
        with pytest.raises(
            UserError, match=r"ledger was made by an older version.*another --out, or delete that folder"
        ):
            Ledger(str(tmp_path), writable=writable)


def test_a_ledger_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    fill(tmp_path, done(tmp_path, 1, "parts/1"))
    (log,) = logs(tmp_path)
    log.with_suffix(".idx").unlink()
    log.write_bytes(b"S 00000000 {}\n")
    from pipeline.ledger.lines import Header, header_line

    log.write_bytes(header_line(Header(2, [(1, "aaaaaaaa", 1, 1)], (1, 1))))
    with pytest.raises(UserError, match="made by a newer version"):
        Ledger(str(tmp_path))


def test_a_sweep_leaves_the_file_that_another_task_wrote_over(tmp_path: Path) -> None:
    """Of two entries that name one output the last one holds; the other one goes, and the file stays."""
    with Ledger(str(tmp_path), writable=True) as ledger:
        for number in (1, 2):
            ledger.add(done(tmp_path, number, "tokens/web/0.npy"))
        ledger.sweep([key_of(2)])
        assert [entry.key for entry in ledger.entries()] == [key_of(2)]
    assert files(tmp_path) >= {"tokens/web/0.npy"}


def test_a_task_that_runs_again_adds_one_line(tmp_path: Path) -> None:
    """Its new entry takes the old one's place: nothing is forgotten in between, nor waited for."""
    entry = done(tmp_path, 1, "parts/web/0/a")
    fill(tmp_path, entry, entry)
    (log,) = logs(tmp_path)
    assert [line[:1] for line in log.read_bytes().splitlines()] == [b"S", b"E", b"E"]


@pytest.mark.parametrize("where", ["local", "s3"])
def test_a_driver_that_lost_the_run_changes_nothing_of_its_successor(
    tmp_path: Path, where: str, request: pytest.FixtureRequest
) -> None:
    run = str(tmp_path) if where == "local" else request.getfixturevalue("s3").uri("run")
    stale = Ledger(run, writable=True)
    stale.add(done(run, 1, "tokens/web/0.npy"))
    with Ledger(run, writable=True) as ledger:
        ledger.make_room(["tokens/web/0.npy"])
        stale.add(done(run, 1, "tokens/web/0.npy"))
        stale.add(done(run, 3, "tokens/web/0.npy"))
        stale.forget([key_of(2)])
        ledger.add(done(run, 2, "tokens/web/0.npy"))
        stale.add(done(run, 2, "tokens/web/1.npy"))
        stale.close()
    with Ledger(run) as ledger:
        assert [entry.key for entry in ledger.entries()] == [key_of(2)]
        assert [output.path for output in ledger.find(key_of(2)).outputs] == ["tokens/web/0.npy"]


def test_reading_writes_nothing(tmp_path: Path) -> None:
    with Ledger(str(tmp_path / "run")) as ledger:
        assert ledger.count() == 0 and ledger.find(key_of(1)) is None and list(ledger.entries()) == []
        with pytest.raises(RuntimeError, match="for reading only"):
            ledger.add(make_entry(1, {}))
    assert list(tmp_path.iterdir()) == []
    fill(tmp_path / "run", done(tmp_path / "run", 1, "parts/1"))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert content(tmp_path / "run")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_entry_that_does_not_fit_on_the_disk_leaves_the_ledger_whole(tmp_path: Path) -> None:
    with Ledger(str(tmp_path), writable=True) as ledger:
        ledger.add(done(tmp_path, 1, "parts/1"))
        entry = done(tmp_path, 2, "parts/2")
        original, calls = os.write, []

        def full(descriptor: int, data: Any) -> int:
            calls.append(len(data))
            if len(calls) > 1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return original(descriptor, data[:10])

        with mock.patch.object(os, "write", full), pytest.raises(storage.StorageError, match="no space left"):
            ledger.add(entry)
        ledger.add(done(tmp_path, 3, "parts/3"))
    with Ledger(str(tmp_path), writable=True) as ledger:
        assert [entry.key for entry in ledger.entries()] == [key_of(1), key_of(3)] and ledger.notes == []


def test_reports_and_paths_of_all_kinds_come_back_as_they_were(tmp_path: Path) -> None:
    pretty = done(tmp_path, 1, "parts/ä b/ 中.kept", 'parts/"quoted"\\')
    pretty.report = msgspec.Raw(b'{\n "a": "line\\nbreak \xe4\xb8\xad",\n "report": {"report": 1e300}\n}')
    fill(tmp_path, pretty, done(tmp_path, 2, report=[]), done(tmp_path, 3, report="x" * 3_000_000))
    with Ledger(str(tmp_path)) as ledger:
        assert ledger.find(key_of(1)).report_as(dict) == {"a": "line\nbreak 中", "report": {"report": 1e300}}
        assert ledger.find(key_of(1)).outputs == pretty.outputs
        assert ledger.find(key_of(2)).report_as(list) == []
        assert len(ledger.find(key_of(3)).report_as(str)) == 3_000_000
        with pytest.raises(UserError, match=r"written by another version of Headrace .*; run the recipe again"):
            ledger.find(key_of(2)).report_as(dict)
    with Ledger(str(tmp_path), writable=True) as ledger, pytest.raises(ValueError, match="hex"):
        ledger.add(msgspec.structs.replace(pretty, key="abcd"))


def test_garbage_is_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "GARBAGE_FROM", 10_000)
    fill(tmp_path, *(done(tmp_path, number, report="x" * 1000) for number in range(100)))
    before = content(tmp_path)
    asked: list[bool] = []
    with Ledger(str(tmp_path), writable=True, still_ours=lambda: asked.append(True)) as ledger:
        ledger.sweep({key_of(number) for number in range(0, 100, 3)})
        assert len(asked) == 1
    assert len(asked) == 2  # before files were put together
    assert content(tmp_path) == before[::3]
    assert sum(log.stat().st_size for log in logs(tmp_path)) < 60_000 and len(logs(tmp_path)) == 1


def test_what_was_forgotten_stays_so_where_a_kill_leaves_some_of_the_old_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 may remove the files that are named in one request in any order."""
    fill(tmp_path, *(done(tmp_path, number, report="x" * 1000) for number in range(10)))
    (first,) = logs(tmp_path)
    with Ledger(str(tmp_path), writable=True) as ledger:
        ledger.forget([key_of(number) for number in range(1, 10)])
    right = content(tmp_path)
    monkeypatch.setattr(compact, "GARBAGE_FROM", 1000)
    delete = storage.delete_many

    def half(uris: Any) -> None:
        if names := list(uris):
            delete([uri for uri in names if first.stem not in uri])
            raise InterruptedError

    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr(storage, "delete_many", half)
        Ledger(str(tmp_path), writable=True)
    assert first in logs(tmp_path) and len(right) == 1
    assert content(tmp_path) == right
    with Ledger(str(tmp_path), writable=True) as ledger:
        assert ledger.count() == 1
    assert first not in logs(tmp_path)
    assert content(tmp_path) == right


def test_many_short_runs_leave_few_files(tmp_path: Path) -> None:
    for number in range(40):
        fill(tmp_path, done(tmp_path, number))
    assert len(logs(tmp_path)) <= compact.MANY + 2
    with Ledger(str(tmp_path)) as ledger:
        assert [entry.ref.ordinal for entry in ledger.entries()] == list(range(40))


def test_on_s3_a_record_is_there_for_others_within_seconds(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "PENDING_SECONDS", 0.2)
    run = s3.uri("run")
    with Ledger(run, writable=True) as ledger:
        for number in range(2):
            ledger.add(done(run, number, f"parts/{number}"))
            until = time.monotonic() + 60
            while len(content(run)) <= number and time.monotonic() < until:
                time.sleep(0.05)
            assert len(content(run)) == number + 1


def test_on_s3_an_error_of_the_background_is_told(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "PENDING_SECONDS", 0.05)
    run = s3.uri("run")
    ledger = Ledger(run, writable=True)
    entry = done(run, 1, "parts/1")

    def broken(uri: str, data: bytes) -> None:
        raise storage.StorageError("no network")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "write_bytes", broken)
        ledger.add(entry)
        assert ledger._tail._thread is not None
        ledger._tail._thread.join(60)
        with pytest.raises(storage.StorageError, match="no network"):
            ledger.add(entry)
    ledger.close()
    assert len(content(run)) == 1


def test_on_s3_records_are_put_together_while_others_read(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tail, "PENDING_RECORDS", 2)
    monkeypatch.setattr(tail, "SMALL_OBJECTS", 4)
    monkeypatch.setattr(tail, "INDEX_FROM", 1000)
    monkeypatch.setattr(compact, "INDEX_FROM", 1000)
    monkeypatch.setattr(compact, "GARBAGE_FROM", 1000)
    monkeypatch.setattr(segment, "PIECE", 2000)
    monkeypatch.setattr(segment, "READ_AHEAD", 0)
    run = s3.uri("run")
    with Ledger(run, writable=True) as ledger:
        for number in range(30):
            ledger.add(done(run, number, report="x" * 3000))
        reader = Ledger(run)
        halfway = reader.entries()
        assert next(halfway).ref.ordinal == 0
        ledger.sweep({key_of(number) for number in range(0, 30, 3)})
    objects = [entry.uri for entry in storage.list_files(run + "/ledger/")]
    assert len(objects) == 2, objects  # a log and its index
    assert [entry.ref.ordinal for entry in halfway][-1] == 27
    assert [entry.ref.ordinal for entry in reader.entries()] == list(range(0, 30, 3))
    assert reader.find(key_of(1)) is None and reader.find(key_of(3)).ref.ordinal == 3
    reader.close()


def test_on_s3_opening_and_asking_costs_few_requests(s3: Any) -> None:
    run, sent = s3.uri("run"), []
    with Ledger(run, writable=True) as ledger:
        for number in range(50):
            ledger.add(make_entry(number, {f"parts/web/0/{number}": 1}, report="x" * 3000))
        for number in range(50):
            storage.write_bytes(f"{run}/parts/web/0/{number}", b"x")
        for number in range(700):
            ledger.add(make_entry(1000 + number, {}, report="x" * 3000))
    client(run).meta.events.register("before-send.s3", lambda request, **_: sent.append(request.url), unique_id="count")
    try:
        with Ledger(run) as ledger:
            assert all(ledger.find(key_of(number)) for number in range(50))
            assert not any(ledger.size_of(f"parts/web/0/none-{number}") for number in range(50))
    finally:
        client(run).meta.events.unregister("before-send.s3", unique_id="count")
    # The ledger's listing, the index, two pieces of the log at most, and the listing of one folder.
    assert len(sent) <= 5, sent
