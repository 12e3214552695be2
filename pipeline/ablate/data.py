"""The data of each arm: its run, which shares what it can with the first arm's, and a mixture of exactly enough tokens."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa

from pipeline.ablate.arms import Arm
from pipeline.ablate.composition import Composition, composition, seen_sources
from pipeline.carry_out import Options, run_recipe
from pipeline.engine.place import Placement
from pipeline.ledger import FOLDER
from pipeline.mixture.mix import Mixed, MixOptions, asked_of, mix
from pipeline.mixture.shard_tokens import open_shard
from pipeline.recipe.recipe import Recipe, load_recipe
from pipeline.run_folder.folder import MIXTURE, read_mark
from pipeline.run_folder.manifest import read_manifest
from stages.errors import UserError
from stages.tokens.manifest_shape import Manifest, SourceEntry
from stages.tokens.near_copies import LIMIT, MOST, NGRAM, HeldOutNgrams, lowest, sampled
from stages.tokens.shard_format import read_index
from stages.tokens.tokenizer import load_tokenizer

DOCUMENTS = 256  # of a shard that are looked at together


class Part(msgspec.Struct, frozen=True):
    """A member of an arm's mixture: tokens there are, tokens asked for, share, repeats."""

    available: int
    asked: int
    share: float
    repeats: float


class Near(msgspec.Struct, frozen=True):
    """Documents that are near copies of the evaluation text: of those that an arm trains on, with their tokens; and by source, of
    all that its run kept, such as those that only a classifier or the tokenizer reads."""

    documents: int
    tokens: int
    sources: dict[str, int]


class ArmData(msgspec.Struct, frozen=True, kw_only=True):
    """An arm's data: its folder, its fingerprint, what it is made of, and training documents near the evaluation text."""

    folder: str
    fingerprint: str
    recipe: str
    profile: str
    settings: list[str]
    mixture: list[str]
    documents: int
    sources: dict[str, Part]
    composition: Composition
    near: Near


@dataclass(frozen=True)
class Asked:
    """What an experiment's data are made for: its recipe and profile, the tokens of a training and of an instance."""

    recipe: str
    profile: str | None
    assignments: Sequence[str]
    tokens: int
    length: int


def prepare(arms: Sequence[Arm], asked: Asked, out: Path, placement: Placement, texts: Sequence[str]) -> dict[str, ArmData]:
    """Run each arm's recipe, the first one first, and mix its tokens. Raises UserError, with the arm's name."""
    found: dict[str, ArmData] = {}
    for number, arm in enumerate(arms):
        try:
            run = out / "runs" / arm.name
            if number and not run.exists() and arm.recipe is None:
                clone(out / "runs" / nearest(arm, arms[:number]).name, run)
            recipe = _recipe(arm, asked, out if number else None)
            run_recipe(recipe, Options(str(run), take_over=True, **vars(placement)))
            if not number:
                _keep_tokenizer(run, out)
            found[arm.name] = _mixed(arm, asked, out, run, recipe, texts)
        except UserError as error:
            raise UserError(f"arm {arm.name}: {error}") from None
    return found


def nearest(arm: Arm, earlier: Sequence[Arm]) -> Arm:
    """The earlier arm of the same recipe whose settings differ least: most of its work is this arm's too."""
    same = [one for one in earlier if one.recipe is None] or list(earlier)
    return min(same, key=lambda one: len(set(one.assignments) ^ set(arm.assignments)))


def _recipe(arm: Arm, asked: Asked, out: Path | None) -> Recipe:
    """The arm's recipe. out: where the tokenizer of the first arm is kept, for all others."""
    path, profile = (asked.recipe, asked.profile) if arm.recipe is None else (arm.recipe, arm.profile)
    own = ["run.keep=all", *asked.assignments, *arm.assignments]
    if out is not None:
        own.append(f"tokenizer={{path: '{(out / 'tokenizer.json').absolute()}', train: null, hub: null}}")
    return load_recipe(path, profile, own)


def _keep_tokenizer(run: Path, out: Path) -> None:
    manifest = read_manifest(str(run))
    data = (run / manifest["tokenizer"]["path"]).read_bytes()
    if not (out / "tokenizer.json").is_file() or (out / "tokenizer.json").read_bytes() != data:
        (out / "tokenizer.json").write_bytes(data)


