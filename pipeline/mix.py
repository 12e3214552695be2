"""Mixtures compiled from what exists: manifests are read, and one is written; no token is.

A mixture is a folder of its own, whose shards are the very files of the folders it is made of (hard links). So a run and
the mixtures made of it stand side by side: neither writes over the other, and a run that is made again replaces its
files, while those that a mixture links stay as they were.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec
from pydantic import ValidationError
from rich.console import Console

from pipeline import storage
from pipeline.engine import MANIFEST
from pipeline.folder import (
    MIXTURE,
    HeldOutRule,
    MadeOf,
    MemberOf,
    MixtureMark,
    absolute,
    check_fresh,
    write_mark,
)
from pipeline.grid import Grid, copy_part, grids, show_grids
from pipeline.manifest import SPLITS, read_corpus, token_rules
from pipeline.mix_members import held_out_note, held_out_rules, mixture_of
from pipeline.overrides import RecipeError, apply_set
from pipeline.program import train_command
from pipeline.recipe import dump, explain, load_recipe
from pipeline.storage.local import sync_folder
from pipeline.tables import plain_table
from stages.errors import UserError
from stages.step import content_key
from stages.tokens.manifest import TOKENIZER_PATH, build_manifest, shard_names, source_entry
from stages.tokens.manifest_shape import HeldOutEntry, Manifest, SourceEntry, TokenizerEntry
from stages.tokens.mixture import Budget, Mixture, compile_mixture
from stages.tokens.shard_format import manifest_bytes
from stages.units import show_bytes, show_count

Files = Literal["link", "symlink", "copy"]
SIZES = ("tokens", "epochs")  # of a mixture, one is given; so is one of these of a source:
WAYS = ("tokens", "share", "repeats")


@dataclass(frozen=True)
class Member:
    """One source of the mixture, and the folder that it is taken from."""

    name: str  # in the mixture
    run: str  # as the user named it
    source: str  # its name there
    entry: SourceEntry  # of that folder's manifest


@dataclass
class MixOptions:
    """What is asked of the mixture, and how it is written."""

    recipe: str | None = None
    profile: str | None = None
    assignments: list[str] = field(default_factory=list)
    rename: list[str] = field(default_factory=list)  # FOLDER/SOURCE=NAME
    name: str | None = None
    out: str | None = None
    files: Files = "link"


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
    members = _members(manifests, options.rename)
    mixture = asked_of(list(manifests), options)
    budgets = compile_mixture(mixture, {member.name: member.entry["tokens"] for member in members})
    first = next(iter(manifests.values()))
    manifest = _manifest(members, manifests, budgets, mixture, options)
    rules = held_out_rules(list(manifests))
    if options.out is not None:
        _write(options.out, members, manifests, manifest, mixture, options.files, rules)
    return Mixed(
        out=options.out,
        name=manifest["name"],
        fingerprint=manifest["fingerprint"],
        tokenizer=first["tokenizer"],
        dtype=first["dtype"],
        mixture=dump(mixture),
        tokens=manifest["mixture"]["tokens"],
        grids=grids(manifest),
        notes=[held_out_note(rules)] if len(rules) > 1 else [],
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


def asked_of(runs: Sequence[str], options: MixOptions) -> Mixture:
    """The mixture that is asked for: the recipe's where one is named, else that of the one folder; `--set` on top."""
    if options.recipe is not None:
        base = dump(load_recipe(options.recipe, options.profile).asked_mixture())
    elif options.profile is not None:
        raise UserError(f"--profile {options.profile}: is a profile of a recipe; name it with --recipe")
    else:
        base = mixture_of(runs[0]) if len(runs) == 1 else {}
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


def _members(manifests: dict[str, Manifest], renames: Sequence[str]) -> list[Member]:
    """All sources of all folders, in order. Raises UserError where two have one name."""
    names: dict[tuple[str, str], str] = {}
    for text in renames:
        place, equals, new = text.partition("=")
        run, _, source = place.rpartition("/")
        known = next((name for name in manifests if name.rstrip("/") == run.rstrip("/")), None)
        if not equals or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", new):
            raise UserError(f"--rename {text}: write it as FOLDER/SOURCE=NAME")
        if known is None or source not in manifests[known]["sources"]:
            raise UserError(f"--rename {text}: there is no source {source!r} in {run!r}")
        names[known, source] = new
    found: dict[str, Member] = {}
    for run, manifest in manifests.items():
        for source in manifest["mixture"]["sources"]:
            name = names[run, source] if (run, source) in names else str(source)
            if name in found:
                raise UserError(
                    f"source {name} is in {found[name].run} and in {run}: give one another name, such as "
                    f"--rename {run.rstrip('/')}/{source}={source}_2"
                )
            found[name] = Member(name, run, source, manifest["sources"][source])
    return list(found.values())


