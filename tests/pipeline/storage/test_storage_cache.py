import hashlib
import json
import os
import pickle
import random
import subprocess
import sys
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.storage import cache as cache_storage
from pipeline.storage import download, flock

ROOT = Path(__file__).resolve().parents[3]
PART = 1 << 16
DATA = random.Random(2).randbytes(600_000)
PARTS = -(-len(DATA) // PART)

FETCH = """
import sys
from pipeline import storage
cache = storage.Cache(sys.argv[2], 1_000_000, part_bytes=1 << 16)
path = storage.fetch(sys.argv[1], cache)
print(path, flush=True)
"""


def start_fetch(uri: str, folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", FETCH, uri, str(folder)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )


def until(true, seconds=30):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def kept(cache: storage.Cache) -> list[str]:
    """Names of the whole files in a cache."""
    extra = ("lock", ".partial", ".parts")
    return sorted(path.name for path in cache.folder.glob("*/*") if not path.name.endswith(extra))


def test_fetch_asks_for_each_part_once_and_never_again(web, cache):
    web.files["a/x.gz"] = DATA
    path = storage.fetch(web.url("a/x.gz"), cache)
    assert path.name == "x.gz" and path.read_bytes() == DATA
    asked = web.ranges_asked("a/x.gz")
    assert sorted(asked) == [(i * PART, min(len(DATA), (i + 1) * PART) - 1) for i in range(PARTS)]
    assert sorted(p.name for p in path.parent.iterdir()) == ["lock", "x.gz"]
    known = storage.stat(web.url("a/x.gz"))
    hits = len(web.hits)
    assert storage.fetch(web.url("a/x.gz"), cache, version=known.version) == path and len(web.hits) == hits
    with storage.pinned(web.url("a/x.gz"), cache) as again:
        assert again == path and len(web.ranges_asked("a/x.gz")) == PARTS


def test_local_files_are_not_copied(tmp_path, cache):
    (tmp_path / "x").write_bytes(b"1")
    assert storage.fetch(f"file://{tmp_path}/x", cache) == tmp_path / "x" and not cache.folder.exists()
    with storage.pinned(tmp_path / "x", cache) as path:
        assert path == tmp_path / "x"
    with pytest.raises(storage.MissingError):
        storage.fetch(tmp_path / "none", cache)


def test_other_content_and_odd_names(web, cache):
    web.files["x"] = b"1"
    first = storage.fetch(web.url("x"), cache)
    web.files["x"] = b"2"
    assert storage.fetch(web.url("x"), cache).read_bytes() == b"2" and first.read_bytes() == b"1"
    for name, data in (("lock", b"l"), ("n" * 250 + ".gz", b"n"), ("empty", b"")):
        web.files[name] = data
        path = storage.fetch(web.url(name), cache)
        assert path.read_bytes() == data and path.suffix == Path(name).suffix


@pytest.mark.parametrize("change", [{"ranges": False}, {"cut_after": 30_000, "cuts": 9}, {"head": False}])
def test_fetch_from_lesser_servers(web, cache, change):
    vars(web).update(change)
    web.files["x"] = DATA
    assert storage.fetch(web.url("x"), cache).read_bytes() == DATA


def test_a_killed_download_goes_on_with_what_is_missing(web, cache):
    web.files["x"] = DATA
    resume = threading.Event()

    def stall(hit):
        if hit.range and hit.range[0] >= 6 * PART:
            resume.wait(20)

    web.before_body = stall
    process = start_fetch(web.url("x"), cache.folder)
    until(lambda: any(len(p.read_text().splitlines()) >= 7 for p in cache.folder.glob("*/*.parts")))
    process.kill()
    process.communicate()
    before = len(web.ranges_asked("x"))
    resume.set()
    assert storage.fetch(web.url("x"), cache).read_bytes() == DATA
    assert {asked[0] // PART for asked in web.ranges_asked("x")[before:]} == set(range(6, PARTS))


def test_a_journal_is_only_believed_for_its_own_file(tmp_path):
    stat = storage.Stat(1000, "v1")
    log = download.Journal(tmp_path / "j", stat, 100)
    log.add(3)
    with log.path.open("a") as file:
        file.write("1")  # torn: "12\n" was to be written
    assert download.Journal(tmp_path / "j", stat, 100).done == {3}
    assert download.Journal(tmp_path / "j", stat, 200).done == set()
    assert download.Journal(tmp_path / "j", storage.Stat(1000, "v2"), 200).done == set()
    assert download.reserved_bytes(tmp_path / "j") == 1000 and download.reserved_bytes(tmp_path / "none") == 0


def test_a_damaged_partial_file_is_noticed_and_loaded_anew(web, cache):
    web.files["x"] = DATA
    web.headers["x"] = {"Repr-Digest": "sha-256=:" + _base64(hashlib.sha256(DATA).digest()) + ":"}
    path = storage.fetch(web.url("x"), cache)
    cache.close()
    stat = storage.stat(web.url("x"))
    path.rename(path.with_name("x.partial"))
    with path.with_name("x.partial").open("r+b") as file:
        file.write(b"bad")
    head = json.dumps({"version": stat.version, "size": stat.size, "part_bytes": PART})
    path.with_name("x.parts").write_text("\n".join([head, *map(str, range(PARTS)), ""]))
    assert storage.fetch(web.url("x"), cache).read_bytes() == DATA
    assert len(web.ranges_asked("x")) == 2 * PARTS

    web.files["y"] = DATA
    web.headers["y"] = web.headers["x"] | {"Repr-Digest": "sha-256=:" + _base64(bytes(32)) + ":"}
    cache.close()
    with pytest.raises(storage.StorageError, match="downloaded twice, and wrong both times: its sha256 is"):
        storage.fetch(web.url("y"), cache)
    assert kept(cache) == []


def _base64(data: bytes) -> str:
    import base64

    return base64.b64encode(data).decode()


def test_a_file_that_changes_during_the_download(web, cache):
    web.files["x"] = DATA

    def change(hit):
        if hit.method == "GET":
            web.files["x"] = DATA[::-1]

    web.before_body = change
    with pytest.raises(storage.ChangedError, match="changed while it was being read"):
        storage.fetch(web.url("x"), cache)


def test_the_oldest_files_go_first_and_those_in_use_never(web, cache):
    for name in "abcd":
        web.files[name] = name.encode() * 300_000
    for name in "ab":
        path = storage.fetch(web.url(name), cache)
        os.utime(path.with_name("lock"), (len(name), ord(name)))
        cache.release(path)
    used = storage.fetch(web.url("c"), cache)
    assert kept(cache) == ["a", "b", "c"]
    cache.release(storage.fetch(web.url("a"), cache))  # used last, so b goes
    cache.release(storage.fetch(web.url("d"), cache))
    assert kept(cache) == ["a", "c", "d"]
    web.files["e"] = b"e" * 700_000
    storage.fetch(web.url("e"), cache)
    assert kept(cache) == ["c", "e"] and used.exists()
    other = pickle.loads(pickle.dumps(cache))
    assert (other.folder, other.max_bytes, other.part_bytes) == (cache.folder, 1_000_000, PART)
    with pytest.raises(
        storage.StorageError, match=r"the cache is full: 300,000 bytes needed .* in use take 1,000,000 of"
    ):
        storage.fetch(web.url("a"), other)
    cache.close()
    assert storage.fetch(web.url("a"), other).exists()
    web.files["f"] = bytes(1_000_001)
    with pytest.raises(storage.StorageError, match=r"more than the cache .* may hold \(1,000,000 bytes\); raise"):
        storage.fetch(web.url("f"), other)


def test_files_are_let_go_with_the_cache_object(web, cache):
    web.files["x"] = b"1"
    path = storage.fetch(web.url("x"), cache)
    assert flock.acquire(path.with_name("lock"), exclusive=True, wait=False) is None
    with cache:
        storage.fetch(web.url("x"), cache)
    other = pickle.loads(pickle.dumps(cache))
    storage.fetch(web.url("x"), other)
    del other
    descriptor = flock.acquire(path.with_name("lock"), exclusive=True, wait=False)
    assert descriptor is not None
    flock.release(descriptor)


def test_processes_that_want_the_same_file_load_it_once(web, cache):
    web.files["x"] = DATA
    processes = [start_fetch(web.url("x"), cache.folder) for _ in range(3)]
    paths = {process.communicate(timeout=60)[0].strip() for process in processes}
    assert all(process.returncode == 0 for process in processes)
    assert len(paths) == 1 and Path(paths.pop()).read_bytes() == DATA
    assert len(web.ranges_asked("x")) == PARTS


def test_threads_that_want_many_files_in_a_small_cache(web, tmp_path):
    cache = storage.Cache(tmp_path / "small", 25_000)
    for i in range(12):
        web.files[str(i)] = bytes([i]) * 10_000
    failures = []

    def work(seed):
        for i in random.Random(seed).sample(range(12), 12):
            with storage.pinned(web.url(str(i)), cache) as path:
                if path.read_bytes() != bytes([i]) * 10_000:
                    failures.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures and sum(p.stat().st_size for p in cache.folder.glob("*/*")) <= 25_000


def test_a_full_disk(web, cache, monkeypatch):
    web.files["x"], web.files["old"] = DATA, b"o" * 100_000
    cache.release(storage.fetch(web.url("old"), cache))
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(cache_storage.shutil, "disk_usage", lambda path: usage(10**6, 9 * 10**5, 12_345))
    with pytest.raises(storage.StorageError) as caught:
        storage.fetch(web.url("x"), cache)
    text = str(caught.value)
    assert str(cache.folder) in text and "600,000 bytes needed" in text and "12,345 bytes free" in text
    assert kept(cache) == []  # what could be let go was let go first
    monkeypatch.undo()
    real = os.pwrite

    def full(descriptor, data, place):
        if place > 300_000:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, place)

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(storage.StorageError, match="no space left: 600,000 bytes needed"):
        storage.fetch(web.url("x"), cache)
    monkeypatch.setattr(os, "pwrite", real)
    before = len(web.ranges_asked("x"))
    assert storage.fetch(web.url("x"), cache).read_bytes() == DATA
    assert len(web.ranges_asked("x")) - before < PARTS
