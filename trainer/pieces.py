"""Pieces of tensors in safetensors files: which rows a process holds, and reading any rows from files that hold others.

A tensor lies in the files of a checkpoint whole, as NAME, or in pieces by rows of its first dimension, as NAME[2:5] for
rows 2 to 4. So each process writes what it holds and reads what it needs, whatever the number of processes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor


class Held(NamedTuple):
    """The part of a parameter that this process holds."""

    local: Tensor
    start: int  # its first row in the whole tensor
    rows: int  # rows of the whole tensor
    writers: int  # processes that hold this very part,
    writer: int  # and which of them this one is

    @property
    def whole(self) -> bool:
        """Whether it is all of the parameter."""
        return self.local.ndim == 0 or len(self.local) == self.rows

    def key(self, name: str) -> str:
        """What a file calls it."""
        return name if self.whole else f"{name}[{self.start}:{self.start + len(self.local)}]"


def held(tensor: Tensor, count: int = 1, rank: int = 0) -> Held:
    """The part of a tensor that lies here: all of it, unless FSDP2 split it by rows. A tensor that is not split is held by
    all `count` processes alike."""
    tensor = tensor.detach()
    if not hasattr(tensor, "device_mesh"):
        return Held(tensor, 0, len(tensor) if tensor.ndim else 1, count, rank)
    mesh, local = tensor.device_mesh, tensor.to_local()
    coordinate = mesh.get_coordinate()
    assert coordinate is not None  # every process is in the mesh
    start, rows, writers, writer = 0, len(tensor), 1, 0
    for dimension, placement in enumerate(tensor.placements):
        if placement.is_shard(0):
            chunk = -(-rows // mesh.size(dimension))  # as torch.chunk cuts
            start = min(rows, coordinate[dimension] * chunk)
        elif placement.is_replicate():
            writers, writer = writers * mesh.size(dimension), writer * mesh.size(dimension) + coordinate[dimension]
        else:
            raise ValueError(f"a parameter is placed as {placement}, which checkpoints do not know")
    return Held(local, start, rows, writers, writer)


def writers_of(sizes: Sequence[int], count: int) -> list[int]:
    """Who of `count` processes writes each of several tensors that all of them hold: about the same bytes for each."""
    loads, chosen = [0] * count, [0] * len(sizes)
    for index in sorted(range(len(sizes)), key=lambda index: (-sizes[index], index)):
        chosen[index] = loads.index(min(loads))
        loads[chosen[index]] += sizes[index]
    return chosen


class PieceError(Exception):
    """What is wrong with the files: one clause."""


class _Piece(NamedTuple):
    start: int
    end: int
    file: int
    key: str


class PieceReader:
    """Reads tensors, or rows of them, from several safetensors files. Raises PieceError for damage."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.bytes = 0  # read so far
        self._files: list[Any] = []
        self._pieces: dict[str, list[_Piece]] = {}
        self._shapes: dict[str, list[int]] = {}  # of one piece
        for number, path in enumerate(paths):
            try:
                file = safe_open(path, "pt")
                self._files.append(file)
                for key in file.keys():  # noqa: SIM118
                    self._enter(number, key, list(file.get_slice(key).get_shape()))
            except (OSError, SafetensorError) as error:
                raise PieceError(f"{path.name} cannot be read ({error})") from None
        for pieces in self._pieces.values():
            pieces.sort()

    def _enter(self, number: int, key: str, shape: list[int]) -> None:
        match = re.fullmatch(r"(.+)\[(\d+):(\d+)\]", key)
        rows = shape[0] if shape else 1
        name, start, end = (match[1], int(match[2]), int(match[3])) if match else (key, 0, rows)
        if end - start != rows:
            raise PieceError(f"{key} has {rows} rows")
        self._pieces.setdefault(name, []).append(_Piece(start, end, number, key))
        self._shapes[name] = shape

    def names(self) -> list[str]:
        """All tensors."""
        return list(self._pieces)

    def shape(self, name: str) -> list[int]:
        """The shape of a whole tensor."""
        shape = self._shapes[self._known(name)]
        return [self._pieces[name][-1].end, *shape[1:]] if shape else shape

    def read(self, name: str) -> Tensor:
        """A whole tensor."""
        shape = self.shape(name)
        return self.rows(name, 0, shape[0]) if shape else self._whole(self._pieces[name][0])

    def rows(self, name: str, start: int, end: int) -> Tensor:
        """Rows start..end-1 of a tensor. Only these are read."""
        parts, at = [], start
        for piece in self._pieces[self._known(name)]:
            if piece.end <= at or piece.start >= end:
                continue
            if piece.start > at:
                break
            last = min(end, piece.end)
            whole = (at, last) == (piece.start, piece.end)
            parts.append(self._whole(piece) if whole else self._slice(piece, at, last))
            at = last
        if at < end:
            raise PieceError(f"rows {at} to {end - 1} of {name} are missing")
        if not parts:
            return torch.empty([0, *self._shapes[name][1:]])
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _whole(self, piece: _Piece) -> Tensor:
        return self._counted(self._files[piece.file].get_tensor(piece.key))

    def _slice(self, piece: _Piece, start: int, end: int) -> Tensor:
        return self._counted(self._files[piece.file].get_slice(piece.key)[start - piece.start : end - piece.start])

    def _counted(self, tensor: Tensor) -> Tensor:
        self.bytes += tensor.numel() * tensor.element_size()
        return tensor

    def _known(self, name: str) -> str:
        if name not in self._pieces:
            raise PieceError(f"it has no tensor {name}")
        return name
