"""What the tasks of a dedup return, and what a whole one found: plain JSON values, as they travel and lie in the ledger."""

from __future__ import annotations

from typing import TypedDict


class Cluster(TypedDict):
    """A large cluster: its documents, and where the one lies that stays."""

    size: int
    part: int
    row: int
    id: str | None
    source: str


class Named(TypedDict):
    """What `name` found. sizes: [copies, clusters] pairs."""

    removed: int
    sizes: list[list[int]]
    largest: list[Cluster]


class Removed(TypedDict):
    """What `remove` wrote: rows of each part, by its ordinal as text. lost: [source, source of the kept one, documents]."""

    removed: dict[str, int]
    lost: list[list[str | int | None]]


class Filtered(TypedDict):
    """What one shard's filter did. held: n-grams that it held already. fill: share of its bits, or slots, in use."""

    documents: int
    ngrams: int
    held: int
    inserted: int
    spans: int
    filter_bytes: int
    fill: float


class Shard(Filtered):
    """The same with the shard's number, and the file of its filter, where that is kept."""

    shard: int
    filter: str | None


class Sequenced(TypedDict):
    """A shard of substring dedup: its number, what it took, and what `repeats` returned."""

    shard: int
    memory: int
    sequence_bytes: int
    documents: int
    units: int
    repeated: int
    pieces: int


class _OfEach(TypedDict):
    method: str
    documents: int
    removed: int
    removed_of_part: dict[str, int]
    removals: dict[str, str]


class Found(_OfEach, total=False):
    """The summary of a dedup; the generators of phases (`clustered`, `filtered`, `substring`) say what each method has.

    Parts are named by their ordinal as text.
    """

    compared: int
    rounds: int
    largest_bucket: int
    sizes: list[list[int]]
    largest: list[Cluster]
    lost: list[list[str | int | None]]
    index: list[str]
    copies: dict[str, str]
    parts: dict[str, str]
    cuts: dict[str, str]
    reports: dict[str, dict[str, int]]
    shards: list[Shard] | list[Sequenced]
