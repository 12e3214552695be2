"""A folder of pairs, opened: token shards with masks, read through memory maps.

A sequence is a prompt with an answer. Beside the maps, 40 bytes a sequence are held in memory.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.tokens.shard_format import ShardError, load_manifest, open_tokens
from trainer.errors import TrainerError

ROLES = ("answer", "chosen", "rejected", "desirable", "undesirable")
"""What a sequence is, by its number in the shards (pipeline/pairs/conversation.py)."""


@dataclass(frozen=True)
class Record:
    """What the shards keep of a sequence's record, as text."""

    id: str
    role: str
    prompt: str
    answer: str
    fields: dict[str, Any]


class Sequences:
    """All sequences of one split, numbered through."""

    def __init__(self, folder: Path, shards: list[dict[str, Any]], dtype: np.dtype) -> None:
        self.folder, self.shards = folder, shards
        self._tokens = [open_tokens(folder / shard["path"], dtype, shard["tokens"]) for shard in shards]
        self._masks = [open_tokens(folder / shard["mask"], np.uint8, shard["tokens"]) for shard in shards]
        tables = [self._table(shard) for shard in shards]
        rows = np.concatenate(tables) if tables else np.zeros((0, 4), np.int64)
        self.shard = np.repeat(np.arange(len(shards), dtype=np.int32), [len(table) for table in tables])
        self.start, self.length = rows[:, 0].copy(), (rows[:, 1] - rows[:, 0]).astype(np.int32)
        self.role, self.pair = rows[:, 2].astype(np.int8), rows[:, 3].copy()

    def _table(self, shard: dict[str, Any]) -> np.ndarray:
        path = self.folder / shard["pairs"]
        try:
            rows = np.fromfile(path, "<i8")
        except OSError as error:
            raise TrainerError(f"{path}: cannot be read ({error.strerror})") from None
        if rows.size != 4 * shard["documents"]:
            raise TrainerError(f"{path}: holds {rows.size // 4} sequences, {shard['documents']} were expected")
        rows = rows.reshape(-1, 4)
        if len(rows) and not (
            rows[:, 0].min() >= 0 and rows[:, 1].max() <= shard["tokens"] and rows[:, 2].max() < len(ROLES)
        ):
            raise TrainerError(f"{path}: names tokens or roles that there are not; make the pairs again")
        return rows

    def __len__(self) -> int:
        return len(self.start)

    def read(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens (int64) and mask (bool: of an answer, and learned) of one sequence."""
        shard, start = self.shard[number], self.start[number]
        place = slice(start, start + self.length[number])
        return self._tokens[shard][place].astype(np.int64), self._masks[shard][place] == 1

    def prompt(self, number: int) -> np.ndarray:
        """The tokens before the first answer (int64)."""
        tokens, mask = self.read(number)
        return tokens[: int(np.argmax(mask))]

    def numbers(self, *roles: str) -> np.ndarray:
        """The sequences of these roles, in order."""
        return np.flatnonzero(np.isin(self.role, [ROLES.index(role) for role in roles]))

    def records(self) -> Iterator[Record]:
        """The record of each sequence, in order."""
        for shard in self.shards:
            with gzip.open(self.folder / shard["records"], "rt", encoding="utf-8") as lines:
                for line in lines:
                    value = json.loads(line)
                    yield Record(*(value[name] for name in ("id", "role", "prompt", "answer", "fields")))


class Pairs:
    """A folder that `python -m pipeline pairs` made."""

    def __init__(self, folder: Path) -> None:
        """Raises TrainerError for a folder that is missing, damaged or of something else."""
        self.folder = folder
        try:
            manifest = load_manifest(folder)
            if "pairs" not in manifest:
                raise TrainerError(
                    f"{folder}: holds no pairs, but documents; make some with `python -m pipeline pairs`"
                )
            dtype = np.dtype(manifest["dtype"])
            entries = list(manifest["sources"].values())
            self.train = Sequences(folder, [s for entry in entries for s in entry["shards"]], dtype)
            self.held_out = Sequences(folder, [s for entry in entries for s in entry["held_out"]["shards"]], dtype)
        except ShardError as error:
            raise TrainerError(str(error)) from None
        facts, tokenizer = manifest["pairs"], manifest["tokenizer"]
        self.kind: str = facts["kind"]
        self.chat_template: str = facts["chat_template"]
        self.fingerprint: str = manifest["fingerprint"]
        self.tokenizer_file = folder / tokenizer["path"]
        self.tokenizer_sha256: str = tokenizer["sha256"]
        self.vocab_size: int = tokenizer["vocab_size"]
        self.eos_id: int = tokenizer["eos_id"]
        self.pad_id: int = tokenizer["pad_id"]
        self.seed: int = manifest["mixture"]["seed"]
