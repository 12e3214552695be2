"""Building manifest.json from the facts of a run: no clock, no absolute path, so equal runs give equal bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from stages.tokens.manifest_shape import Manifest, ShardEntry, ShardFacts, SourceEntry, SplitEntry, WholeFile
from stages.tokens.shard_format import FORMAT, VERSION, ShardError, check_schema, fingerprint, token_dtype

TOKENIZER_PATH = "tokenizer/tokenizer.json"
RANGES = ".ranges"


def shard_names(source: str, number: int, split: str = "train") -> tuple[str, str]:
    """Where shard `number` of a source lies in a run's folder: its token file and its index."""
    name = f"{number:05d}" if split == "train" else f"{split}-{number:05d}"
    return f"tokens/{source}/{name}.npy", f"tokens/{source}/{name}.csv.gz"


def split_entry(source: str, shards: Iterable[ShardFacts], split: str = "train") -> SplitEntry:
    """The manifest's entry of one split of a source, from what `write_shard` returned for each shard, in order."""
    entries = []
    for number, shard in enumerate(shards):
        path, index = shard_names(source, number, split)
        entry = ShardEntry(
            path=path,
            index=index,
            tokens=shard["tokens"],
            documents=shard["documents"],
            text_bytes=shard["text_bytes"],
            sha256=shard["sha256"],
        )
        if "index_sha256" in shard:
            entry["index_sha256"] = shard["index_sha256"]
        if "ranges" in shard and "whole" in shard:
            entry.update(path=path.removesuffix(".npy") + RANGES, ranges=shard["ranges"], whole=shard["whole"])
        entries.append(entry)
    return SplitEntry(
        tokens=sum(entry["tokens"] for entry in entries),
        documents=sum(entry["documents"] for entry in entries),
        text_bytes=sum(entry["text_bytes"] for entry in entries),
        shards=entries,
    )


def source_entry(
    source: str,
    train: Iterable[ShardFacts],
    held_out: Iterable[ShardFacts],
    budget_tokens: int,
    max_repeats: float,
) -> SourceEntry:
    """The manifest's entry of a source. `budget_tokens` is what all of training asks for; above `tokens` it repeats."""
    return SourceEntry(
        **split_entry(source, train),
        budget_tokens=int(budget_tokens),
        max_repeats=float(max_repeats),
        held_out=split_entry(source, held_out, "held_out"),
    )


def build_manifest(
    *,
    name: str,
    profile: str,
    recipe_hash: str,
    seed: int,
    tokenizer_sha256: str,
    vocab_size: int,
    eos_id: int,
    pad_id: int,
    sources: Mapping[str, SourceEntry],
    mixture_tokens: int,
    mixture_seed: int,
    reshuffle_last_tokens: int = 0,
    tokenizer_path: str = TOKENIZER_PATH,
    whole: Mapping[str, list[WholeFile]] | None = None,
) -> Manifest:
    """The manifest of a run, with its fingerprint. Sources keep the recipe's order: it is the order of source numbers.

    whole: by name the files that shards are ranges of.

    Raises ShardError where the facts do not fit together (budgets that do not sum up, an absolute path).
    """
    manifest: Manifest = {
        "format": FORMAT,
        "version": VERSION,
        "name": name,
        "profile": profile,
        "recipe_hash": recipe_hash,
        "dtype": token_dtype(vocab_size).name,
        "seed": int(seed),
        "tokenizer": {
            "path": tokenizer_path,
            "sha256": tokenizer_sha256,
            "vocab_size": int(vocab_size),
            "eos_id": int(eos_id),
            "pad_id": int(pad_id),
        },
        "sources": dict(sources),
        "mixture": {
            "tokens": int(mixture_tokens),
            "seed": int(mixture_seed),
            "sources": list(sources),  # JSON objects have no order; source numbers do
            "reshuffle_last_tokens": int(reshuffle_last_tokens),
        },
        "fingerprint": "",
    }
    if whole:
        manifest["whole"] = dict(whole)
    manifest["fingerprint"] = fingerprint(manifest)
    check_schema(manifest)
    asked = sum(entry["budget_tokens"] for entry in manifest["sources"].values())
    if asked != manifest["mixture"]["tokens"]:
        raise ShardError(
            f"the sources' budgets sum up to {asked} tokens, the mixture says {manifest['mixture']['tokens']}"
        )
    paths = [tokenizer_path, *(file["path"] for files in manifest.get("whole", {}).values() for file in files)]
    for entry in manifest["sources"].values():
        for shard in (*entry["shards"], *entry["held_out"]["shards"]):
            paths += [shard["path"], shard["index"]]
    for path in paths:
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ShardError(f"{path}: paths in a manifest are relative to the run's folder")
    return manifest
