"""Shards that are ranges of other files: parts of a source that were told apart after its tokens were written.

A shard of this kind has a file of ranges (`stages.tokens.shard_format.Ranges`) in place of tokens. Where a token lies is
found by binary search in a memory map: nothing is held for it, however many ranges there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stages.tokens.shard_format import Manifest, Ranges, check_ranges, check_tokens, open_ranges
from trainer.loader.files import DataError, Reader


class Whole:
    """The files that some shards are ranges of, in their order."""

    def __init__(self, run_dir: Path, files: Sequence[Mapping[str, Any]], dtype: np.dtype, reader: Reader) -> None:
        paths = [run_dir / file["path"] for file in files]
        for path, file in zip(paths, files, strict=True):
            check_tokens(path, dtype, file["tokens"])
        self.first = reader.add(paths)
        self.ends = np.cumsum([file["tokens"] for file in files], dtype=np.int64)
        self.starts = self.ends - np.array([file["tokens"] for file in files], np.int64)


class Wholes:
    """The files that shards of a manifest are ranges of, each list opened once."""

    def __init__(self, run_dir: Path, manifest: Manifest, reader: Reader) -> None:
        self._run_dir, self._manifest, self._reader = run_dir, manifest, reader
        self._opened: dict[str, Whole] = {}

    def of(self, shards: Sequence[Mapping[str, Any]]) -> Whole | None:
        """What the shards of one source are ranges of; None where they have tokens of their own."""
        name = next((shard["whole"] for shard in shards if "whole" in shard), None)
        if name is None:
            return None
        if name not in self._opened:
            files = self._manifest.get("whole", {})[name]
            self._opened[name] = Whole(self._run_dir, files, np.dtype(self._manifest["dtype"]), self._reader)
        return self._opened[name]


class Scattered:
    """Where the tokens of some shards lie in the files that they are ranges of."""

    def __init__(self, run_dir: Path, shards: Sequence[Mapping[str, Any]], whole: Whole) -> None:
        self._whole = whole
        self._shards = [(run_dir / shard["path"], shard["ranges"]) for shard in shards]
        for path, ranges in self._shards:
            check_ranges(path, ranges, len(whole.ends))
        self._opened: dict[int, Ranges] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_opened": {}}  # another process maps the files itself

    def find(
        self, shards: np.ndarray, starts: np.ndarray, sizes: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Pieces of the reader's files (file, first token, tokens, target) that these tokens of the shards are.

        shards, starts, sizes (all above 0), targets: int64 arrays of one length; targets count tokens too. Raises DataError
        for ranges that point beyond the files.
        """
        found = []
        for shard in np.unique(shards).tolist():
            mine = np.flatnonzero(shards == shard)
            found.append(self._in_shard(shard, starts[mine], sizes[mine], targets[mine]))
        files, at, size, to = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return files, at, size, to

    def _in_shard(
        self, shard: int, starts: np.ndarray, sizes: np.ndarray, targets: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        ranges, stops = self._ranges(shard), starts + sizes
        first = np.searchsorted(ranges.ends, starts, side="right")
        counts = np.searchsorted(ranges.ends, stops, side="left") - first + 1
        owner = np.repeat(np.arange(len(starts)), counts)
        number = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts) + first[owner]
        if len(number) and (int(number.max()) >= len(ranges.ends) or int(counts.min()) < 1):
            raise self._damaged(shard)
        before = np.where(number > 0, ranges.ends[number - 1], 0)
        low, high = np.maximum(before, starts[owner]), np.minimum(ranges.ends[number], stops[owner])
        at, size = ranges.starts[number] + low - before, high - low
        files = np.searchsorted(self._whole.ends, at, side="right")
        inside = np.minimum(files, len(self._whole.ends) - 1)
        if ((size < 1) | (at < 0) | (at + size > self._whole.ends[inside])).any():
            raise self._damaged(shard)
        return self._whole.first + files, at - self._whole.starts[files], size, targets[owner] + low - starts[owner]

    def _ranges(self, shard: int) -> Ranges:
        if shard not in self._opened:
            path, ranges = self._shards[shard]
            self._opened[shard] = open_ranges(path, ranges, len(self._whole.ends))
        return self._opened[shard]

    def _damaged(self, shard: int) -> DataError:
        return DataError(f"{self._shards[shard][0]}: its ranges do not lie in the files that they are of; mix the folder again")
