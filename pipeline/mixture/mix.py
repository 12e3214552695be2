"""Mixtures compiled from what exists: manifests are read, and one is written; no token is.

A mixture is a folder of its own, whose shards are the very files of the folders it is made of (hard links). So a run and
the mixtures made of it stand side by side: neither writes over the other, and a run that is made again replaces its
files, while those that a mixture links stay as they were.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from pydantic import ValidationError
from rich.console import Console

from pipeline.mixture.grid import Grid, copy_part, grids, show_grids
from pipeline.mixture.mix_files import Files, Written, write_mixture
from pipeline.mixture.mix_members import (
    Member,
    WholeOf,
    held_out_note,
    held_out_rules,
    members_of_run,
    mixture_of,
    ranged,
    whole_files,
)
from pipeline.mixture.mix_split import Asked, split_all, splits_asked
from pipeline.mixture.resplit import Split
from pipeline.program import train_command
from pipeline.recipe.members import repeats_of_parts
from pipeline.recipe.overrides import RecipeError, apply_set
from pipeline.recipe.recipe import Recipe, dump, explain, load_recipe
from pipeline.run_folder.manifest import members_of, read_corpus
from pipeline.tables import plain_table
from stages.errors import UserError
from stages.step import content_key
from stages.tokens.manifest import build_manifest, source_entry
from stages.tokens.manifest_shape import HeldOutEntry, Manifest, ShardEntry, SourceEntry, TokenizerEntry
from stages.tokens.mixture import Budget, Mixture, compile_mixture, with_repeats
from stages.tokens.shard_format import MANIFEST
from stages.units import show_bytes, show_count

SIZES = ("tokens", "epochs")  # of a mixture, one is given; so is one of these of a source:
WAYS = ("tokens", "share", "repeats")


@dataclass
class MixOptions:
    """What is asked of the mixture, and how it is written. split: what sources are split by, as `splits_asked` reads it."""

    recipe: str | None = None
    profile: str | None = None
    assignments: list[str] = field(default_factory=list)
    rename: list[str] = field(default_factory=list)  # FOLDER/SOURCE=NAME
    name: str | None = None
    out: str | None = None
    files: Files = "link"
    split: list[str] = field(default_factory=list)  # SOURCE=AXES, or a file of these


class MixedSource(msgspec.Struct, frozen=True, kw_only=True):
    """One source of the mixture: tokens there are, tokens asked for, tokens held out."""

    run: str
    available: int
    asked: int
    repeats: float
    max_repeats: float
    share: float
    held_out: int
    part: dict[str, str] | None = None


class Mixed(msgspec.Struct, frozen=True, kw_only=True):
    """A mixture. tokenizer: the manifest's entry; mixture: as a recipe would say it. grids: of sources that are split."""

    out: str | None
    name: str
    fingerprint: str
    tokenizer: TokenizerEntry
    dtype: str
    mixture: dict[str, Any]
    tokens: int
    notes: list[str]
    sources: dict[str, MixedSource]
    grids: list[Grid]


def mix(runs: Sequence[str], options: MixOptions) -> Mixed:
    """Compile a mixture of the sources in these folders and, where `options.out` names a folder, write it there.

    Raises UserError: different tokenizers, one name for two sources, a mixture that cannot be had (MixtureError, with
    the arithmetic), an `out` that is not empty.
    """
    manifests = {run: read_corpus(run) for run in dict.fromkeys(runs)}
    _check_tokenizers(manifests)
    recipe = _recipe(options)
    asked = splits_asked(manifests, options.split, recipe)
    with tempfile.TemporaryDirectory(prefix="headrace-mix-") as scratch:
        splits = split_all(manifests, asked, Path(scratch))
        members = _members(manifests, splits, options.rename)
        mixture, notes = _with_parts(manifests, options, asked)
        return _mixed(manifests, members, mixture, notes, whole_files(members, manifests, splits), options)


def _recipe(options: MixOptions) -> Recipe | None:
    return load_recipe(options.recipe, options.profile) if options.recipe is not None else None


def _with_parts(manifests: Mapping[str, Manifest], options: MixOptions, asked: Asked) -> tuple[Mixture, list[str]]:
    """The mixture that is asked for, with what is said of the repeats of parts that are split now; and a note on what the one
    folder's own mixture asks of their sources, which is left out: it is of the whole source, or of other parts."""
    runs = list(manifests)
    parts = {source: {source, *members_of(manifests[run], source)} for run, source in asked}
    mixture = asked_of(runs, options, set().union(*parts.values()))
    repeats = repeats_of_parts({source: axes for (_, source), axes in asked.items()})
    own = mixture_of(runs[0]).get("per_source") or {} if len(runs) == 1 and not options.recipe else {}
    told = [source for source, names in parts.items() if names & own.keys()]
    notes = [f"what was asked of {', '.join(told)} is left out: it is split otherwise now"] if told else []
    return with_repeats(mixture, repeats), notes


