"""A run's tokens as PyTorch datasets, for any training loop.

    from trainer import shards

    data = shards.open("runs/dclm_mix", sequence_length=4096)
    batches = data.batches(batch=1024, rank=rank, ranks=ranks)   # this rank's part of each batch, one after another
    for tokens in batches:                                       # uint16 [1024 / ranks, 4096], pinned if there is a GPU
        train_on(tokens.to("cuda", non_blocking=True).long())
    torch.save(batches.state_dict(), path)                       # {"position": ..., "fingerprint": ...}

`data` itself is a map-style dataset: data[i] is the instance at position i of the training order, which runs over all
epochs and sources as the mixture asks. Batches are read straight into the tensor that is handed out, ahead of their use
and by several threads; small ones several at a time, as views of one tensor. Which instances come is a function of the
position alone: a state can be taken up with another batch size or other ranks.
`DataLoader(batches, batch_size=None, num_workers=n)` gives the same batches in the same order.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, IterableDataset, get_worker_info

from trainer.fetched import fetched, is_elsewhere
from trainer.loader.ahead import AHEAD, read_ahead
from trainer.loader.data import Data, Packing, open_data
from trainer.loader.files import THREADS, DataError

READ_BYTES = 1 << 21  # small batches are read together up to this: a call, and a change of threads, cost time
KEPT = 8  # blocks of memory that wait to be used again

TYPES = {"uint16": torch.uint16, "uint32": torch.uint32}


class Documented(NamedTuple):
    """A batch of instances with the documents that their tokens are of."""

    tokens: Tensor  # uint16 or uint32 [instances, sequence_length], as stored
    documents: Tensor  # int32 like tokens, from 0 in each instance; -1 where there is padding


class Tokens(Dataset):
    """The training instances of a run in their order, one tensor [sequence_length] each; made by `open`."""

    def __init__(self, data: Data) -> None:
        self.data, self.instances = data, data.train
        self.fingerprint, self.vocab_size, self.eos_id = data.fingerprint, data.vocab_size, data.eos_id

    def __len__(self) -> int:
        """Instances over all epochs that the mixture asks for."""
        return len(self.instances)

    def __getitem__(self, position: int) -> Tensor:
        return self.__getitems__([position])[0]

    def __getitems__(self, positions: Sequence[int]) -> list[Tensor]:
        """What DataLoader asks for a batch: instances in any order, which are read together."""
        found = np.array([position + len(self) if position < 0 else position for position in positions], np.int64)
        wrong = (found < 0) | (found >= len(self))
        if wrong.any():
            raise IndexError(f"position {positions[int(wrong.argmax())]} of {len(self)} instances")
        if not len(found):
            return []
        order = np.argsort(found, kind="stable")
        tokens, _ = self.read_at(found[order], False)
        return [tokens[row] for row in np.argsort(order, kind="stable").tolist()]

    def read(self, first: int, count: int) -> Tensor:
        """Instances first..first+count-1: uint16 or uint32 [count, sequence_length]; in pinned memory if there is a GPU.

        Raises DataError beyond the last.
        """
        return self.read_at(self.instances.positions(first, count), False)[0]

    def read_documents(self, first: int, count: int) -> Documented:
        """The same, with the document of each token."""
        tokens, documents = self.read_at(self.instances.positions(first, count), True)
        assert documents is not None
        return Documented(tokens, documents)

    def batches(
        self, batch: int, rank: int = 0, ranks: int = 1, documents: bool = False, ahead: int = AHEAD
    ) -> Batches:
        """This rank's part of each batch of `batch` instances, from the first on; `Documented` ones with `documents`.

        `ahead` batches, or a few more, are read before they are wanted. Raises DataError where a batch does not divide.
        """
        return Batches(self, batch, rank, ranks, documents, ahead)

    def read_at(
        self, positions: np.ndarray, documents: bool, memory: _Memory | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """The tokens, and the documents if asked for, of any positions in range, which ascend."""
        shape, dtype = (len(positions), self.instances.sequence_length), self.instances.dtype
        # Workers of a DataLoader must not touch the GPU; they pin what they send, if asked to.
        if torch.cuda.is_available() and get_worker_info() is None:
            # PyTorch keeps pinned memory itself, and knows when the GPU has done with it.
            tokens = torch.empty(shape, dtype=TYPES[dtype.name], pin_memory=True)
        else:
            tokens = torch.from_numpy((memory or _Memory()).take(shape, dtype))
        found = self.instances.read_at(positions, documents, out=tokens.numpy())
        return tokens, None if found.documents is None else torch.from_numpy(found.documents)


class _Memory:
    """Memory for batches of one size. What nobody holds any more is used again: the system neither has to give it
    anew, nor ends up with holes where it was, and a processor's cache may still have it."""

    def __init__(self) -> None:
        self.free: list[np.ndarray] = []

    def take(self, shape: tuple[int, int], dtype: np.dtype) -> np.ndarray:
        """An array whose memory comes back here when the last view of it is gone."""
        size = shape[0] * shape[1] * dtype.itemsize
        try:
            found = self.free.pop()  # several threads take: to look first would tell nothing
        except IndexError:
            found = np.empty(size, np.uint8)
        if found.nbytes != size:  # the last batches of an epoch may be fewer
            found = np.empty(size, np.uint8)
        array = found.view(dtype).reshape(shape)
        weakref.finalize(array, self.give, found).atexit = False
        return array

    def give(self, memory: np.ndarray) -> None:
        if len(self.free) < KEPT:
            self.free.append(memory)


