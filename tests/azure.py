"""`make azure`: az:// against Azurite, Microsoft's own emulator of Azure's storage (from npm). It is no part of `make test`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from email.utils import formatdate
from itertools import count
from pathlib import Path

import pytest
from clouds import Cloud, CloudTests

from pipeline import storage
from pipeline.carry_out import Options, run_recipe
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from pipeline.run_folder.finished import open_finished

# The account that every Azurite has (its documentation).
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "headrace"
PROGRAM = os.environ.get("AZURITE", ".venv/azurite/node_modules/.bin/azurite-blob")
NUMBERS = count(1)


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a running Azurite, with one container."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder: Path = tmp_path_factory.mktemp("azurite")
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--location", str(folder), "--silent"]
    process = subprocess.Popen([PROGRAM, *options, "--skipApiVersionCheck", "--disableTelemetry"])
    address = f"http://127.0.0.1:{port}/{ACCOUNT}"
    try:
        until = time.monotonic() + 60
        while not _created(address):
            assert process.poll() is None and time.monotonic() < until, "Azurite did not start"
            time.sleep(0.2)
        yield address
    finally:
        process.terminate()
        process.wait(30)


def _created(address: str) -> bool:
    """Create the container: a request signed by Shared Key (Azure's "Authorize with Shared Key")."""
    now = formatdate(usegmt=True)
    lines = [
        "PUT",
        *[""] * 11,
        f"x-ms-date:{now}",
        "x-ms-version:2021-08-06",
        f"/{ACCOUNT}/{ACCOUNT}/{CONTAINER}",
        "restype:container",
    ]
    signed = base64.b64encode(
        hmac.new(base64.b64decode(KEY), "\n".join(lines).encode(), hashlib.sha256).digest()
    ).decode()
    headers = {"x-ms-date": now, "x-ms-version": "2021-08-06", "Authorization": f"SharedKey {ACCOUNT}:{signed}"}
    request = urllib.request.Request(f"{address}/{CONTAINER}?restype=container", method="PUT", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=5):
            return True
    except OSError:
        return False


@pytest.fixture
def there(azurite: str, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    for name, value in {"ACCOUNT_NAME": ACCOUNT, "ACCOUNT_KEY": KEY, "ENDPOINT": azurite}.items():
        monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)
    return Cloud(f"az://{CONTAINER}/{next(NUMBERS)}", "az://no-such-container")


@pytest.fixture
def cache(tmp_path: Path) -> storage.Cache:
    return storage.Cache(tmp_path / "cache", 1_000_000, part_bytes=1 << 16)


class TestAzure(CloudTests):
    def test_credentials_that_are_refused_are_said_without_being_told(
        self, there: Cloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        secret = base64.b64encode(b"a wrong key").decode()
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", secret)
        with pytest.raises(
            storage.StorageError, match=r"credentials found may not read it.*AZURE_STORAGE_ACCOUNT_KEY"
        ) as error:
            storage.read_bytes(there.uri("x"))
        assert secret not in str(error.value) and not isinstance(error.value, storage.TransientError)

    def test_a_server_that_cannot_be_reached_is_waited_for(self, there: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:1/devstoreaccount1")
        with pytest.raises(storage.TransientError, match=r"cannot reach http://127\.0\.0\.1:1"):
            storage.stat(there.uri("x"))

    def test_a_run_reads_and_writes_there(self, there: Cloud) -> None:
        text = "The history of the river is that of its mills, and of the people who built them. " * 20
        lines = b"".join(b'{"id": "%d", "text": "%s %d"}\n' % (i, text.encode(), i) for i in range(200))
        storage.write_bytes(there.uri("in", "a.jsonl"), lines)
        recipe = {
            "name": "there",
            "sources": {
                "web": {"read": {"paths": [there.uri("in", "*.jsonl")]}, "steps": [{"dedup": {"method": "exact"}}]}
            },
            "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "100KB"}},
            "mixture": {"epochs": 1},
        }
        out = there.uri("out")
        first = run_recipe(build_recipe(recipe), Options(out, inline=True, progress=Progress(quiet=True)))
        assert not first.unchanged
        assert run_recipe(build_recipe(recipe), Options(out, inline=True, progress=Progress(quiet=True))).unchanged
        assert open_finished(out).manifest["sources"]["web"]["documents"] > 100
