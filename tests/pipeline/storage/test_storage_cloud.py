"""gs:// against a fake of Google's storage; what az:// does by the same code, `make azure` holds against Microsoft's emulator."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from clouds import Cloud, CloudTests, until
from fake_gcs import FakeGcs, running_fake_gcs

from pipeline import storage
from pipeline.storage import cloud, lock_object, retry


@pytest.fixture
def gcs(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeGcs]:
    with running_fake_gcs("bucket") as server:
        monkeypatch.setenv("GOOGLE_BASE_URL", server.address)
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "a-token")
        yield server


@pytest.fixture
def there(gcs: FakeGcs) -> Cloud:
    return Cloud("gs://bucket/test", "gs://no-such-bucket")


class TestGoogle(CloudTests):
    def test_no_upload_in_parts_is_left(self, there: Cloud, gcs: FakeGcs, tmp_path: Path) -> None:
        path = tmp_path / "large"
        path.write_bytes(bytes(33 << 20))
        storage.publish(path, there.uri("large"))
        assert not path.exists() and not gcs.uploads and storage.stat(there.uri("large")).size == 33 << 20

    def test_an_upload_that_arrives_short_is_noticed(self, there: Cloud, gcs: FakeGcs, tmp_path: Path) -> None:
        path, gcs.lose = tmp_path / "large", 1
        path.write_bytes(bytes(33 << 20))
        with pytest.raises(storage.TransientError, match="arrived damaged"):
            storage.publish(path, there.uri("large"))

    def test_a_download_that_was_damaged_on_its_way_is_noticed(self, there: Cloud, gcs: FakeGcs) -> None:
        storage.write_bytes(there.uri("file"), b"as it was written")
        gcs.objects["test/file"].data = b"as it was WRITTEN"
        with pytest.raises(storage.TransientError, match="damaged on its way"):
            storage.read_bytes(there.uri("file"))


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("what", ["read", "list", "tree", "write", "stat", "range", "delete", "lock", "release"])
def test_a_busy_server_is_left_alone_as_long_as_it_asks(there: Cloud, gcs: FakeGcs, monkeypatch, what: str, status: int) -> None:
    for name in ("OPEN_ATTEMPTS", "SOON_ATTEMPTS"):
        monkeypatch.setattr(cloud, name, 0)  # of obstore's own, which does not look at Retry-After
    uri = there.uri("file")
    storage.write_bytes(uri, b"there")
    gcs.busy, gcs.busy_status = 0.6, status
    match what:
        case "read":
            assert storage.read_bytes(uri) == b"there"
        case "list":
            assert [entry.uri for entry in storage.list_files(there.uri("*"))] == [uri]
        case "tree":
            assert [entry.uri for entry in storage.list_files(there.uri("**"))] == [uri]
        case "delete":
            storage.delete(uri)
            assert not gcs.objects
        case "lock":
            with storage.RunLock(there.uri()):
                assert gcs.turned_away == 2
        case "release":
            gcs.busy = 0.0
            with storage.RunLock(there.uri()):
                gcs.busy = 0.6
            assert storage.lock_holder(there.uri()) is None
        case "write":
            storage.write_bytes(uri, b"new")
            assert storage.read_bytes(uri) == b"new"
        case "stat":
            assert storage.stat(uri).size == 5
        case "range":
            with storage.open_random(uri) as file:
                file.seek(2)
                assert file.read() == b"ere"
    assert gcs.turned_away == 2  # the request, and the one that asks how long


def test_a_listing_goes_on_where_a_busy_server_broke_it_off(there: Cloud, gcs: FakeGcs, monkeypatch) -> None:
    monkeypatch.setattr(cloud, "OPEN_ATTEMPTS", 0)
    names = [there.uri(f"{number:03d}") for number in range(120)]
    for name in names:
        storage.write_bytes(name, b"")
    found = cloud.list_tree(there.root)
    first = next(found).uri
    gcs.busy = 0.3
    assert [first, *(entry.uri for entry in found)] == names and gcs.turned_away


@pytest.mark.parametrize(("longest", "requests"), [(20.0, 2), (0.1, 6)])
def test_a_heartbeat_waits_as_a_busy_server_asks_though_not_for_ever(
    there: Cloud, gcs: FakeGcs, monkeypatch, longest: float, requests: int
) -> None:
    monkeypatch.setattr(lock_object, "HEARTBEAT", 0.05)
    monkeypatch.setattr(lock_object, "LONGEST_PAUSE", longest)
    monkeypatch.setattr(cloud, "SOON_ATTEMPTS", 0)
    with storage.RunLock(there.root) as lock:
        first = storage.read_bytes(there.uri("run.lock"))
        gcs.busy = 0.9
        until(lambda: gcs.turned_away > 0)
        until(lambda: time.monotonic() > gcs.busy_until)
        assert (gcs.turned_away == 2) if requests == 2 else (gcs.turned_away >= requests)  # of some 28
        until(lambda: storage.read_bytes(there.uri("run.lock")) != first)
        lock.check()


def test_a_server_that_asks_for_too_long_is_told_to_the_task(there: Cloud, gcs: FakeGcs, monkeypatch) -> None:
    monkeypatch.setattr(cloud, "OPEN_ATTEMPTS", 0)
    monkeypatch.setattr(retry, "ASKED_IN_ALL", 5.0)
    gcs.busy = 30.0
    with pytest.raises(storage.TransientError, match="keeps answering 429") as raised:
        storage.stat(there.uri("file"))
    assert raised.value.asked == 30.0


@pytest.mark.parametrize(
    ("uri", "better"),
    [
        ("gcs://b/x", "write gs://b/x"),
        ("s3a://b/x", "write s3://b/x"),
        ("abfss://c@a.dfs.core.windows.net/x", "write az://CONTAINER/KEY"),
    ],
)
def test_other_tools_spellings_are_told_apart(uri: str, better: str) -> None:
    with pytest.raises(storage.StorageError, match=better):
        storage.list_files(uri)


def test_an_account_that_is_not_named_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AZURE_")]:
        monkeypatch.delenv(name)
    with pytest.raises(storage.StorageError, match=r"^az://c/x: cannot reach it: .*; set AZURE_STORAGE_ACCOUNT_NAME with"):
        storage.stat("az://c/x")


def test_where_obstore_is_not_installed_that_is_said() -> None:
    code = (
        "import sys; sys.modules['obstore'] = None\n"
        "from pipeline import storage\n"
        "try: storage.list_files('az://container/x')\n"
        "except storage.StorageError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert 'obstore, which is not installed: pip install "headrace[clouds]"' in said