class Batches(IterableDataset):
    """One rank's part of batch after batch, from a position on, to the last whole batch. Made by `Tokens.batches`.

    Iterating goes on from `position`, the instances that all ranks together have been given.
    """

    def __init__(self, tokens: Tokens, batch: int, rank: int, ranks: int, documents: bool, ahead: int) -> None:
        if batch < 1 or ranks < 1 or batch % ranks or not 0 <= rank < ranks:
            raise DataError(f"a batch of {batch} instances does not divide among {ranks} ranks (this one is {rank})")
        self.tokens, self.batch, self.rank, self.ranks = tokens, batch, rank, ranks
        self.documents, self.ahead = documents, ahead
        self.position = self.begun = 0

    def __len__(self) -> int:
        """Batches left."""
        return (len(self.tokens) - self.position) // self.batch

    def __iter__(self) -> Iterator[Tensor | Documented]:
        worker = get_worker_info()
        first, every = (worker.id, worker.num_workers) if worker else (0, 1)
        self.begun = self.position
        share, begin = self.batch // self.ranks, self.begun
        size = share * self.tokens.instances.sequence_length * self.tokens.instances.dtype.itemsize
        together = max(1, READ_BYTES // size)
        ahead = max(THREADS + 1, -(-self.ahead // together))
        rows = np.arange(share) + (begin + self.rank * share)

        memory = _Memory()

        def read(numbers: range) -> Callable[[], tuple[Tensor, Tensor | None]]:
            positions = (np.array(numbers)[:, None] * self.batch + rows).ravel()
            return lambda: self.tokens.read_at(positions, self.documents, memory)

        numbers = range(first, len(self), every)
        starts = range(0, len(numbers), together)
        calls = (read(numbers[start : start + together]) for start in starts)
        for at, (tokens, documents) in zip(starts, read_ahead(calls, ahead), strict=True):
            group = numbers[at : at + together]
            for number, start in zip(group, range(0, len(tokens), share), strict=True):
                self.position = begin + (number + 1) * self.batch
                some = slice(start, start + share)
                yield tokens[some] if documents is None else Documented(tokens[some], documents[some])

    def state_dict(self, batches: int | None = None) -> dict[str, Any]:
        """Where to go on: after the batch that was given last.

        Worker processes of a DataLoader read ahead unseen by this one: with them, say how many `batches` were taken
        from the DataLoader since it began.
        """
        position = self.position if batches is None else self.begun + batches * self.batch
        return {"position": position, "fingerprint": self.tokens.fingerprint}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state. Raises DataError if it is of another corpus, sequence length, packing or seed."""
        self.tokens.data.check(state["fingerprint"])
        if not 0 <= state["position"] <= len(self.tokens):
            raise DataError(f"position {state['position']} is not in the data, which has {len(self.tokens)} instances")
        self.position = self.begun = state["position"]


def open(
    run_dir: str | Path,
    sequence_length: int,
    packing: Packing = "concatenate",
    seed: int | None = None,
    max_tokens: int | None = None,
) -> Tokens:
    """The training instances of a finished run, or of what `materialize` wrote.

    run_dir: its folder; s3://BUCKET/RUN and hf://datasets/ORG/NAME are fetched to this machine once (`trainer.fetched`).
    `packing`: "concatenate" (OLMo's rule) or "best_fit" (whole documents, padded). `seed` is the order's (None: the
    mixture's own). Raises DataError where the run is missing or damaged, or holds nothing of this length.
    """
    run_dir = fetched(run_dir) if is_elsewhere(run_dir) else run_dir
    return Tokens(open_data(run_dir, sequence_length, seed, max_tokens, packing))