def _mixed(
    manifests: dict[str, Manifest],
    members: list[Member],
    mixture: Mixture,
    notes: list[str],
    wholes: list[WholeOf],
    options: MixOptions,
) -> Mixed:
    """Compile the mixture of these members and write it where it is to be written."""
    budgets = compile_mixture(mixture, {member.name: member.entry["tokens"] for member in members})
    first = next(iter(manifests.values()))
    manifest = _manifest(members, manifests, budgets, mixture, options, wholes)
    rules = held_out_rules(list(manifests))
    if options.out is not None:
        write_mixture(options.out, Written(members, manifests, manifest, mixture, rules, wholes), options.files)
    return Mixed(
        out=options.out,
        name=manifest["name"],
        fingerprint=manifest["fingerprint"],
        tokenizer=first["tokenizer"],
        dtype=first["dtype"],
        mixture=dump(mixture),
        tokens=manifest["mixture"]["tokens"],
        grids=grids(manifest),
        notes=[*notes, *([held_out_note(rules)] if len(rules) > 1 else [])],
        sources={
            member.name: MixedSource(
                run=member.run,
                available=budget.available,
                asked=budget.asked,
                repeats=budget.repeats,
                max_repeats=budget.max_repeats,
                share=budget.share,
                held_out=member.entry["held_out"]["tokens"],
                part=member.entry.get("part"),
            )
            for member, budget in zip(members, budgets, strict=True)
        },
    )


def asked_of(runs: Sequence[str], options: MixOptions, gone: Collection[str] = ()) -> Mixture:
    """The mixture that is asked for: the recipe's where one is named, else that of the one folder; `--set` on top.

    gone: members that there are no longer, of which the folder's own says nothing that holds still.
    """
    if options.recipe is not None:
        base = dump(load_recipe(options.recipe, options.profile).asked_mixture())
    elif options.profile is not None:
        raise UserError(f"--profile {options.profile}: is a profile of a recipe; name it with --recipe")
    else:
        base = mixture_of(runs[0]) if len(runs) == 1 else {}
        known = base.get("per_source") or {}
        base = {**base, "per_source": {name: one for name, one in known.items() if name not in gone}}
    data = _lay(base, [text.removeprefix("mixture.") for text in options.assignments])
    try:
        return Mixture.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"mixture: {explain(error, Mixture)}") from None


