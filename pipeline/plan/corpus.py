"""The plan of a recipe: from source files to shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.jobs.dedup import DedupSummary
from pipeline.jobs.inputs import SourceFile
from pipeline.plan.dedup import Over, deduplicate
from pipeline.plan.documents import Work, filter_parts, read_documents
from pipeline.plan.graph import Plan, Release, side_by_side
from pipeline.plan.held_out import near_copies, token_files
from pipeline.plan.node import Named
from pipeline.plan.parts import Part, Segment, files_of, named_steps, segments
from pipeline.plan.split import split_files, split_tokens
from pipeline.plan.tokens import Tokens, shard, tokenize, tokenizer_facts
from pipeline.plan.training import run_tokenizer, trained_models
from pipeline.recipe.recipe import Recipe
from stages.dedup.spec import AnyDedup
from stages.tokens.shard_format import token_dtype

MIXTURE = "all"  # stands for the whole mixture where a source is named


@dataclass(frozen=True)
class Inputs:
    """What a plan is made from besides its recipe, as it is listed before it begins.

    run: the run's folder. files: of each source. named, sizes: the other files that the recipe names, by URI.
    """

    run: str
    files: Mapping[str, list[SourceFile]]
    named: Mapping[str, Named] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)


@dataclass
class Corpus:
    """What a plan ends in: tokens and shards, and what each dedup found, by its place in the recipe."""

    tokens: Tokens
    dedups: dict[str, DedupSummary]


@dataclass
class _Round:
    """What a source's segment made: its parts before the dedup that follows and after it."""

    read: list[Part]
    left: list[Part]
    dedups: dict[str, DedupSummary] = field(default_factory=dict)


Parts = dict[str, list[Part]]


def corpus(recipe: Recipe, inputs: Inputs) -> Plan[Corpus]:
    """All stages of a recipe's run, in their order. Raises UserError, MixtureError."""
    plan = {name: segments(source) for name, source in recipe.sources.items()}
    parts: Parts = {name: [] for name in recipe.sources}
    dedups: dict[str, DedupSummary] = {}
    for number in range(max(len(found) for found in plan.values())):
        here = {name: found[number] for name, found in plan.items() if number < len(found)}
        before = dict(parts)
        rounds = yield from side_by_side(
            {name: _round(recipe, inputs, name, number, segment, before) for name, segment in here.items()}
        )
        parts |= {name: found.left for name, found in rounds.items()}
        for found in rounds.values():
            dedups |= found.dedups
        read = before | {name: found.read for name, found in rounds.items()}
        yield from _release(recipe, before, read)
        yield from _release(recipe, read, parts)
    for name, settings in recipe.dedup:
        read, (parts, dedups[f"{MIXTURE}/{name}"]) = parts, (yield from _over_all(recipe, inputs, name, settings, parts))
        yield from _release(recipe, read, parts)
    tokenizer = yield from run_tokenizer(recipe, parts, inputs.named)
    tokenized = yield from tokenize(recipe, parts, tokenizer)
    dtype = token_dtype(tokenizer_facts(tokenized).vocab_size)
    used, near = yield from near_copies(recipe, tokenized, dtype)
    members = yield from split_tokens(recipe, parts, used, dtype)
    shards = yield from shard(members, recipe.shards.bytes, dtype)
    yield from _release(recipe, parts, {})
    if recipe.run.keep != "all":
        # Indexes stay: where the shards begin and end is read from them, also by a rerun that has nothing to do.
        yield Release([*token_files(tokenized, used), *split_files(members)])
    return Corpus(Tokens(used, members, shards, near), dedups)


def _round(recipe: Recipe, inputs: Inputs, source: str, number: int, segment: Segment, parts: Parts) -> Plan[_Round]:
    """A source's segment: its classifiers are trained, its documents go through the steps, its dedup follows."""
    segment, made = yield from trained_models(recipe, inputs.run, source, segment, parts)
    work = Work(recipe, source, number, named_steps(segment, {**inputs.named, **made}))
    if number == 0:
        read = yield from read_documents(work, inputs.files[source])
    else:
        read = (yield from filter_parts(work, parts[source])) if segment.steps else parts[source]
    if segment.dedup is None or not read:
        return _Round(read, read)
    name, settings = segment.dedup
    left, summary = yield from deduplicate(_over(recipe, inputs, source, name, settings, read))
    return _Round(read, left, {f"{source}/{name}": summary})


def _over(
    recipe: Recipe, inputs: Inputs, source: str, name: str, settings: AnyDedup, parts: list[Part]
) -> Over:
    files = files_of(settings, inputs.named)
    return Over(source, name, settings, tuple(parts), files, inputs.sizes, recipe.run.keep == "all")


def _over_all(
    recipe: Recipe, inputs: Inputs, name: str, settings: AnyDedup, parts: Parts
) -> Plan[tuple[Parts, DedupSummary]]:
    """A dedup over the parts of all sources, in the recipe's order."""
    flat = [part for found in parts.values() for part in found]
    found, summary = yield from deduplicate(_over(recipe, inputs, MIXTURE, name, settings, flat))
    left = iter(found)
    return {source: [next(left) for _ in before] for source, before in parts.items()}, summary


def _release(recipe: Recipe, before: Parts, now: Parts) -> Plan[None]:
    """Unless the recipe keeps all, let the documents go that no later stage reads; who was dropped stays on record."""
    if recipe.run.keep == "all":
        return
    still = {part.file.path for found in now.values() for part in found}
    gone = [(p.owner, p.file.path) for found in before.values() for p in found if p.file.path not in still]
    if gone:
        yield Release(gone)
