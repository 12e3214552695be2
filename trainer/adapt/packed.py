"""Pairs packed into instances: units of one or two sequences that stay together, each whole in one instance.

A unit is what a loss needs at once: one sequence (sft, iqlearn), the chosen and the rejected one (dpo), or a sequence
and the same prompt with another pair's answer (kto, by which the KL is estimated). Units are packed by best fit
(loader/packing.py), so an instance has little padding; attention is kept within sequences.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trainer.adapt.config import Method
from trainer.adapt.pairs import Pairs, Sequences
from trainer.errors import TrainerError
from trainer.loader.packing import pack

PADDING = -1
SFT_ROLES = ("answer", "chosen", "desirable")


class Instances(NamedTuple):
    """B packed instances of T tokens, with S sequences, two a unit where units have two."""

    tokens_BT: np.ndarray  # int64
    targets_BT: np.ndarray  # int64, `ignored` where nothing is learned
    sequence_BT: np.ndarray  # int64, 0..S-1 within these instances; PADDING
    role_S: np.ndarray  # int8 (pairs.ROLES)
    unit_S: np.ndarray  # int64, the unit's number in the split
    number_S: np.ndarray  # int64, the sequence's number in the split; of a mismatched one that of its prompt's


class Packed:
    """One split's units in instances of `length` tokens."""

    def __init__(
        self, sequences: Sequences, method: Method, kind: str, length: int, context: int, ignored: int, pad_id: int
    ) -> None:
        """`context` is the most tokens of one sequence; `ignored` marks a target that is not learned."""
        self.context = context
        self.sequences, self.method, self.length, self.ignored, self.pad_id = sequences, method, length, ignored, pad_id
        self.first, self.second = _units(sequences, method, kind)
        sizes = sequences.length[self.first].astype(np.int64)
        if method == "dpo":
            sizes += sequences.length[self.second]
        elif method == "kto":
            sizes += self._mismatched_lengths(sizes)
        fits = (sizes <= length) & (sequences.length[self.first] <= context)
        if method == "dpo":
            fits &= sequences.length[self.second] <= context
        self.left_out = int((~fits).sum())
        self.unit = np.flatnonzero(fits)
        instance = pack(sizes[fits], length)
        self.order = np.argsort(instance, kind="stable")
        self.bounds = np.searchsorted(instance[self.order], np.arange(instance.max() + 2 if len(instance) else 1))
        self.tokens = int(sizes[fits].sum())

    def __len__(self) -> int:
        return len(self.bounds) - 1

    @property
    def units(self) -> int:
        """Units of the split, those left out included."""
        return len(self.first)

    def _mismatched_lengths(self, sizes: np.ndarray) -> np.ndarray:
        """Tokens of each unit's prompt with the other pair's answer, cut to what the instance has left; 0 for none."""
        found = np.zeros(len(sizes), np.int64)
        for unit in range(len(sizes)):
            room = min(self.length - int(sizes[unit]), self.context)
            prompt = len(self.sequences.prompt(int(self.first[unit])))
            answer = int(self.sequences.length[self.second[unit]]) - len(self.sequences.prompt(int(self.second[unit])))
            found[unit] = min(room, prompt + answer) if room > prompt else 0
        self._mismatched = found
        return found

    def parts(self, unit: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(the sequence's number, tokens, mask) of each sequence of a unit."""
        number = int(self.first[unit])
        found = [(number, *self.sequences.read(number))]
        if self.method == "dpo":
            found.append((int(self.second[unit]), *self.sequences.read(int(self.second[unit]))))
        elif self.method == "kto" and self._mismatched[unit]:
            prompt, (other, mask) = self.sequences.prompt(number), self.sequences.read(int(self.second[unit]))
            answer = int(np.argmax(mask))
            tokens = np.concatenate([prompt, other[answer:]])[: self._mismatched[unit]]
            learned = np.concatenate([np.zeros(len(prompt), bool), mask[answer:]])[: len(tokens)]
            found.append((number, tokens, learned))
        return found

    def read(self, instances: np.ndarray) -> Instances:
        """These instances."""
        shape = (len(instances), self.length)
        tokens, targets = np.full(shape, self.pad_id, np.int64), np.full(shape, self.ignored, np.int64)
        sequence = np.full(shape, PADDING, np.int64)
        roles, units, numbers = [], [], []
        for row, instance in enumerate(instances):
            at = 0
            for unit in self.unit[self.order[self.bounds[instance] : self.bounds[instance + 1]]]:
                for place, (number, part, mask) in enumerate(self.parts(int(unit))):
                    end = at + len(part)
                    tokens[row, at:end] = part
                    targets[row, at : end - 1] = np.where(mask[1:], part[1:], self.ignored)
                    sequence[row, at:end] = len(roles)
                    mismatched = self.method == "kto" and place == 1
                    roles.append(-1 if mismatched else self.sequences.role[number])
                    units.append(unit)
                    numbers.append(number)
                    at = end
        return Instances(
            tokens, targets, sequence, np.array(roles, np.int8), np.array(units, np.int64), np.array(numbers, np.int64)
        )


def _units(sequences: Sequences, method: Method, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second sequence of each unit; where there is no second one it is not used."""
    if method == "dpo":
        return sequences.numbers("chosen"), sequences.numbers("rejected")
    if method == "kto":
        first = np.arange(len(sequences))
        # The next pair's sequence: for preferences both of a pair have one prompt, so the next but one.
        return first, np.roll(first, -2 if kind == "preferences" else -1)
    numbers = sequences.numbers(*SFT_ROLES)
    return numbers, numbers


def require_kind(pairs: Pairs, method: Method) -> None:
    """Raise TrainerError where the pairs are not what the method learns from."""
    wanted = {"dpo": ("preferences",), "kto": ("preferences", "labels")}.get(method)
    if wanted is not None and pairs.kind not in wanted:
        raise TrainerError(f"{pairs.folder}: holds {pairs.kind}; {method} learns from {' or '.join(wanted)}")
    if method == "kto" and len(np.unique(pairs.train.pair)) < 2:
        raise TrainerError(f"{pairs.folder}: kto needs two pairs at least")