def _lay(base: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """`--set` on top of a mixture; of keys that exclude one another, the one that is set now takes the others' place."""
    new = apply_set({}, assignments)
    base = _without_rivals(base, new, SIZES)
    if isinstance(new.get("per_source"), dict):
        sources = dict(base.get("per_source") or {})
        for name, asked in new["per_source"].items():
            if isinstance(asked, dict) and isinstance(sources.get(name), dict):
                sources[name] = _without_rivals(sources[name], asked, WAYS)
        base["per_source"] = sources
    return apply_set(base, assignments)


def _without_rivals(base: dict[str, Any], new: dict[str, Any], rivals: Sequence[str]) -> dict[str, Any]:
    given = any(new.get(name) is not None for name in rivals)
    return {key: value for key, value in base.items() if not (given and key in rivals)}


def _check_tokenizers(manifests: dict[str, Manifest]) -> None:
    (first, one), *others = manifests.items()
    for run, other in others:
        a, b = one["tokenizer"], other["tokenizer"]
        if a["sha256"] != b["sha256"]:
            raise UserError(
                f"{first} and {run} have different tokenizers (sha256 {a['sha256'][:12]}, {a['vocab_size']:,} entries; "
                f"{b['sha256'][:12]}, {b['vocab_size']:,} entries): a token of one is another in the other; tokenize one of "
                "them again with the other's tokenizer.json"
            )
        for key in ("eos_id", "pad_id", "vocab_size"):
            if a[key] != b[key]:
                raise UserError(f"{first} and {run} have one tokenizer, and different {key}: {a[key]} and {b[key]}")


def _members(
    manifests: dict[str, Manifest], splits: Mapping[tuple[str, str], Split], renames: Sequence[str]
) -> list[Member]:
    """All sources of all folders, in order. Raises UserError where two have one name."""
    names: dict[tuple[str, str], str] = {}
    there = {run: members_of_run(run, manifest, splits) for run, manifest in manifests.items()}
    for text in renames:
        place, equals, new = text.partition("=")
        run, _, source = place.rpartition("/")
        known = next((name for name in manifests if name.rstrip("/") == run.rstrip("/")), None)
        if not equals or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", new):
            raise UserError(f"--rename {text}: write it as FOLDER/SOURCE=NAME")
        if known is None or source not in {one.source for one in there[known]}:
            raise UserError(f"--rename {text}: there is no source {source!r} in {run!r}")
        names[known, source] = new
    found: dict[str, Member] = {}
    for run, members in there.items():
        for member in members:
            name = names.get((run, member.source), member.source)
            if name in found:
                raise UserError(
                    f"source {name} is in {found[name].run} and in {run}: give one another name, such as "
                    f"--rename {run.rstrip('/')}/{member.source}={member.source}_2"
                )
            found[name] = replace(member, name=name)
    return list(found.values())


def _manifest(
    members: list[Member],
    manifests: dict[str, Manifest],
    budgets: list[Budget],
    mixture: Mixture,
    options: MixOptions,
    wholes: Sequence[WholeOf],
) -> Manifest:
    first = next(iter(manifests.values()))
    tokenizer = first["tokenizer"]
    # Nothing of where it lies: the same mixture, made anew elsewhere, is the same to a training that goes on.
    names = dict.fromkeys(manifest["name"] for manifest in manifests.values())
    what = [dump(mixture), [[member.name, manifests[member.run]["fingerprint"], member.source] for member in members]]
    what += [sorted(digests)] if (digests := {shard["sha256"] for one in members for shard in ranged(one)}) else []
    manifest = build_manifest(
        name=options.name or f"{'+'.join(names)}-{int(content_key(what), 16) % 10**6:06}",
        profile=first["profile"] if len(manifests) == 1 else "",
        recipe_hash=content_key(dump(mixture)),
        seed=first["seed"],
        tokenizer_sha256=tokenizer["sha256"],
        vocab_size=tokenizer["vocab_size"],
        eos_id=tokenizer["eos_id"],
        pad_id=tokenizer["pad_id"],
        sources={
            member.name: _entry(member, budget, wholes)
            for member, budget in zip(members, budgets, strict=True)
        },
        mixture_tokens=sum(budget.asked for budget in budgets),
        mixture_seed=mixture.seed,
        reshuffle_last_tokens=mixture.reshuffle_last_tokens,
        whole={one.name: one.listed() for one in wholes},
    )
    told = [one.get("held_out") for one in manifests.values()]
    rules = {(one["share"], one["salt"]) for one in told if one}
    if all(told) and len(rules) == 1:
        ((share, salt),) = rules
        manifest["held_out"] = HeldOutEntry(share=share, salt=salt)
    return manifest


def _entry(member: Member, budget: Budget, wholes: Sequence[WholeOf]) -> SourceEntry:
    named = {(one.run, one.known): one.name for one in wholes}

    def ours(shard: ShardEntry) -> ShardEntry:
        return ShardEntry(**{**shard, "whole": named[member.run, shard["whole"]]}) if "whole" in shard else shard

    shards, held_out = (map(ours, split["shards"]) for split in (member.entry, member.entry["held_out"]))
    entry = source_entry(member.name, shards, held_out, budget.asked, budget.max_repeats)
    return copy_part(member.entry, entry)


def show_mix(found: Mixed, console: Console) -> None:
    """Print the mixture."""
    several = len({source.run for source in found.sources.values()}) > 1
    console.print(f"{found.name}: a mixture of {show_count(found.tokens)} tokens", style="bold", markup=False)
    columns = ("available", "asked", "repeats", "at most", "share")
    table = plain_table("", "source~", *(["from~"] if several else []), *columns)
    for name, source in found.sources.items():
        table.add_row(
            name,
            *([source.run] if several else []),
            show_count(source.available),
            show_count(source.asked),
            f"{source.repeats:.4g}",
            f"{source.max_repeats:g}",
            f"{source.share:.2%}",
        )
    available = sum(source.available for source in found.sources.values())
    table.add_section()
    times = f"{found.tokens / available:.4g}" if available else ""
    cells = (show_count(available), show_count(found.tokens), times, "", "100.00%")
    table.add_row("all", *([""] if several else []), *cells)
    console.print(table)
    show_grids(found.grids, console)
    size = show_bytes(found.tokens * (2 if found.dtype == "uint16" else 4))
    last = found.mixture["reshuffle_last_tokens"]
    console.print(
        f"seed {found.mixture['seed']}; each epoch of a source in an order of its own"
        + (f", the last {show_count(last)} tokens in another" if last else "")
        + f"; {size} are read in training"
    )
    for note in found.notes:
        console.print(f"note: {note}", markup=False)
    if found.out:
        console.print(f"wrote {found.out}/{MANIFEST} (fingerprint {found.fingerprint[:16]}); no token was written")
        console.print(f"next: {train_command(found.out)}", markup=False)
    else:
        console.print("nothing was written; --out NEW writes a folder with this mixture, whose shards are links")
