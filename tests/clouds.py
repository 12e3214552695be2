"""What gs:// and az:// must do, whichever server answers: for tests against a fake of Google's, and against Azurite."""

from __future__ import annotations

import hashlib
import json
import random
import time
from dataclasses import dataclass

import pytest

from pipeline import storage
from pipeline.storage import cloud, lock_object

DATA = random.Random(5).randbytes(3 << 20)


@dataclass(frozen=True)
class Cloud:
    """A running server's place for one test: `root` has no closing slash. missing: a bucket that is not there."""

    root: str
    missing: str

    def uri(self, *names: str) -> str:
        return "/".join((self.root, *names))


class CloudTests:
    """Takes a fixture `there`: a `Cloud`."""

    def test_small_objects(self, there: Cloud) -> None:
        uri = there.uri("a", "b c+%41?#.txt")
        storage.write_bytes(uri, b"hello")
        assert storage.read_bytes(uri) == b"hello"
        assert storage.stat(uri).size == 5
        with storage.open_stream(uri, offset=1, length=3) as stream:
            assert stream.read() == b"ell"
        storage.write_bytes(there.uri("empty"), b"")
        assert storage.read_bytes(there.uri("empty")) == b""
        assert storage.exists(uri) and storage.exists(there.uri("a")) and not storage.exists(there.uri("b"))
        storage.delete_many([uri, there.uri("none"), there.uri("empty")])
        assert not storage.exists(uri) and not storage.exists(there.uri("empty"))

    def test_what_is_written_is_listed_as_on_a_disk(self, there: Cloud) -> None:
        names = ["in/1/a.gz", "in/1/b.txt", "in/2/a.gz", "in/2/_SUCCESS", "inner/a.gz", "top.gz"]
        for name in names:
            storage.write_bytes(there.uri(name), name.encode())

        def found(pattern: str) -> list[str]:
            return [entry.uri.removeprefix(f"{there.root}/") for entry in storage.list_files(there.uri(pattern))]

        assert found("in") == ["in/1/a.gz", "in/1/b.txt", "in/2/a.gz"]
        assert found("in/*/a.*") == ["in/1/a.gz", "in/2/a.gz"]
        assert found("**/*.gz") == ["in/1/a.gz", "in/2/a.gz", "inner/a.gz", "top.gz"]
        assert found("in/1/a.gz") == ["in/1/a.gz"] and found("none*") == []
        listed = storage.list_files(there.uri("in/1/*.gz"))[0]
        assert listed.stat.version == storage.stat(listed.uri).version and listed.size == len("in/1/a.gz")
        storage.delete_tree(there.uri("in"))
        assert found("**") == ["inner/a.gz", "top.gz"]

    def test_a_file_in_several_parts_arrives_and_comes_back_whole(
        self, there: Cloud, tmp_path, monkeypatch: pytest.MonkeyPatch, cache: storage.Cache
    ) -> None:
        monkeypatch.setattr(cloud, "PART_BYTES", 1 << 20)
        path, uri = tmp_path / "file", there.uri("file")
        path.write_bytes(DATA[: (2 << 20) + 77])
        storage.publish(path, uri, keep=True)
        with storage.open_stream(uri) as stream:
            assert stream.read() == path.read_bytes()
        with storage.open_random(uri) as file:
            file.seek(1_500_000)
            assert file.read(1000) == DATA[1_500_000:1_501_000]
        digest = f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
        assert cloud.find_digest(uri, storage.stat(uri)) == digest
        large = storage.Cache(tmp_path / "large", 10 << 20)
        assert storage.fetch(uri, large).read_bytes() == path.read_bytes()

    def test_only_the_version_that_was_listed_is_read(self, there: Cloud) -> None:
        uri = there.uri("file")
        storage.write_bytes(uri, DATA)
        listed = storage.list_files(uri)[0]
        with storage.open_stream(uri, version=listed.witness) as stream:
            first = stream.read(1000)
            storage.write_bytes(uri, DATA[::-1])
            with pytest.raises(storage.ChangedError, match="changed"):
                first + stream.read()
                with storage.open_stream(uri, version=listed.witness) as again:
                    again.read()

    def test_no_two_versions_are_read_as_one(self, there: Cloud) -> None:
        uri = there.uri("file")
        storage.write_bytes(uri, DATA)
        with storage.open_random(uri) as file:
            assert file.read(10) == DATA[:10]
            storage.write_bytes(uri, DATA[::-1])
            file.seek(len(DATA) - 10)
            with pytest.raises(storage.ChangedError, match="changed while it was being used"):
                file.read(10)

    def test_a_lock_that_another_run_took_over_is_left_to_it(self, there: Cloud) -> None:
        run = there.uri("run")
        with storage.RunLock(run):  # its heartbeat does not come to notice
            _foreign(run)
        assert json.loads(storage.read_bytes(f"{run}/run.lock"))["host"] == "far"

    def test_what_is_not_there_is_said(self, there: Cloud) -> None:
        with pytest.raises(storage.MissingError, match="no such object"):
            storage.read_bytes(there.uri("none"))
        with pytest.raises(storage.MissingError, match=r"there is no (bucket|container)"):
            storage.list_files(f"{there.missing}/x/*.gz")
        with pytest.raises(storage.MissingError):
            storage.write_bytes(f"{there.missing}/x", b"x")
        with pytest.raises(storage.StorageError, match=r"names no (bucket|container)"):
            storage.list_files(f"{there.root.partition('://')[0]}:///x")

    def test_one_run_holds_the_lock(self, there: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(lock_object, "HEARTBEAT", 0.05)
        run = there.uri("run")
        with storage.RunLock(run) as lock:
            first = storage.read_bytes(f"{run}/run.lock")
            with (
                pytest.raises(storage.StorageError, match=r"is being written by another run \(pid \d+"),
                storage.RunLock(run),
            ):
                pass
            until(lambda: storage.read_bytes(f"{run}/run.lock") != first)
            lock.check()
            storage.check_token(run, lock.token)
            _foreign(run)
            until(lambda: lock._lock is not None and bool(lock._lock._lost))  # type: ignore[attr-defined]
            with pytest.raises(storage.StorageError, match="has lost its lock: another run has taken it over"):
                lock.check()
        assert json.loads(storage.read_bytes(f"{run}/run.lock"))["host"] == "far"  # and is not let go by the loser

    def test_a_lock_without_heartbeat_lapses(self, there: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        run = there.uri("run")
        _foreign(run)
        with pytest.raises(storage.StorageError, match=r"its lock lapses in \d+ s"), storage.RunLock(run):
            pass
        monkeypatch.setattr(lock_object, "STALE", 0.9)
        time.sleep(2.1)  # servers tell whole seconds
        with storage.RunLock(run) as lock:
            assert json.loads(storage.read_bytes(f"{run}/run.lock"))["token"] == lock.token
        assert storage.lock_holder(run) is None and storage.list_files(f"{run}/**") == []


def _foreign(run: str) -> None:
    holder = {"pid": 4, "host": "far", "since": "long", "machine": "other", "started": "1", "token": "t"}
    storage.write_bytes(f"{run}/run.lock", json.dumps(holder).encode())


def until(true, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)
