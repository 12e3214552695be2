"""From documents to shards and the manifest: token files a part, shards a source, the mixture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.jobs.shards import PlanShards, ShardPlanReport, ShardReport, WriteShard
from pipeline.jobs.tokenize import SPLITS, HeldOut, StoredTokens, TokenFilesReport, Tokenize, TokenizeReport
from pipeline.ledger import Ref
from pipeline.plan.graph import Plan
from pipeline.plan.held_out import Near, held_out_facts
from pipeline.plan.node import Done, Node, Stage, Stored
from pipeline.plan.parts import Part
from pipeline.plan.split import Files
from pipeline.recipe.recipe import Recipe
from stages.tokens.manifest import build_manifest, shard_names, source_entry
from stages.tokens.manifest_shape import Manifest, ShardFacts
from stages.tokens.mixture import compile_mixture
from stages.tokens.shard import Piece

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


def shard(members: Mapping[str, Files], shard_bytes: int, dtype: np.dtype) -> Plan[Shards]:
    """Cut the token files of the mixture's members into shards of about this size."""
    places = [(member, split) for member in members for split in SPLITS]
    files = {(member, split): members[member].files[split] for member, split in places}
    planning = [
        Node(_ref("plan shards", members, member, split, 0), PlanShards(files[member, split], shard_bytes, dtype.name))
        for member, split in places
    ]
    plans: list[Done[ShardPlanReport]] = yield Stage("plan shards", planning)
    nodes, owners = [], []
    for place, plan in zip(places, plans, strict=True):
        for number, pieces in enumerate(plan.report.shards):
            ref = _ref("shard", members, *place, number)
            nodes.append(_shard_node(ref, shard_names(place[0], number, place[1]), files[place], pieces, dtype))
            owners.append(place)
    found: Shards = {member: {split: [] for split in SPLITS} for member in members}
    done: list[Done[ShardReport]] = yield Stage("shard", nodes)
    for (source, split), one in zip(owners, done, strict=True):
        found[source][split].append(one.report.shard)
    return found


def _ref(kind: str, members: Mapping[str, Files], member: str, split: str, number: int) -> Ref:
    """Of a shard's task: its source in the recipe, and in the stage the sub-source where the member is one."""
    source = members[member].source
    return Ref(kind, source, split if member == source else f"{member} {split}", number)


def _shard_node(
    ref: Ref, output: tuple[str, str], files: Sequence[StoredTokens], pieces: Sequence[Piece], dtype: np.dtype
) -> Node:
    used = sorted({piece.file for piece in pieces})
    place = {file: position for position, file in enumerate(used)}
    local = tuple(piece._replace(file=place[piece.file]) for piece in pieces)
    job = WriteShard(tuple(files[f] for f in used), local, dtype.name, output)
    weight = sum(piece.end_token - piece.first_token for piece in pieces) * dtype.itemsize
    copied = sum(files[f].tokens for f in used) * dtype.itemsize  # where the run's folder is no disk
    return Node(ref, job, weight, scratch=copied + weight)


def tokenizer_facts(tokenized: Mapping[str, Sequence[Done[TokenFilesReport]]]) -> TokenFilesReport:
    """What any of the token files says of the tokenizer: they have it in common."""
    return next(one.report for done in tokenized.values() for one in done)


@dataclass(frozen=True)
class Tokens:
    """The last of a plan: token files, the mixture's members, and the shards made of them."""

    tokenized: Mapping[str, Sequence[Done[TokenizeReport]]]
    members: Mapping[str, Files]
    shards: Shards
    near: Near | None = None


def manifest_of(recipe: Recipe, tokens: Tokens) -> Manifest:
    """The run's manifest: every shard, and the mixture compiled from what there is. Raises MixtureError."""
    facts = tokenizer_facts(tokens.tokenized)
    available = {name: sum(s["tokens"] for s in splits["train"]) for name, splits in tokens.shards.items()}
    budgets = {budget.source: budget for budget in compile_mixture(recipe.asked_mixture(), available)}
    sources = {
        name: source_entry(
            name, splits["train"], splits["held_out"], budgets[name].asked, budgets[name].max_repeats
        )
        for name, splits in tokens.shards.items()
    }
    for name, files in tokens.members.items():
        if files.part is not None:
            sources[name].update(of=files.source, part=dict(files.part), where=dict(files.where or {}))
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
