"""The order of training: which instance of which source stands at position i. A pure function, in O(1) memory.

Two ideas. First, positions are dealt to the sources in exact proportion at every scale (`Interleave`): before any
position, each source has had its share of the positions within a small constant. Second, within a source the instances
of each epoch are visited by a keyed permutation (`Permutation`): a Feistel network on the smallest power of two that
holds them, walked until it lands inside (cycle walking; Black and Rogaway 2002, "Ciphers with Arbitrary Finite
Domains"). So nothing is stored, any position can be looked up alone, and resuming, batch size and the number of ranks
cannot change what is read.

All functions are vectorised over NumPy arrays; one core does 3 to 5 million lookups a second.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ROUNDS = 8
CHUNK = 1 << 15  # positions worked on at once, so that the intermediate arrays stay in the cache
MAX_INSTANCES = 1 << 48  # exact arithmetic in `_scale` needs positions well within a float64's 53 bits

_M1, _M2 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)  # of MurmurHash3's 64-bit finalizer (Appleby)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 / golden ratio: steps of a Weyl sequence
_S32, _S33 = np.uint64(32), np.uint64(33)


def mix(value: np.ndarray) -> np.ndarray:
    """A 64-bit hash of each uint64 (MurmurHash3's finalizer): a bijection that spreads every input bit."""
    value = value ^ (value >> _S33)
    value *= _M1
    value ^= value >> _S33
    value *= _M2
    value ^= value >> _S33
    return value


def key(*numbers: int) -> int:
    """One 64-bit key from several numbers (seed, source, ...), each of any size."""
    state = np.zeros(1, np.uint64)
    for number in numbers:
        while True:
            state = mix((state ^ np.uint64(number & (2**64 - 1))) + _GOLDEN)
            number >>= 64
            if number in (0, -1):
                break
    return int(state[0])


class Permutation:
    """Permutations of 0..size-1, one for each (key, epoch). `apply` looks up any positions, each in its own epoch."""

    def __init__(self, size: int, key: int) -> None:
        if not 0 < size <= MAX_INSTANCES:
            raise ValueError(f"a permutation of {size} instances is not possible (1 to 2^48)")
        self.size, self.key = size, np.uint64(key)
        # A few bits more than needed cost walks but only for tiny domains, where a Feistel network mixes badly.
        bits = max(8, (size - 1).bit_length())
        self.left_bits, self.right_bits = np.uint64(bits // 2), np.uint64(bits - bits // 2)
        self.left_mask = np.uint64((1 << int(self.left_bits)) - 1)
        self.right_mask = np.uint64((1 << int(self.right_bits)) - 1)

    def apply(self, positions: np.ndarray, epochs: np.ndarray | int = 0) -> np.ndarray:
        """For each position in 0..size-1 the instance that stands there in its epoch (int64)."""
        positions = np.asarray(positions, np.uint64)
        keys = mix(np.atleast_1d(epochs).astype(np.uint64) * _GOLDEN + self.key)
        keys = np.broadcast_to(keys, positions.shape)
        out = self._network(positions, keys)
        size = np.uint64(self.size)
        walking = np.flatnonzero(out >= size)
        while len(walking):
            moved = self._network(out[walking], keys[walking])
            out[walking] = moved
            walking = walking[moved >= size]
        return out.astype(np.int64)

    def _network(self, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
        """Eight rounds over two halves of fixed width: each round adds a keyed hash of one half to the other."""
        left, right = values >> self.right_bits, values & self.right_mask
        for number in range(0, ROUNDS, 2):
            left = (left + self._hash(right, keys, number)) & self.left_mask
            right = (right + self._hash(left, keys, number + 1)) & self.right_mask
        return (left << self.right_bits) | right

    @staticmethod
    def _hash(half: np.ndarray, keys: np.ndarray, number: int) -> np.ndarray:
        value = (half ^ keys) + np.uint64((number + 1) * int(_GOLDEN) & (2**64 - 1))
        value *= _M1
        value ^= value >> _S32
        value *= _M2
        return value >> _S32


def _scale(position: np.ndarray, part: int, whole: int) -> np.ndarray:
    """floor((position * part + whole // 2) / whole), exact for positions up to 2^48, where the product overflows.

    A float64 quotient is within 1 of the truth; the remainder, computed modulo 2^64, is small and says which way.
    """
    quotient = (position * (part / whole)).astype(np.int64)
    with np.errstate(over="ignore"):
        remainder = position * np.int64(part) + np.int64(whole // 2) - quotient * np.int64(whole)
    return quotient + remainder // whole


class Interleave:
    """Deals positions 0..total-1 to sources, source s getting counts[s] of them, evenly at every scale.

    A binary tree (Huffman's, so frequent sources are found first) splits the positions: a node whose two sides have a
    and b positions gives its first n positions to the left side round(n * a / (a + b)) times. Each split adds an error
    of at most 1/2 and scales that from above by its side's part of the node. In Huffman's tree two such parts in a row
    multiply to at most 1/2, so before any position a source is within 1/2 (1 + 1 + 1/2 + 1/2 + ...) = 2 of its share.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = [int(count) for count in counts]
        self.total = sum(self.counts)
        if any(count < 0 for count in self.counts) or self.total > MAX_INSTANCES:
            raise ValueError(f"cannot interleave {self.counts}")
        heap = [(count, number, number) for number, count in enumerate(self.counts) if count]
        heapq.heapify(heap)
        self.nodes: dict[int, tuple[int, int, int, int]] = {}  # node -> left, right, positions of left, of both
        name = len(self.counts)
        while len(heap) > 1:
            small, big = heapq.heappop(heap), heapq.heappop(heap)
            self.nodes[name] = (big[2], small[2], big[0], big[0] + small[0])
            heapq.heappush(heap, (big[0] + small[0], name, name))
            name += 1
        self.root = heap[0][2] if heap else -1

    def lookup(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """For each position its source, and how many earlier positions that source has (both int64)."""
        positions = np.asarray(positions, np.int64)
        source, rank = np.empty(positions.shape, np.int64), np.empty(positions.shape, np.int64)
        waiting = [(self.root, np.arange(len(positions)), positions)] if len(positions) else []
        while waiting:
            node, where, local = waiting.pop()
            if node not in self.nodes:
                source[where], rank[where] = node, local
                continue
            left, right, part, whole = self.nodes[node]
            before = _scale(local, part, whole)
            goes_left = _scale(local + 1, part, whole) > before
            goes_right = ~goes_left
            waiting.append((left, where[goes_left], before[goes_left]))
            waiting.append((right, where[goes_right], (local - before)[goes_right]))
        return source, rank

    def before(self, position: int) -> list[int]:
        """How many of the positions 0..position-1 each source has."""
        found = [0] * len(self.counts)
        waiting = [(self.root, position)] if self.total else []
        while waiting:
            node, local = waiting.pop()
            if node not in self.nodes:
                found[node] = local
                continue
            left, right, part, whole = self.nodes[node]
            first = (local * part + whole // 2) // whole
            waiting += [(left, first), (right, local - first)]
        return found


class Instances(NamedTuple):
    """What stands at some positions: arrays of the same length, int64."""

    source: np.ndarray  # number of the source
    instance: np.ndarray  # number of the instance within the source
    epoch: np.ndarray  # how often the source was gone through before; counted anew after the reshuffle


class Order:
    """The training order of a mixture.

    `available[s]` instances exist of source s, `asked[s]` are wanted over all of training. While a source is asked for
    more than it has, it is gone through whole, in a fresh order each time, before any instance comes again. The last
    `reshuffle_last` positions draw from a fresh shuffle of every source (OLMoE did so for its last 100B tokens).
    """

    def __init__(self, available: Sequence[int], asked: Sequence[int], seed: int, reshuffle_last: int = 0) -> None:
        if len(available) != len(asked):
            raise ValueError("available and asked must name the same sources")
        for number, (there, wanted) in enumerate(zip(available, asked, strict=True)):
            if wanted and not there:
                raise ValueError(f"source {number} is asked for {wanted} instances and has none")
        self.available, self.seed = [int(there) for there in available], seed
        self.interleave = Interleave(asked)
        self.total = self.interleave.total
        self.turn = max(0, self.total - reshuffle_last)  # the first position after the reshuffle
        self.used = self.interleave.before(self.turn) if self.turn < self.total else [0] * len(asked)
        self.permutations = [
            [Permutation(there, key(seed, number, phase)) if there else None for phase in (0, 1)]
            for number, there in enumerate(self.available)
        ]

    def instances(self, positions: np.ndarray) -> Instances:
        """What stands at each of the positions (0..total-1, any order)."""
        positions = np.asarray(positions, np.int64)
        if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < self.total:
            raise IndexError(f"positions must lie in 0..{self.total - 1}")
        out = Instances(*(np.empty(len(positions), np.int64) for _ in range(3)))
        for start in range(0, len(positions), CHUNK):
            self._fill(positions[start : start + CHUNK], Instances(*(part[start : start + CHUNK] for part in out)))
        return out

    def _fill(self, positions: np.ndarray, out: Instances) -> None:
        source, rank = self.interleave.lookup(positions)
        out.source[:] = source
        late = positions >= self.turn if self.turn < self.total else None
        for number in np.flatnonzero(np.bincount(source)).tolist():
            for phase in (0, 1):
                mine = source == number
                if late is not None:
                    mine &= late if phase else ~late
                elif phase:
                    break
                where = np.flatnonzero(mine)
                if len(where) == 0:
                    continue
                epoch, place = np.divmod(rank[where] - (self.used[number] if phase else 0), self.available[number])
                permutation = self.permutations[number][phase]
                assert permutation is not None  # sources without instances are asked for none
                out.epoch[where], out.instance[where] = epoch, permutation.apply(place, epoch)

    def instance(self, position: int) -> tuple[int, int, int]:
        """(source, instance, epoch) at one position."""
        found = self.instances(np.array([position]))
        return int(found.source[0]), int(found.instance[0]), int(found.epoch[0])
