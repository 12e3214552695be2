"""The ledger: one JSON file a finished task, written after its outputs have landed. What a rerun may skip, it finds here.

RUN/ledger/<key>.json holds {"key", "name", "function", "similar", "outputs": [{"path", "bytes"}], "report": {...}, and how
long it took, where, and with how much memory}. A task counts as done when its entry is there and its outputs are there
in the size that the entry names, but for those let go on purpose (`released`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from pipeline import storage
from stages.errors import UserError

FOLDER = "ledger"
PARTS = "parts"  # where all interim files lie
PARALLEL = 32  # entries read or written at once: on S3 the wait is latency, not work


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
        with ThreadPoolExecutor(PARALLEL) as pool:
            found = pool.map(lambda name: storage.read_bytes(storage.join(run, name)), names)
            for name, data in zip(names, found, strict=True):
                try:
                    self._know(orjson.loads(data))
                except (ValueError, TypeError, KeyError):
                    raise UserError(
                        f"{storage.join(run, name)}: damaged, no entry of a ledger; delete the file, and its task runs again"
                    ) from None

    def _know(self, entry: dict[str, Any]) -> None:
        self.entries[entry["key"]] = entry
        self.owners |= {output["path"]: entry["key"] for output in entry["outputs"]}
        if entry.get("similar"):
            self.similar[entry["similar"]] = entry["key"]

    def add(self, entry: dict[str, Any]) -> None:
        """Take in the entry of a task that has just finished, its outputs being there."""
        self._know(entry)
        self.sizes |= {output["path"]: output["bytes"] for output in entry["outputs"]}

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
        self.forget({self.owners[p] for p in paths if p in self.owners})

    def forget(self, keys: Collection[str]) -> None:
        """Remove entries, here and in the folder."""
        keys = [key for key in keys if key in self.entries]
        storage.delete_many([storage.join(self.run, FOLDER, f"{key}.json") for key in keys])
        for key in keys:
            entry = self.entries.pop(key)
            for output in entry["outputs"]:
                if self.owners.get(output["path"]) == key:
                    del self.owners[output["path"]]
                    self.sizes.pop(output["path"], None)
            if self.similar.get(entry.get("similar") or "") == key:
                del self.similar[entry["similar"]]

    def release(self, outputs: Iterable[tuple[str, list[str]]]) -> None:
        """Let outputs of done tasks go, given as (key, paths): they are marked in their entries first, then removed."""
        marked: dict[str, dict[str, Any]] = {}
        there: list[str] = []  # also what was marked before a run was killed, and not yet removed
        for key, paths in outputs:
            entry = self.entries[key]
            if new := [path for path in paths if path not in entry.get("released", ())]:
                entry["released"] = [*entry.get("released", ()), *new]
                marked[key] = entry
            there += [path for path in paths if path in self.sizes]
        with ThreadPoolExecutor(PARALLEL) as pool:
            list(pool.map(lambda entry: write_entry(self.run, entry), marked.values()))
        storage.delete_many([storage.join(self.run, path) for path in there])
        for path in there:
            self.sizes.pop(path, None)

    def released(self, path: str) -> str | None:
        """The key of the task whose output this was, if it was let go."""
        owner = self.owners.get(path)
        return owner if owner and path in self.entries[owner].get("released", ()) else None

    def sweep(self, used: set[str]) -> int:
        """Remove entries of other settings, and their outputs, once a run is whole. Returns how many tasks went.

        Parts of which no entry tells go too: their tasks were killed before they were done, and never ran again.
        """
        stale = [key for key in self.entries if key not in used]
        kept = {o["path"] for key in used if key in self.entries for o in self.entries[key]["outputs"]}
        # Entries go last: where a kill comes between, they still say what is there to be removed.
        outputs = {o["path"] for key in stale for o in self.entries[key]["outputs"]} - kept
        outputs |= {path for path in self.sizes if path.startswith(f"{PARTS}/") and path not in self.owners}
        storage.delete_many([storage.join(self.run, path) for path in sorted(outputs)])
        self.forget(stale)
        return len(stale)


def write_entry(run: str, entry: dict[str, Any]) -> None:
    """Write one entry, atomically: the moment from which its task is done."""
    storage.write_bytes(
        storage.join(run, FOLDER, f"{entry['key']}.json"), orjson.dumps(entry, option=orjson.OPT_INDENT_2)
    )
