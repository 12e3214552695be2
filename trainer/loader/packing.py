"""Best-fit packing: instances of whole documents, where cutting at every `sequence_length` tokens would tear them.

Ding et al. 2024 ("Fewer Truncations Improve Language Modeling", arXiv 2404.10830): a document longer than an instance
is cut into pieces of the instance's length, and only such a document is cut at all. The pieces are then packed, the
longest first, each into the instance with the least room that still holds it. What stays free is padding.

Pieces of one length are alike, and so are instances with the same room. So the packing moves whole groups of them, and
takes about as many steps as there are different lengths, whatever the number of documents.

What is packed is kept in a file for each shard and sequence length, which follows from the shard's index alone:

    pieces    [pieces] of (start int64, length int32): tokens of the shard, by instance, in the shard's order
    bounds    [instances + 1] int64: the pieces of instance i are bounds[i] .. bounds[i + 1]
    footer    FOOTER: the shard's checksum, the sequence length, and the file's sizes
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from stages.tokens.shard_format import ShardError, read_index
from trainer.errors import TrainerError

BLOCK_PIECES = 1 << 20  # pieces packed together: bounds memory (some 100 MB) and leaves nearly nothing unfilled
PIECE = np.dtype([("start", "<i8"), ("length", "<i4")])  # no padding between: 12 bytes
FOOTER = np.dtype(
    [("magic", "S8"), ("shard", "S64"), ("length", "<i8"), ("tokens", "<i8"), ("pieces", "<i8"), ("instances", "<i8")]
)
MAGIC = b"HRPACK01"


class Pack(NamedTuple):
    """A file of packed instances: where its parts begin, in bytes, and what it holds."""

    path: Path
    instances: int
    tokens: int  # that the instances hold, padding not counted
    bounds_at: int


def pack(lengths: np.ndarray, capacity: int) -> np.ndarray:
    """Best-fit decreasing: for each piece (length 1..capacity) the number of its instance, int64.

    Which of several instances with the same room is taken, and which of several pieces of the same length comes
    first, changes nothing that best-fit promises; here both go by number, so the result is a function of the input.
    """
    lengths = np.asarray(lengths, np.int64)
    if len(lengths) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= capacity:
        raise ValueError(f"pieces must have 1 to {capacity} tokens")
    by_length = np.argsort(lengths, kind="stable")
    instance = np.empty(len(lengths), np.int64)
    with_room: dict[int, list[np.ndarray]] = {}  # room -> instances that have exactly this much
    rooms: list[int] = []  # the keys of `with_room`, sorted
    opened, end = 0, len(lengths)

    def keep(room: int, instances: np.ndarray) -> None:
        if room and len(instances):
            if room not in with_room:
                with_room[room] = []
                insort(rooms, room)
            with_room[room].append(instances)

    while end:
        size = int(lengths[by_length[end - 1]])
        begin = int(np.searchsorted(lengths, size, side="left", sorter=by_length))
        while begin < end:
            place = bisect_left(rooms, size)
            each = (rooms[place] if place < len(rooms) else capacity) // size  # pieces that go into one instance
            wanted = -(-(end - begin) // each)
            if place < len(rooms):
                # An instance that got a piece has less room than it had, so it is again the best fit while it holds one.
                room = rooms.pop(place)
                there = np.concatenate(with_room.pop(room))
                into, rest = there[:wanted], there[wanted:]
                keep(room, rest)
            else:
                room, into = capacity, np.arange(opened, opened + wanted)
                opened += wanted
            take = min(end - begin, each * len(into))
            instance[by_length[begin : begin + take]] = np.repeat(into, each)[:take]
            in_last = take - each * (len(into) - 1)
            if in_last == each:
                keep(room - each * size, into)
            else:
                keep(room - each * size, into[:-1])
                keep(room - in_last * size, into[-1:])
            begin += take
        end = int(np.searchsorted(lengths, size, side="left", sorter=by_length))
    return instance


def cut(starts: np.ndarray, ends: np.ndarray, length: int) -> np.ndarray:
    """Documents as pieces of at most `length` tokens (PIECE): whole, or cut into full pieces and a rest."""
    counts = -(-(ends - starts) // length)
    document = np.repeat(np.arange(len(starts)), counts)
    number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)
    pieces = np.empty(len(document), PIECE)
    pieces["start"] = starts[document] + number * length
    pieces["length"] = np.minimum(length, ends[document] - pieces["start"])
    return pieces


def instances_of(pieces: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces sorted by instance and place (PIECE), and the bounds of each instance in them: int64 [instances + 1]."""
    instance = pack(pieces["length"], length)
    count = int(instance.max()) + 1 if len(instance) else 0
    order = np.lexsort((pieces["start"], instance))
    return pieces[order], np.concatenate([[0], np.cumsum(np.bincount(instance, minlength=count))]).astype(np.int64)


