"""Near copies of held-out documents among those of training: looked for after tokenizing, counted or taken out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.jobs.held_out import (
    DROP_NEAR_COPIES,
    NEAR_COPIES,
    CollectNgrams,
    CountNearCopies,
    DropNearCopies,
    MergeNgrams,
    NearReport,
    NgramsReport,
    without_near_copies,
)
from pipeline.jobs.tokenize import StoredTokens, TokenizeReport
from pipeline.ledger import Ref
from pipeline.plan.graph import Plan
from pipeline.plan.node import Done, Node, Stage, Stored
from pipeline.recipe.recipe import Recipe
from stages.tokens.manifest_shape import HeldOutEntry
from stages.tokens.near_copies import MOST, NGRAM

GROUP_TOKENS = 1 << 28  # of held-out documents that one task reads, about
GROUP_FILES = 4096

Tokenized = Mapping[str, Sequence[Done[TokenizeReport]]]
Near = dict[str, dict[str, int]]
"""By source: `documents` and `tokens` of training that are near copies of held-out documents."""


def near_copies(recipe: Recipe, tokenized: Tokenized, dtype: np.dtype) -> Plan[tuple[Tokenized, Near | None]]:
    """Look for near copies, unless the recipe says not to. Returns the token files that shards are made of, and what was
    found; None where it was not looked for."""
    if recipe.shards.near_held_out == "ignore" or recipe.shards.held_out in (0, 1):  # of one side there is nothing
        return tokenized, None
    ngrams = yield from _held_out_ngrams(tokenized, dtype.name)
    drop = recipe.shards.near_held_out == "drop"
    nodes = [
        _node(source, ordinal, one, ngrams, dtype, drop)
        for source, done in tokenized.items()
        for ordinal, one in enumerate(done)
    ]
    answers: list[Done[Any]] = yield Stage("near copies of held-out documents", nodes)
    found = iter(answers)
    used: dict[str, list[Done[TokenizeReport]]] = {}
    near: Near = {}
    for source, done in tokenized.items():
        reports = [next(found) for _ in done]
        near[source] = _sum(reports)
        used[source] = [_without(*pair) for pair in zip(done, reports, strict=True)] if drop else list(done)
    return used, near


def _held_out_ngrams(tokenized: Tokenized, dtype: str) -> Plan[Stored]:
    """The n-grams of all held-out documents: one file, of a bounded size."""
    files = [one.report.files["held_out"] for done in tokenized.values() for one in done]
    nodes = [
        Node(Ref("held out", "", "n-grams", number), CollectNgrams(group, dtype, NGRAM, MOST), _tokens(group))
        for number, group in enumerate(_groups(files))
    ]
    done: list[Done[NgramsReport]] = yield Stage("n-grams of held-out documents", nodes)
    parts = [one.output(one.report.ngrams) for one in done]
    if len(parts) == 1:
        return parts[0]
    merge = Node(Ref("held out", "", "merge", 0), MergeNgrams(tuple(parts), MOST))
    merged: list[Done[NgramsReport]] = yield Stage("n-grams of held-out documents", [merge])
    return merged[0].output(merged[0].report.ngrams)


def _groups(files: Sequence[StoredTokens]) -> Iterator[tuple[StoredTokens, ...]]:
    """Runs of files, each what one task reads; there is one at least."""
    group: list[StoredTokens] = []
    tokens = 0
    for file in files:
        tokens += file.tokens
        if group and (len(group) >= GROUP_FILES or tokens > GROUP_TOKENS):
            yield tuple(group)
            group, tokens = [], file.tokens
        group.append(file)
    yield tuple(group)


def _tokens(files: Sequence[StoredTokens]) -> int:
    return sum(file.tokens for file in files)


def _node(source: str, ordinal: int, one: Done[TokenizeReport], ngrams: Stored, dtype: np.dtype, drop: bool) -> Node:
    train, held_out = one.report.files["train"], one.report.files["held_out"]
    weight = train.tokens * dtype.itemsize
    if not drop:
        return Node(
            Ref(NEAR_COPIES, source, "", ordinal), CountNearCopies(train, ngrams, dtype.name, NGRAM, MOST), weight
        )
    earlier = one.output(one.report.dropped)
    job = DropNearCopies(source, train, held_out, earlier, ngrams, dtype.name, NGRAM, MOST)
    return Node(Ref(DROP_NEAR_COPIES, source, "", ordinal), job, weight)


def _sum(found: Sequence[Done[NearReport]]) -> dict[str, int]:
    return {"documents": sum(one.report.documents for one in found), "tokens": sum(one.report.tokens for one in found)}


def _without(one: Done[TokenizeReport], near: Done[Any]) -> Done[TokenizeReport]:
    return Done(near.key, near.outputs, without_near_copies(one.report, near.report))


def token_files(tokenized: Tokenized, used: Tokenized) -> list[tuple[str, str]]:
    """The files of tokens, each behind the key of the entry that tells of it."""
    found = [
        (one.key, file.file.path) for done in tokenized.values() for one in done for file in one.report.files.values()
    ]
    known = {path for _, path in found}
    train = [(one.key, one.report.files["train"].file.path) for done in used.values() for one in done]
    return found + [(key, path) for key, path in train if path not in known]


def held_out_facts(recipe: Recipe, near: Near | None) -> HeldOutEntry:
    """What the manifest says of held-out documents: the rule that chooses them, and their near copies in training by source.

    `near` is there where these were looked for; with `near_copies: drop` they are no longer in training.
    """
    shards = recipe.shards
    facts = HeldOutEntry(share=shards.held_out, salt=shards.held_out_salt)
    if near is not None:
        facts["near_copies"], facts["near"] = shards.near_held_out, near
    return facts
