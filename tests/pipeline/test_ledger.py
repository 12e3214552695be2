"""The ledger: what counts as done, what a kill in between leaves, and that nothing is let go twice or forgotten."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import storage
from pipeline.ledger import Ledger, write_entry
from stages.errors import UserError


def done(run: Path, key: str, *paths: str) -> dict[str, Any]:
    """A finished task, as its worker leaves it."""
    for path in paths:
        storage.write_bytes(f"{run}/{path}", path.encode())
    outputs = [{"path": path, "bytes": len(path), "digest": ""} for path in paths]
    entry = {"key": key, "name": key, "similar": f"like {key}", "outputs": outputs, "report": {}}
    write_entry(str(run), entry)
    return entry


def files(run: Path) -> set[str]:
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"cut")], ids=["missing", "cut"])
def test_a_task_is_done_only_while_its_outputs_are_there(tmp_path: Path, damage: Any) -> None:
    done(tmp_path, "a", "parts/a")
    assert Ledger(str(tmp_path)).find("a")
    damage(tmp_path / "parts/a")
    assert Ledger(str(tmp_path)).find("a") is None
    assert Ledger(str(tmp_path)).lender("like a") is None


def test_what_is_released_stays_done_and_is_removed_also_after_a_kill_in_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done(tmp_path, "a", "parts/a", "parts/a.dropped")
    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete_many", lambda uris: None)  # the kill: marked, not removed
        Ledger(str(tmp_path)).release([("a", ["parts/a"])])
    assert (tmp_path / "parts/a").exists()
    ledger = Ledger(str(tmp_path))
    ledger.release([("a", ["parts/a"])])
    assert files(tmp_path) == {"ledger/a.json", "parts/a.dropped"}
    again = Ledger(str(tmp_path))
    assert again.find("a") and again.released("parts/a") == "a" and again.released("parts/a.dropped") is None


def test_a_sweep_spares_what_is_in_use_and_goes_on_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done(tmp_path, "old", "tokens/0", "tokens/1")
    done(tmp_path, "new", "tokens/0", "parts/b")
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "forget", lambda self, keys: None)  # the kill: outputs removed, entries not
        Ledger(str(tmp_path)).sweep({"new"})
    assert Ledger(str(tmp_path)).sweep({"new"}) == 1
    assert files(tmp_path) == {"ledger/new.json", "tokens/0", "parts/b"}
    assert Ledger(str(tmp_path)).find("new")


@pytest.mark.parametrize("data", [b"{", b"{}", b"[]"])
def test_a_damaged_entry_is_named(tmp_path: Path, data: bytes) -> None:
    done(tmp_path, "a", "parts/a")
    (tmp_path / "ledger/a.json").write_bytes(data)
    with pytest.raises(UserError, match=r"ledger/a\.json: damaged.*delete the file"):
        Ledger(str(tmp_path))


def test_a_sweep_takes_parts_that_no_entry_knows_and_nothing_else(tmp_path: Path) -> None:
    done(tmp_path, "new", "parts/b", "tokens/0")
    for path in ("parts/web/0/killed.kept.parquet", "tokens/1", "notes.txt"):
        storage.write_bytes(f"{tmp_path}/{path}", b"left")
    Ledger(str(tmp_path)).sweep({"new"})
    assert files(tmp_path) == {"ledger/new.json", "parts/b", "tokens/0", "tokens/1", "notes.txt"}
