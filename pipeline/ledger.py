"""The ledger: one JSON file a finished task, written after its outputs have landed. What a rerun may skip, it finds here.

RUN/ledger/<key>.json holds {"key", "name", "function", "similar", "outputs": [{"path", "bytes"}], "report": {...}, and how
long it took, where, and with how much memory}. A task counts as done when its entry is there and its outputs are there
in the size that the entry names, but for those let go on purpose (`released`).
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from pipeline import storage

FOLDER = "ledger"
READERS = 32  # entries read at once: on S3 the wait is latency, not work


class Ledger:
    """All entries of one run's folder, read once; the engine adds to it as tasks finish."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.entries: dict[str, dict[str, Any]] = {}
        self.owners: dict[str, str] = {}  # output path -> key of the entry that wrote it
        self.similar: dict[str, str] = {}
        listed = storage.list_files(run)
        prefix = run.rstrip("/") + "/"
        self.sizes = {entry.uri.removeprefix(prefix): entry.size for entry in listed}
        names = [path for path in self.sizes if path.startswith(f"{FOLDER}/") and path.endswith(".json")]
        with ThreadPoolExecutor(READERS) as pool:
            for data in pool.map(lambda name: storage.read_bytes(storage.join(run, name)), names):
                self.add(orjson.loads(data))

    def add(self, entry: dict[str, Any]) -> None:
        """Take in a finished task's entry."""
        self.entries[entry["key"]] = entry
        for output in entry["outputs"]:
            self.owners[output["path"]] = entry["key"]
            if output["path"] not in entry.get("released", ()):
                self.sizes[output["path"]] = output["bytes"]
        if entry.get("similar"):
            self.similar[entry["similar"]] = entry["key"]

    def find(self, key: str) -> dict[str, Any] | None:
        """The entry of a task that is done, or None."""
        entry = self.entries.get(key)
        return entry if entry and self.present(entry) else None

    def present(self, entry: dict[str, Any]) -> bool:
        """True when all outputs of an entry lie there, in the size that was written, but for those let go."""
        let_go = entry.get("released", ())
        return all(self.sizes.get(o["path"]) == o["bytes"] for o in entry["outputs"] if o["path"] not in let_go)

    def lender(self, similar: str | None) -> dict[str, Any] | None:
        """An entry that measured the same documents the same way under other limits, its parts still there."""
        entry = self.entries.get(self.similar.get(similar or "", ""))
        return entry if entry and not entry.get("released") and self.present(entry) else None

    def make_room(self, paths: list[str]) -> None:
        """Forget entries whose outputs are about to be written over, before they are: no entry may vouch for others' bytes."""
        for key in {self.owners[p] for p in paths if p in self.owners}:
            self.forget(key)

    def forget(self, key: str) -> None:
        """Remove one entry, here and in the folder."""
        entry = self.entries.pop(key, None)
        if entry is None:
            return
        storage.delete(storage.join(self.run, FOLDER, f"{key}.json"))
        for output in entry["outputs"]:
            if self.owners.get(output["path"]) == key:
                del self.owners[output["path"]]
            self.sizes.pop(output["path"], None)
        if self.similar.get(entry.get("similar") or "") == key:
            del self.similar[entry["similar"]]

    def release(self, key: str, paths: list[str]) -> None:
        """Let outputs of a done task go: they are marked in its entry first, then removed."""
        entry = self.entries[key]
        paths = [path for path in paths if path not in entry.get("released", ())]
        if not paths:
            return
        entry["released"] = [*entry.get("released", ()), *paths]
        write_entry(self.run, entry)
        storage.delete_many([storage.join(self.run, path) for path in paths])
        for path in paths:
            self.sizes.pop(path, None)

    def released(self, path: str) -> str | None:
        """The key of the task whose output this was, if it was let go."""
        owner = self.owners.get(path)
        return owner if owner and path in self.entries[owner].get("released", ()) else None

    def sweep(self, used: set[str]) -> int:
        """Remove entries of other settings, and their outputs, once a run is whole. Returns how many tasks went."""
        stale = [key for key in self.entries if key not in used]
        kept = {o["path"] for key in used if key in self.entries for o in self.entries[key]["outputs"]}
        for key in stale:
            paths = [o["path"] for o in self.entries[key]["outputs"] if o["path"] not in kept]
            self.forget(key)
            storage.delete_many([storage.join(self.run, path) for path in paths])
        return len(stale)


def write_entry(run: str, entry: dict[str, Any]) -> None:
    """Write one entry, atomically: the moment from which its task is done."""
    storage.write_bytes(
        storage.join(run, FOLDER, f"{entry['key']}.json"), orjson.dumps(entry, option=orjson.OPT_INDENT_2)
    )
