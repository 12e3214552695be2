"""Arrays made once a machine and mapped."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from stages.errors import UserError
from stages.filters.machine_arrays import Arrays, machine_arrays


def test_one_builds_and_all_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    built = []

    def build() -> Arrays:
        built.append(1)
        return {"one": np.arange(5), "none": np.zeros(0, np.uint32)}

    found: list[Arrays] = []
    threads = [threading.Thread(target=lambda: found.append(machine_arrays("key", build))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert built == [1]
    for arrays in found:
        assert arrays["one"].tolist() == [0, 1, 2, 3, 4]
        assert len(arrays["none"]) == 0
        assert not arrays["one"].flags.writeable
    assert machine_arrays("other", build)["one"].tolist() == [0, 1, 2, 3, 4]
    assert len(built) == 2


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))

    def fail() -> Arrays:
        raise UserError("no such list")

    with pytest.raises(UserError, match="no such list"):
        machine_arrays("key", fail)
    assert machine_arrays("key", lambda: {"one": np.ones(1)})["one"].tolist() == [1]
    assert sorted(path.name for path in (tmp_path / "cache" / "lists").iterdir()) == ["key", "key.lock"]


def test_a_cache_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot keep lists in .*HEADRACE_CACHE"):
        machine_arrays("key", lambda: {"one": np.ones(1)})