def _manifest(
    members: list[Member],
    manifests: dict[str, Manifest],
    budgets: list[Budget],
    mixture: Mixture,
    options: MixOptions,
) -> Manifest:
    first = next(iter(manifests.values()))
    tokenizer = first["tokenizer"]
    # Nothing of where it lies: the same mixture, made anew elsewhere, is the same to a training that goes on.
    names = dict.fromkeys(manifest["name"] for manifest in manifests.values())
    what = [dump(mixture), [[member.name, manifests[member.run]["fingerprint"], member.source] for member in members]]
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
            member.name: _entry(member, budget)
            for member, budget in zip(members, budgets, strict=True)
        },
        mixture_tokens=sum(budget.asked for budget in budgets),
        mixture_seed=mixture.seed,
        reshuffle_last_tokens=mixture.reshuffle_last_tokens,
    )
    told = [one.get("held_out") for one in manifests.values()]
    rules = {(one["share"], one["salt"]) for one in told if one}
    if all(told) and len(rules) == 1:
        ((share, salt),) = rules
        manifest["held_out"] = HeldOutEntry(share=share, salt=salt)
    return manifest


def _entry(member: Member, budget: Budget) -> SourceEntry:
    shards, held_out = member.entry["shards"], member.entry["held_out"]["shards"]
    entry = source_entry(member.name, shards, held_out, budget.asked, budget.max_repeats)
    return copy_part(member.entry, entry)


def _write(
    out: str,
    members: list[Member],
    manifests: dict[str, Manifest],
    manifest: Manifest,
    mixture: Mixture,
    files: Files,
    rules: list[HeldOutRule],
) -> None:
    """Put the shards, the tokenizer and last the manifest under `out`. Raises UserError where a shard is not whole."""
    out = absolute(out)
    itemsize = 2 if manifest["dtype"] == "uint16" else 4
    places: list[tuple[str, str]] = []
    for member in members:
        for split in SPLITS:
            entry = member.entry if split == "train" else member.entry["held_out"]
            for number, shard in enumerate(entry["shards"]):
                path, index = shard_names(member.name, number, split)
                source = absolute(storage.join(member.run, shard["path"]))
                if (size := storage.stat(source).size) != shard["tokens"] * itemsize:
                    raise UserError(
                        f"{source}: has {size:,} bytes, the manifest says {shard['tokens'] * itemsize:,}; inspect it"
                    )
                places += [(source, path), (absolute(storage.join(member.run, shard["index"])), index)]
    run, first = next(iter(manifests.items()))
    places.append((absolute(storage.join(run, first["tokenizer"]["path"])), TOKENIZER_PATH))
    with storage.RunLock(out):
        check_fresh(out, MIXTURE)
        mark = MixtureMark(
            mixture=dump(mixture),
            made_of=[MadeOf(run, known["fingerprint"]) for run, known in manifests.items()],
            sources={member.name: MemberOf(member.run, member.source) for member in members},
            held_out=rules,
            token_rules={member.name: token_rules(member.run, [member.source])[member.source] for member in members},
        )
        write_mark(out, MIXTURE, mark)
        for source, name in places:
            _place(source, storage.join(out, name), files)
        if storage.is_local(out):  # the links have landed before the manifest that vouches for them
            for folder in {storage.local_path(storage.join(out, name)).parent for _, name in places}:
                sync_folder(folder)
        storage.write_bytes(storage.join(out, MANIFEST), manifest_bytes(manifest))
        write_mark(out, MIXTURE, msgspec.structs.replace(mark, finished=True))


def _place(source: str, target: str, files: Files) -> None:
    """Let `target` be the file `source`, over what is there."""
    if files == "copy":
        with storage.open_output(target) as path:
            storage.copy_to(source, path)
        return
    if not (storage.is_local(source) and storage.is_local(target)):
        raise UserError(f"{source} cannot be linked to {target}: only local files can; --files copy copies them")
    here, there = storage.local_path(source).resolve(), storage.local_path(target)
    there.parent.mkdir(parents=True, exist_ok=True)
    there.unlink(missing_ok=True)  # of a mixture that was broken off: there is no manifest yet
    try:
        if files == "link":
            there.hardlink_to(here)
        else:
            there.symlink_to(os.path.relpath(here, there.parent.resolve()))
    except OSError as error:
        raise UserError(
            f"{source} cannot be linked to {target} ({error.strerror}): hard links need one file system; choose another --out, "
            "or --files symlink (then the run must stay as it is) or --files copy"
        ) from None


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
    show_grids([grid for grid in found.grids if len(grid.axes) > 1], console)
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