def clone(run: Path, target: Path) -> None:
    """A run's folder again, its files as links, so that another recipe goes on from what it did. What is added to in place,
    its ledger, and small files are copied. A clone that was broken off is made again."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run)
        if path.is_dir() or name.parts[0] in ("logs", "run.lock", ".scratch"):
            continue
        there = partial / name
        there.parent.mkdir(parents=True, exist_ok=True)
        if name.parts[0] == FOLDER or len(name.parts) == 1:
            shutil.copy2(path, there)
        else:
            os.link(path, there)
    partial.rename(target)


def _mixed(arm: Arm, asked: Asked, out: Path, run: Path, recipe: Recipe, texts: Sequence[str]) -> ArmData:
    options = MixOptions(assignments=list(arm.mixture), name=arm.name)
    folder, told = exact_mixture([str(run)], options, asked.tokens, asked.length, out / "arms" / arm.name)
    return ArmData(
        folder=str(folder.relative_to(out)),
        fingerprint=told.fingerprint,
        recipe=recipe.name,
        profile=recipe.profile or "",
        settings=list(arm.assignments),
        mixture=list(arm.mixture),
        documents=sum(entry["documents"] for entry in seen_sources(read_manifest(str(folder)))),
        sources={name: Part(one.available, one.asked, one.share, one.repeats) for name, one in told.sources.items()},
        composition=composition(run, folder),
        near=near_texts(folder, texts),
    )


def exact_mixture(runs: Sequence[str], options: MixOptions, tokens: int, length: int, folder: Path) -> tuple[Path, Mixed]:
    """A mixture from which so many tokens can be trained on exactly, in instances of `length`; it is written to a folder below
    `folder`, named by its fingerprint, unless it is there. Raises UserError where there are not as many."""
    most = asked_of(list(runs), options).max_repeats
    size = tokens + spare_tokens([read_manifest(run) for run in runs], length, most)
    options = replace(options, assignments=[*options.assignments, f"tokens={size}"])
    told = mix(runs, options)
    if told.tokens < tokens:
        raise UserError(f"its mixture has {told.tokens:,} tokens, and {tokens:,} are to be trained on")
    target = folder / f"data-{told.fingerprint[:12]}"
    mark = read_mark(str(target), MIXTURE) if target.exists() else None
    if not (mark and mark.finished):
        shutil.rmtree(target, ignore_errors=True)
        mix(runs, replace(options, out=str(target)))
    return target, told


def spare_tokens(manifests: Sequence[Manifest], length: int, max_repeats: float) -> int:
    """Tokens that a mixture is asked for beyond those that are trained on: of each shard less than an instance is left over, in
    each of its epochs."""
    shards = sum(len(entry["shards"]) for manifest in manifests for entry in manifest["sources"].values())
    return length * shards * (1 + int(max_repeats))


def near_texts(folder: Path, texts: Sequence[str]) -> Near:
    """Documents of a mixture's folder that are near copies of some texts, by the rule for held-out ones."""
    manifest = read_manifest(str(folder))
    tokenizer = load_tokenizer(folder / manifest["tokenizer"]["path"], engine="tokenizers")
    tokens, offsets = tokenizer.encode(pa.array(list(texts), pa.large_string()))
    hashes = sampled(tokens.astype(np.uint32), np.asarray(offsets, np.int64), NGRAM, LIMIT)[0]
    known = HeldOutNgrams.of(lowest(iter([hashes]), MOST), MOST)
    documents = size = 0
    sources: Counter[str] = Counter()
    for name, entry in manifest["sources"].items():
        for found, bounds in _documents(folder, manifest["dtype"], entry):
            near = known.near(found, bounds, NGRAM)
            sources[entry.get("of", name)] += int(near.sum())
            if entry["budget_tokens"]:
                documents += int(near.sum())
                size += int(np.diff(bounds)[near].sum())
    return Near(documents, size, dict(sources))


def _documents(folder: Path, dtype: str, entry: SourceEntry) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Tokens (uint32) and offsets (int64) of a source's training documents, some at a time."""
    stored = np.dtype(dtype)
    for shard in entry["shards"]:
        ends = np.fromiter((row.end for row in read_index(folder / shard["index"])), np.int64)
        with open_shard(str(folder), shard, stored) as stream:
            for first in range(0, len(ends), DOCUMENTS):
                bounds = np.append(ends[first - 1] if first else 0, ends[first : first + DOCUMENTS])
                data = stream.read(int(bounds[-1] - bounds[0]) * stored.itemsize)
                yield np.frombuffer(data, stored).astype(np.uint32), bounds - bounds[0]