def pack_shard(index: Path, shard: Mapping[str, Any], length: int, folder: Path, block: int = BLOCK_PIECES) -> Pack:
    """The packing of a shard (its entry of the manifest; `index` is its .csv.gz), from `folder` or made now.

    The file is named by the shard's checksum and the length, so it cannot be one of other tokens. Raises ShardError
    where the index does not describe the shard's tokens, OSError where the file cannot be written.
    """
    path = folder / f"{shard['sha256']}-{length}.pack"
    with contextlib.suppress(FileNotFoundError):
        return open_pack(path, shard["sha256"], length)
    write_pack(path, _blocks(index, shard["tokens"], length, block), shard["sha256"], length)
    return open_pack(path, shard["sha256"], length)


def open_pack(path: Path, sha256: str, length: int) -> Pack:
    """The packing of the shard with this checksum. Raises FileNotFoundError, or ShardError where it is another's or
    damaged."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - FOOTER.itemsize))
        data = file.read()
    found = np.frombuffer(data, FOOTER)[0] if len(data) == FOOTER.itemsize else None
    if (
        found is None
        or (found["magic"], found["shard"], found["length"]) != (MAGIC, sha256.encode(), length)
        or size != found["pieces"] * PIECE.itemsize + (found["instances"] + 1) * 8 + FOOTER.itemsize
    ):
        raise ShardError(f"{path}: is damaged; remove it, and it is made again")
    return Pack(path, int(found["instances"]), int(found["tokens"]), int(found["pieces"]) * PIECE.itemsize)


def write_pack(path: Path, blocks: Iterable[tuple[np.ndarray, np.ndarray]], sha256: str, length: int) -> None:
    """Write (pieces, bounds) blocks, as `instances_of` gives them, as the packing of the shard with this checksum."""
    written, tokens, bounds = 0, 0, [np.zeros(1, np.int64)]
    with atomic(path) as file:
        for pieces, ends in blocks:
            file.write(pieces.tobytes())
            bounds.append(ends[1:] + written)
            written += len(pieces)
            tokens += int(pieces["length"].sum(dtype=np.int64))
        every = np.concatenate(bounds).astype("<i8")
        file.write(every.tobytes())
        file.write(np.array([(MAGIC, sha256.encode(), length, tokens, written, len(every) - 1)], FOOTER).tobytes())


def _blocks(index: Path, tokens: int, length: int, block: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The packed instances of a shard, some `block` pieces at a time."""
    waiting: list[np.ndarray] = []
    held = 0
    for starts, ends in _documents(index, tokens):
        for pieces in _cut_in_parts(starts, ends, length, block):
            waiting.append(pieces)
            held += len(pieces)
            if held >= block:
                yield instances_of(np.concatenate(waiting), length)
                waiting, held = [], 0
    if held:
        yield instances_of(np.concatenate(waiting), length)


def _cut_in_parts(starts: np.ndarray, ends: np.ndarray, length: int, most: int) -> Iterator[np.ndarray]:
    counts = np.cumsum(-(-(ends - starts) // length))
    first = 0
    while first < len(starts):
        before = int(counts[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(counts, before + most, side="right")))
        yield cut(starts[first:stop], ends[first:stop], length)
        first = stop


def _documents(index: Path, tokens: int, rows: int = 1 << 16) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(starts, ends) of a shard's documents, without the empty ones, checked to cover its tokens without a gap."""
    reader = ((row.start, row.end) for row in read_index(index))
    position = 0
    while True:
        some = np.fromiter(itertools.islice(reader, rows), np.dtype("2i8"))
        if not len(some):
            break
        starts, ends = some[:, 0], some[:, 1]
        expected = np.concatenate([[position], ends[:-1]])
        wrong = np.flatnonzero((starts != expected) | (ends < starts))
        if len(wrong):
            raise ShardError(
                f"{index}: a document of tokens {starts[wrong[0]]} to {ends[wrong[0]]} stands where token "
                f"{expected[wrong[0]]} is next; best_fit needs an index that describes every token once"
            )
        position = int(ends[-1])
        yield starts[ends > starts], ends[ends > starts]
    if position != tokens:
        raise ShardError(f"{index}: describes {position} tokens, the shard holds {tokens}")


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[BinaryIO]:
    """A binary file that appears under its name, fsynced, when the block ends well. Several processes, on several
    machines, may write the same one: each writes a file of its own until then."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), 0o644)
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink()
        raise


def packing_folder(run_dir: Path) -> Path:
    """Where a run's packings are kept: in its folder, or in the user's cache where that cannot be written."""
    if os.access(run_dir, os.W_OK):
        return run_dir / "packing"
    named = os.environ.get("HEADRACE_CACHE")
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return (Path(named) if named else base / "headrace") / "packing"


def pack_shards(run_dir: Path, shards: Sequence[Mapping[str, Any]], length: int, folder: Path) -> list[Pack]:
    """The packings of a source's shards, in order; those that are missing are made."""
    try:
        return [pack_shard(run_dir / shard["index"], shard, length, folder) for shard in shards]
    except OSError as error:
        raise TrainerError(
            f"{error.filename or folder}: the packing of the shards cannot be kept ({error.strerror}); "
            "make room, or let HEADRACE_CACHE name a folder that can be written"
        ) from None
