"""What a manifest holds, key by key, and the check of a file against it. The standard library only."""

from __future__ import annotations

from functools import cache
from typing import Any, TypedDict, final, get_args, get_origin, get_type_hints, is_typeddict


class ShardError(Exception):
    """A shard or manifest that is missing, damaged, or not what was asked for; the text says which file and why."""


class _Counts(TypedDict):
    tokens: int
    documents: int
    text_bytes: int
    sha256: str


class ShardFacts(_Counts, total=False):
    """What a shard holds, wherever it lies. Manifests of before have no checksum of the index.

    ranges, whole: of a shard that is runs of tokens of other files, how many, and the name of the list of these files; its
    path and sha256 are those of the file of ranges.
    """

    index_sha256: str
    ranges: int
    whole: str


class _Places(TypedDict):
    path: str
    index: str


class ShardEntry(_Places, ShardFacts, total=False):
    """What a manifest says of one shard; of pairs, also of the files beside its tokens (docs/adaptation.md)."""

    mask: str
    mask_sha256: str
    pairs: str
    pairs_sha256: str
    records: str
    answer_tokens: int


class WholeFile(TypedDict):
    """A token file that shards are ranges of."""

    path: str
    tokens: int
    sha256: str


class SplitEntry(TypedDict):
    """The shards of one split of a source, and what they sum up to."""

    tokens: int
    documents: int
    text_bytes: int
    shards: list[ShardEntry]


class _Source(SplitEntry):
    budget_tokens: int
    max_repeats: float
    held_out: SplitEntry


class SourceEntry(_Source, total=False):
    """A source: its training shards, how many tokens training asks of it, and what is held out.

    of, part, where: of a part of a source, that source, the part's name on each axis, and what its documents have in common.
    """

    of: str
    part: dict[str, str]
    where: dict[str, str]


class TokenizerEntry(TypedDict):
    """The tokenizer of all shards; ids are of its vocabulary."""

    path: str
    sha256: str
    vocab_size: int
    eos_id: int
    pad_id: int


class MixtureEntry(TypedDict):
    """What training reads: tokens in all, sources in the order of their numbers."""

    tokens: int
    seed: int
    sources: list[str]
    reshuffle_last_tokens: int


class _HeldOutRule(TypedDict):
    share: float
    salt: str


class HeldOutEntry(_HeldOutRule, total=False):
    """By what rule documents are held out; near copies of them in training by source, and what was done with these."""

    near_copies: str
    near: dict[str, dict[str, int]]


class _MadeBy(TypedDict):
    versions: dict[str, str]
    results_of_other_code: int


class MadeByEntry(_MadeBy, total=False):
    """What a run was made by: versions of Headrace, Python and libraries; revisions of repositories that were read."""

    revisions: dict[str, str]


class PairsEntry(TypedDict):
    """What sequences of pairs are, and how they were put into text."""

    kind: str
    chat_template: str
    max_tokens: int


class _Ordered(TypedDict):
    path: str
    tokens: int
    instances: int
    sha256: str


@final
class OrderedShard(_Ordered, total=False):
    """A shard of instances in training order; `pack` names the file that says where their pieces begin."""

    pack: str


class Materialized(TypedDict):
    """Instances that were written in training order: the fingerprint of their corpus, the plan of their order."""

    of: str
    plan: dict[str, Any]
    shards: list[OrderedShard]


class _Manifest(TypedDict):
    format: str
    version: int
    name: str
    profile: str
    recipe_hash: str
    dtype: str
    seed: int
    tokenizer: TokenizerEntry
    sources: dict[str, SourceEntry]
    mixture: MixtureEntry
    fingerprint: str


class Manifest(_Manifest, total=False):
    """What manifest.json holds; `check_schema` holds a file to it."""

    held_out: HeldOutEntry
    made_by: MadeByEntry
    pairs: PairsEntry
    materialized: Materialized
    whole: dict[str, list[WholeFile]]


def check_schema(value: Any, shape: Any = _Manifest, path: str = "") -> None:
    """Raise ShardError, naming the key's path, where `value` lacks the shape of a manifest. More keys are allowed.

    A whole number is no bool and not negative; where a float is wanted a whole number does.
    """
    where = path or "the manifest"
    kind = get_origin(shape) or shape
    if is_typeddict(kind):
        _check_type(value, dict, where)
        for name, wanted in _required(kind).items():
            if name not in value:
                raise ShardError(f"{where}: the key {name!r} is missing")
            check_schema(value[name], wanted, f"{path}.{name}" if path else name)
    elif kind is dict:
        _check_type(value, dict, where)
        for name, item in value.items():
            check_schema(item, get_args(shape)[1], f"{path}.{name}")
    elif kind is list:
        _check_type(value, list, where)
        for number, item in enumerate(value):
            check_schema(item, get_args(shape)[0], f"{path}[{number}]")
    else:
        _check_type(value, kind, where)
        if kind is int and value < 0:
            raise ShardError(f"{where}: must not be negative, is {value}")


@cache
def _required(shape: Any) -> dict[str, Any]:
    """The keys that an object of a manifest must have, each with its shape."""
    return {name: wanted for name, wanted in get_type_hints(shape).items() if name in shape.__required_keys__}


def _check_type(value: Any, kind: type, where: str) -> None:
    right = isinstance(value, int | float if kind is float else kind) and not isinstance(value, bool)
    if not right:
        name = {dict: "an object", list: "a list"}.get(kind, kind.__name__)
        found = type(value).__name__ if kind in (dict, list) else repr(value)
        raise ShardError(f"{where}: must be {name}, not {found}")
