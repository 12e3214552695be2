"""From documents to shards and the manifest: token files a part, shards a source, the mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.jobs.shards import PlanShards, ShardPlanReport, ShardReport, WriteShard
from pipeline.jobs.tokenize import SPLITS, HeldOut, TokenFilesReport, Tokenize, TokenizeReport
from pipeline.ledger import Ref
from pipeline.plan.graph import Plan
from pipeline.plan.held_out import Near, held_out_facts
from pipeline.plan.node import Done, Node, Stage, Stored
from pipeline.plan.parts import Part
from pipeline.recipe import Recipe
from stages.tokens.manifest import build_manifest, shard_names, source_entry
from stages.tokens.manifest_shape import Manifest, ShardFacts
from stages.tokens.mixture import compile_mixture
from stages.tokens.shard import Piece
from stages.tokens.shard_format import token_dtype

SplitShards = dict[str, list[ShardFacts]]
"""Split -> what the manifest says of each shard, in order."""
Shards = dict[str, SplitShards]
"""The same by source."""


def tokenize(
    recipe: Recipe, parts: Mapping[str, list[Part]], tokenizer: Stored
) -> Plan[dict[str, list[Done[TokenizeReport]]]]:
    """Tokenize every part; what became of the parts of each source, in canonical order."""
    wanted = recipe.tokenizer
    held_out = HeldOut(recipe.shards.held_out, recipe.shards.held_out_salt)
    nodes = [
        Node(
            Ref("tokenize", source, "", ordinal),
            Tokenize(
                source,
                part.read(),
                tokenizer,
                wanted.rules,
                wanted.eos_token,
                wanted.pad_token,
                held_out,
                wanted.engine,
                recipe.run.batch_bytes,
            ),
            part.bytes,
        )
        for source, found in parts.items()
        for ordinal, part in enumerate(found)
    ]
    done = iter((yield Stage("tokenize", nodes)))
    return {source: [next(done) for _ in found] for source, found in parts.items()}


def shard(tokenized: Mapping[str, Sequence[Done[TokenFilesReport]]], shard_bytes: int) -> Plan[Shards]:
    """Cut token files into shards of about this size."""
    dtype = token_dtype(tokenizer_facts(tokenized).vocab_size)
    places = [(source, split) for source in tokenized for split in SPLITS]
    files = {
        (source, split): tuple(one.report.files[split] for one in tokenized[source]) for source, split in places
    }
    planning = [
        Node(Ref("plan shards", source, split, 0), PlanShards(files[source, split], shard_bytes, dtype.name))
        for source, split in places
    ]
    plans: list[Done[ShardPlanReport]] = yield Stage("plan shards", planning)
    nodes, owners = [], []
    for place, plan in zip(places, plans, strict=True):
        for number, pieces in enumerate(plan.report.shards):
            nodes.append(_shard_node(*place, number, files[place], pieces, dtype))
            owners.append(place)
    found: Shards = {source: {split: [] for split in SPLITS} for source in tokenized}
    done: list[Done[ShardReport]] = yield Stage("shard", nodes)
    for (source, split), one in zip(owners, done, strict=True):
        found[source][split].append(one.report.shard)
    return found


def _shard_node(
    source: str, split: str, number: int, files: Sequence, pieces: Sequence[Piece], dtype: np.dtype
) -> Node:
    used = sorted({piece.file for piece in pieces})
    place = {file: position for position, file in enumerate(used)}
    local = tuple(piece._replace(file=place[piece.file]) for piece in pieces)
    job = WriteShard(tuple(files[f] for f in used), local, dtype.name, shard_names(source, number, split))
    weight = sum(piece.end_token - piece.first_token for piece in pieces) * dtype.itemsize
    return Node(Ref("shard", source, split, number), job, weight)


def tokenizer_facts(tokenized: Mapping[str, Sequence[Done[TokenFilesReport]]]) -> TokenFilesReport:
    """What any of the token files says of the tokenizer: they have it in common."""
    return next(one.report for done in tokenized.values() for one in done)


@dataclass(frozen=True)
class Tokens:
    """The last of a plan: token files, and the shards made of them."""

    tokenized: Mapping[str, Sequence[Done[TokenizeReport]]]
    shards: Shards
    near: Near | None = None


def manifest_of(recipe: Recipe, tokens: Tokens) -> Manifest:
    """The run's manifest: every shard, and the mixture compiled from what there is. Raises MixtureError."""
    facts = tokenizer_facts(tokens.tokenized)
    available = {name: sum(s["tokens"] for s in splits["train"]) for name, splits in tokens.shards.items()}
    budgets = {budget.source: budget for budget in compile_mixture(recipe.mixture, available)}
    sources = {
        name: source_entry(
            name, splits["train"], splits["held_out"], budgets[name].asked, budgets[name].max_repeats
        )
        for name, splits in tokens.shards.items()
    }
    manifest = build_manifest(
        name=recipe.name,
        profile=recipe.profile or "",
        recipe_hash=recipe.content(),
        seed=recipe.seed,
        tokenizer_sha256=facts.sha256,
        vocab_size=facts.vocab_size,
        eos_id=facts.eos_id,
        pad_id=facts.pad_id,
        sources=sources,
        mixture_tokens=sum(budget.asked for budget in budgets.values()),
        mixture_seed=recipe.mixture.seed,
        reshuffle_last_tokens=recipe.mixture.reshuffle_last_tokens,
    )
    manifest["held_out"] = held_out_facts(recipe, tokens.near)
    return manifest
