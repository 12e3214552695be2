"""The manifest of a finished run read back: its shards, what their tokens are to be, and its tokenizer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pipeline import storage
from pipeline.ledger import FOLDER
from pipeline.run_folder.folder import (
    EXPORT,
    IMPORT,
    MADE_BY,
    MIXTURE,
    PAIRS,
    RUN,
    ImportMark,
    MixtureMark,
    RunRecipe,
    TokenRule,
    read_mark,
)
from stages.errors import UserError
from stages.tokens.manifest_shape import Manifest, ShardEntry, SourceEntry, SplitEntry
from stages.tokens.shard_format import MANIFEST, ShardError, parse_manifest
from stages.tokens.tokenizer import Tokenizer, load_tokenizer

SPLITS = ("train", "held_out")
MATERIALIZED: Final = "materialized"  # the manifest's key where the trainer wrote instances in training order


def read_manifest(run: str) -> Manifest:
    """The manifest of a finished run. Raises UserError where there is none, or it is damaged."""
    uri = storage.join(run, MANIFEST)
    if not storage.exists(uri):
        raise UserError(_no_manifest(run))
    try:
        return parse_manifest(storage.read_bytes(uri), uri)
    except ShardError as error:
        raise UserError(str(error)) from None


def read_corpus(run: str) -> Manifest:
    """`read_manifest` of a folder whose documents lie in shards. Raises UserError also for materialized instances."""
    manifest = read_manifest(run)
    if MATERIALIZED in manifest:
        raise UserError(
            f"{run} holds instances in training order, which have no documents; name the run that it was made from"
        )
    return manifest


def _no_manifest(run: str) -> str:
    """Why there is no manifest in a folder, and what helps."""
    nothing = f"{run} holds no finished run (no {MANIFEST})"
    for name, command in MADE_BY.items():
        if not storage.exists(storage.join(run, name)):
            continue
        if name == EXPORT:
            return f"{nothing}: it is an export for other tools; name the run that it was made of"
        return f"{nothing}: `python -m pipeline {command}` has not finished there; start the same command again"
    if storage.exists(storage.join(run, FOLDER)):
        return f"{nothing}; python -m pipeline status {run} tells how far it is"
    return f"{nothing}, nor one that was begun; is the folder's name right?"


def members_of(manifest: Manifest, source: str) -> list[str]:
    """The members of the mixture that a source of the recipe became: its own name, or those of its parts, in order."""
    return [name for name in manifest["mixture"]["sources"] if manifest["sources"][name].get("of", name) == source]


def whole_source(manifest: Manifest, source: str) -> SourceEntry:
    """The manifest's entry of a source of the recipe; where it was split, the sums and shards of its parts together."""
    entries = [manifest["sources"][name] for name in members_of(manifest, source)]
    if len(entries) == 1:
        return entries[0]
    return SourceEntry(
        **_together(entries),
        budget_tokens=sum(entry["budget_tokens"] for entry in entries),
        max_repeats=max(entry["max_repeats"] for entry in entries),
        held_out=_together([entry["held_out"] for entry in entries]),
    )


def _together(splits: Sequence[SplitEntry]) -> SplitEntry:
    return SplitEntry(
        tokens=sum(split["tokens"] for split in splits),
        documents=sum(split["documents"] for split in splits),
        text_bytes=sum(split["text_bytes"] for split in splits),
        shards=[shard for split in splits for shard in split["shards"]],
    )


def shards_of(manifest: Manifest, source: str, split: str) -> list[ShardEntry]:
    """The manifest's entries of a source's shards, training or held out."""
    entry = manifest["sources"][source]
    return entry["shards"] if split == "train" else entry["held_out"]["shards"]


def token_rules(run: str, sources: Iterable[str]) -> dict[str, TokenRule]:
    """Of each source whether its documents end in the end token (`ends`), and whether texts may hold it (`inside`).

    The recipe says so, or how the folder was made: an import takes tokens as they are, a mixture has each from its
    folder, pairs are as their chat template makes them.
    """
    usual = TokenRule()
    if (mark := read_mark(run, MIXTURE, MixtureMark)) is not None:
        return {name: mark.token_rules.get(name, usual) for name in sources}
    if (mark := read_mark(run, IMPORT, ImportMark)) is not None:
        usual = TokenRule(mark.settings.append_eos, inside=True)
    elif read_mark(run, PAIRS) is not None:  # a chat template puts end tokens where it likes, and a cut one has none
        usual = TokenRule(ends=False, inside=True)
    elif (mark := read_mark(run, RUN, RunRecipe)) is not None:
        usual = mark.token_rule
    return dict.fromkeys(sources, usual)


def run_tokenizer(run: str, manifest: Manifest) -> Tokenizer:
    """The tokenizer of a run, as the reference decodes with it."""
    cache = storage.Cache(storage.cache_folder(), 1 << 30)
    return load_tokenizer(storage.fetch(storage.join(run, manifest["tokenizer"]["path"]), cache), engine="tokenizers")
