"""Fixtures of the storage tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from web_server import WebServer, running_web_server

from pipeline import storage
from pipeline.storage import retry


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries wait for hundredths of a second."""
    monkeypatch.setattr(retry, "FIRST_DELAY", 0.01)
    monkeypatch.setattr(retry, "LONGEST_DELAY", 0.05)


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    """A web server of the test's own."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with running_web_server() as server:
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> storage.Cache:
    """A cache of 1 MB whose downloads ask for parts of 64 KiB."""
    return storage.Cache(tmp_path / "cache", 1_000_000, part_bytes=1 << 16)
