import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from faulty_proxy import running_faulty_proxy

from pipeline import storage
from pipeline.storage import lock_object, lock_s3, s3_client
from pipeline.storage.s3_objects import split

ROOT = Path(__file__).resolve().parents[3]

HOLD = """
import sys, time
from pipeline import storage
with storage.RunLock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture(params=["local", "s3"])
def run(request, tmp_path):
    return str(tmp_path / "runs" / "a") if request.param == "local" else request.getfixturevalue("s3").uri("runs", "a")


def hold(run: str) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLD, run], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


def test_one_run_at_a_time(run):
    with storage.RunLock(run) as lock:
        lock.check()
        with pytest.raises(storage.StorageError) as caught, storage.RunLock(run):
            pass
        text = str(caught.value)
        assert text.startswith(f"{run} is being written by another run (pid {os.getpid()} on host ")
        assert " since 20" in text and text.endswith("); wait for it, stop it, or choose another --out")
        with storage.RunLock(storage.join(run, "other")):
            pass
    assert storage.list_files(run) == []
    with storage.RunLock(run):
        pass


def test_the_lock_of_a_killed_run_is_free(run):
    process = hold(run)
    try:
        with (
            pytest.raises(storage.StorageError, match=rf"another run \(pid {process.pid} on host "),
            storage.RunLock(run),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with storage.RunLock(run) as lock:
        lock.check()


def test_only_one_of_many_gets_it(run):
    held, refused, begin = [], [], threading.Barrier(6)
    done = threading.Event()

    def attempt():
        begin.wait()
        try:
            with storage.RunLock(run):
                held.append(1)
                done.wait(20)
        except storage.StorageError:
            refused.append(1)
        if len(refused) == 5:
            done.set()

    threads = [threading.Thread(target=attempt) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(held), len(refused)) == (1, 5)


def test_nothing_is_locked_on_the_web():
    with pytest.raises(storage.StorageError, match="nothing can be written there"):
        storage.RunLock("https://host/run")


def foreign(run: str, **changes) -> None:
    """Writes the lock of a run on another machine."""
    holder = {"pid": 4, "host": "far", "since": "long", "machine": "other", "started": "1", "token": "t", **changes}
    storage.write_bytes(storage.join(run, "run.lock"), json.dumps(holder).encode())


def test_a_lock_without_heartbeat_lapses(s3, monkeypatch):
    run = s3.uri("run")
    foreign(run)
    with (
        pytest.raises(storage.StorageError, match=r"pid 4 on host far since long\).*its lock lapses in \d+ s"),
        storage.RunLock(run),
    ):
        pass
    monkeypatch.setattr(lock_object, "STALE", 0.9)
    time.sleep(2.1)  # the server tells whole seconds
    with storage.RunLock(run):
        assert json.loads(storage.read_bytes(f"{run}/run.lock"))["pid"] == os.getpid()


def test_the_heartbeat_keeps_it_and_notices_its_loss(s3, monkeypatch):
    run = s3.uri("run")
    monkeypatch.setattr(lock_object, "HEARTBEAT", 0.05)
    with storage.RunLock(run) as lock:
        first = storage.stat(f"{run}/run.lock").version
        until(lambda: storage.stat(f"{run}/run.lock").version != first)
        lock.check()
        foreign(run)
        until(lambda: lock._lock._lost)
        with pytest.raises(storage.StorageError, match="has lost its lock: another run has taken it over"):
            lock.check()
    assert json.loads(storage.read_bytes(f"{run}/run.lock"))["host"] == "far"  # and is not let go by the loser


def test_silence_is_a_loss_too(s3, monkeypatch):
    with storage.RunLock(s3.uri("run")) as lock:
        monkeypatch.setattr(lock_object, "STALE", -1.0)
        with pytest.raises(storage.StorageError, match="could not be renewed"):
            lock.check()


def until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def test_servers_without_conditional_writes(s3, monkeypatch, caplog):
    """The real server, with the conditions taken off the requests: as a server does that does not know them."""
    run = s3.uri("run")
    monkeypatch.setattr(lock_s3, "SETTLE", 0.1)
    monkeypatch.setattr(lock_object, "HEARTBEAT", 0.05)

    def strip(request, **_):
        for name in ("If-None-Match", "If-Match"):
            if name in request.headers:
                del request.headers[name]

    client = s3_client.client(run, soon=True)
    for operation in ("PutObject", "DeleteObject"):
        client.meta.events.register(f"before-sign.s3.{operation}", strip)
    try:
        with storage.RunLock(run) as lock:
            assert "the run's lock is only advisory" in caplog.text
            until(lambda: lock._lock._holder.beat > 4)
            lock.check()
            # Without conditions a beat may still write over the other's lock: it writes again, as its own heartbeat would.
            until(lambda: foreign(run) or lock._lock._lost)
        storage.delete(f"{run}/run.lock")
    finally:
        for operation in ("PutObject", "DeleteObject"):
            client.meta.events.unregister(f"before-sign.s3.{operation}", strip)
    assert split(run)[0] == s3.bucket


def test_checks_meet_the_heartbeat(s3, monkeypatch):
    """The lock is written again as fast as the server takes it: no check of a task, and no question who holds it, minds."""
    run = s3.uri("run")
    monkeypatch.setattr(lock_object, "HEARTBEAT", 0)
    with storage.RunLock(run) as lock:
        before = json.loads(storage.read_bytes(f"{run}/run.lock"))["beat"]
        for _ in range(300):
            storage.check_token(run, lock.token)
            assert f"pid {os.getpid()} on host" in storage.lock_holder(run)
            assert json.loads(storage.read_bytes(f"{run}/run.lock"))["token"] == lock.token
        assert json.loads(storage.read_bytes(f"{run}/run.lock"))["beat"] > before + 100
        with pytest.raises(storage.StorageError, match="the run that this task belongs to is gone"):
            storage.check_token(run, "another")
        token = lock.token
    assert storage.lock_holder(run) is None
    with pytest.raises(storage.StorageError, match="the run that this task belongs to is gone"):
        storage.check_token(run, token)


def test_a_request_that_hangs_does_not_cost_the_lock(s3, monkeypatch):
    """The heartbeat waits seconds for an answer that does not come, and asks anew."""
    monkeypatch.setattr(s3_client, "SOON_TIMEOUT", 0.5)
    monkeypatch.setattr(s3_client, "_clients", {})
    monkeypatch.setattr(lock_object, "HEARTBEAT", 0.1)
    hangs = iter([False] * 2 + [True] * 2)  # the first two writes take the lock
    goes_on = threading.Event()

    def choose(method: str, path: str) -> None:
        if method == "PUT" and next(hangs, False):
            goes_on.wait(60)

    with running_faulty_proxy(urlsplit(s3.endpoint).port, choose) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        with storage.RunLock(s3.uri("run")) as lock:
            until = time.monotonic() + 30
            while proxy.requests < 8 and time.monotonic() < until:
                time.sleep(0.05)
            assert proxy.requests >= 8  # beats went on behind those that hang
            lock.check()
            goes_on.set()
