"""What a finished run holds, and whether it is intact: every shard is compared with its index and the manifest (`inspect`)."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import islice

import msgspec
import numpy as np
from rich.console import Console
from rich.text import Text

from pipeline import storage
from pipeline.mixture.shard_tokens import open_shard
from pipeline.pairs.check import check_pairs
from pipeline.questions.check_shard import Checked, Rules, check_shard
from pipeline.run_folder.manifest import MATERIALIZED, SPLITS, read_manifest, run_tokenizer, shards_of, token_rules
from pipeline.tables import line, plain_table
from stages.errors import UserError
from stages.tokens.index_table import read_index_batches
from stages.tokens.lengths import Lengths
from stages.tokens.manifest_shape import Manifest, Materialized, OrderedShard, ShardEntry, TokenizerEntry, WholeFile
from stages.tokens.shard_format import MANIFEST, ShardError
from stages.tokens.tokenizer import Tokenizer
from stages.units import show_count

READERS = min(8, os.cpu_count() or 1)  # shards read at once
SHOWN_TOKENS = 1 << 16  # of one document that is decoded
FEW_SHARDS = 32  # so many are listed without being asked for
LENGTHS = ("min", "median", "p90", "p99", "max")


class Sizes(msgspec.Struct, kw_only=True):
    """Documents, tokens and text of one split of a source, with the lengths of its documents in tokens."""

    documents: int
    tokens: int
    text_bytes: int
    lengths: dict[str, float | int] | None  # as Lengths.to_json gives them


class Shard(msgspec.Struct, frozen=True, kw_only=True):
    """A shard as the manifest describes it (what is UNSET it does not say), and what was found in it."""

    answer_tokens: int | msgspec.UnsetType = msgspec.UNSET
    documents: int
    index: str
    index_sha256: str | msgspec.UnsetType = msgspec.UNSET
    mask: str | msgspec.UnsetType = msgspec.UNSET
    mask_sha256: str | msgspec.UnsetType = msgspec.UNSET
    pairs: str | msgspec.UnsetType = msgspec.UNSET
    pairs_sha256: str | msgspec.UnsetType = msgspec.UNSET
    path: str
    records: str | msgspec.UnsetType = msgspec.UNSET
    sha256: str
    text_bytes: int
    tokens: int
    split: str
    bytes_per_token: float
    lengths: dict[str, float | int] | None
    eos_inside: int
    problems: int


class SourceOfRun(msgspec.Struct, frozen=True, kw_only=True):
    """A source of the mixture: its training documents, what training asks of it, its held-out split, its shards."""

    documents: int
    tokens: int
    text_bytes: int
    bytes_per_token: float
    lengths: dict[str, float | int] | None
    budget_tokens: int
    share: float
    repeats: float
    max_repeats: float
    eos_inside: int
    held_out: Sizes
    shards: list[Shard]


class Sample(msgspec.Struct, frozen=True):
    """A decoded document; `cut` where the text is its beginning alone."""

    id: str
    file: str
    record: int
    tokens: int
    text: str
    cut: bool


class Inspected(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished run holds. tokenizer, ordered (None: there is none): the manifest's entries."""

    run: str
    name: str
    profile: str
    tokenizer: TokenizerEntry
    dtype: str
    fingerprint: str
    mixture_tokens: int
    tokens_read: bool
    ordered: Materialized | None
    sources: dict[str, SourceOfRun]
    samples: dict[str, list[Sample]]
    notes: list[str]
    problems: list[str]


@dataclass
class _Found:
    """What was found in the shards of one source."""

    lengths: dict[str, Lengths] = field(default_factory=lambda: {split: Lengths() for split in SPLITS})
    shards: list[Shard] = field(default_factory=list)
    eos_inside: int = 0


@dataclass(frozen=True)
class _Entry:
    """The manifest's entry of a shard, with its source and split; without a source instances in training order, or a file
    that shards are ranges of."""

    source: str | None
    split: str
    shard: ShardEntry | OrderedShard | WholeFile


def inspect(run: str, documents: int = 0, quick: bool = False) -> Inspected:
    """What a finished run holds, source by source and shard by shard, with what is wrong with it (`problems`).

    Each shard is checked: its size and checksum, that its index covers it without gaps and counts what the manifest
    says, that documents end in the end token and have none inside, that all tokens lie within the vocabulary, and that
    no two shards are the same. `quick` checks sizes and indexes only, and reads no tokens. With `documents`, the
    first so many of each source are decoded. Memory is a few MiB for each shard read at a time. Raises UserError.
    """
    if documents < 0:
        raise UserError(f"--show {documents}: a number of documents, 0 for none")
    manifest = read_manifest(run)
    rules = _rules(run, manifest)
    ordered = manifest.get(MATERIALIZED)
    found = {name: _Found() for name in manifest["mixture"]["sources"]}
    entries = [
        _Entry(name, split, shard) for name in found for split in SPLITS for shard in shards_of(manifest, name, split)
    ] + [_Entry(None, "ordered", shard) for shard in (ordered["shards"] if ordered else ())]
    wholes = manifest.get("whole", {})
    entries += [_Entry(None, "whole", file) for files in wholes.values() for file in files]
    problems, notes = _of_manifest(manifest) + _of_tokenizer(run, manifest), []
    if kept := manifest.get("made_by", {}).get("results_of_other_code"):
        notes.append(f"{kept} tasks' results are of other code or libraries, kept on purpose (run --reuse-other-code)")
    first: dict[str, str] = {}  # the shard that a digest was met in first
    with ThreadPoolExecutor(READERS) as pool:
        for entry, checked in _checked(pool, entries, lambda one: check_shard(run, one.shard, rules[one.source], wholes, quick)):
            shard = entry.shard
            if "index" in shard:
                checked.problems += check_pairs(run, shard, quick)
            problems += checked.problems
            notes += checked.notes
            digest = checked.sha256 or shard["sha256"]
            if shard["tokens"] and digest in first:
                problems.append(f"{shard['path']}: the same tokens as {first[digest]} (sha256 {digest[:12]})")
            first.setdefault(digest, shard["path"])
            if entry.source is not None and "index" in shard:
                source = found[entry.source]
                source.lengths[entry.split].merge(checked.lengths)
                source.eos_inside += checked.eos_inside
                source.shards.append(_shard(shard, entry.split, checked))
    return Inspected(
        run=run,
        name=manifest["name"],
        profile=manifest["profile"],
        tokenizer=manifest["tokenizer"],
        dtype=manifest["dtype"],
        fingerprint=manifest["fingerprint"],
        mixture_tokens=manifest["mixture"]["tokens"],
        tokens_read=not quick,
        ordered=ordered,
        sources={name: _source(manifest, name, facts) for name, facts in found.items()},
        samples=_samples(run, manifest, documents) if documents else {},
        notes=notes,
        problems=problems,
    )


def _checked(
    pool: ThreadPoolExecutor, entries: list[_Entry], check: Callable[[_Entry], Checked]
) -> Iterator[tuple[_Entry, Checked]]:
    """The entries with what was found of each, in order; a few are checked ahead, so that few results wait in memory."""
    waiting: deque[tuple[_Entry, Future[Checked]]] = deque()
    for entry in entries:
        waiting.append((entry, pool.submit(check, entry)))
        if len(waiting) > READERS:
            first, future = waiting.popleft()
            yield first, future.result()
    for entry, future in waiting:
        yield entry, future.result()


def _rules(run: str, manifest: Manifest) -> dict[str | None, Rules]:
    """What the tokens of each source must be; None: instances in training order."""
    tokenizer = manifest["tokenizer"]
    plain = Rules(np.dtype(manifest["dtype"]), tokenizer["eos_id"], tokenizer["vocab_size"])
    asked = token_rules(run, manifest["mixture"]["sources"])
    return {None: plain} | {
        name: replace(plain, ends=rule.ends, inside=rule.inside) for name, rule in asked.items()
    }


def _of_tokenizer(run: str, manifest: Manifest) -> list[str]:
    """Whether the tokenizer is the one that made the tokens."""
    known = manifest["tokenizer"]
    uri = storage.join(run, known["path"])
    if not storage.exists(uri):
        return [f"{known['path']}: the file is missing; run the recipe again to rebuild it"]
    digest = hashlib.sha256(storage.read_bytes(uri)).hexdigest()
    if digest == known["sha256"]:
        return []
    return [
        f"{known['path']}: not the tokenizer that made the tokens (sha256 {digest[:12]}, the manifest says "
        f"{known['sha256'][:12]}); run the recipe again with --verify"
    ]


def _of_manifest(manifest: Manifest) -> list[str]:
    """What does not add up in the manifest itself."""
    wrong = []
    for name, entry in manifest["sources"].items():
        for split, whole in (("train", entry), ("held_out", entry["held_out"])):
            if split == "train" and MATERIALIZED in manifest:
                continue  # the source's figures are those of the run; its tokens are in training order
            for fact in ("tokens", "documents", "text_bytes"):
                total = sum(shard[fact] for shard in whole["shards"])
                if total != whole[fact]:
                    wrong.append(f"{MANIFEST}: {name} ({split}) has {whole[fact]:,} {fact}, its shards have {total:,}")
    asked = sum(entry["budget_tokens"] for entry in manifest["sources"].values())
    if asked != manifest["mixture"]["tokens"]:
        wrong.append(
            f"{MANIFEST}: the budgets add up to {asked:,} tokens, the mixture says {manifest['mixture']['tokens']:,}"
        )
    return wrong


def _shard(shard: ShardEntry, split: str, checked: Checked) -> Shard:
    known = {name: shard[name] for name in Shard.__struct_fields__ if name in shard}
    return Shard(
        **known,
        split=split,
        bytes_per_token=_ratio(shard["text_bytes"], shard["tokens"]),
        lengths=checked.lengths.to_json(),
        eos_inside=checked.eos_inside,
        problems=len(checked.problems),
    )


def _source(manifest: Manifest, name: str, found: _Found) -> SourceOfRun:
    entry = manifest["sources"][name]
    held_out = entry["held_out"]
    return SourceOfRun(
        documents=entry["documents"],
        tokens=entry["tokens"],
        text_bytes=entry["text_bytes"],
        bytes_per_token=_ratio(entry["text_bytes"], entry["tokens"]),
        lengths=found.lengths["train"].to_json(),
        budget_tokens=entry["budget_tokens"],
        share=round(entry["budget_tokens"] / max(manifest["mixture"]["tokens"], 1), 6),
        repeats=round(entry["budget_tokens"] / max(entry["tokens"], 1), 4),
        max_repeats=entry["max_repeats"],
        eos_inside=found.eos_inside,
        held_out=Sizes(
            documents=held_out["documents"],
            tokens=held_out["tokens"],
            text_bytes=held_out["text_bytes"],
            lengths=found.lengths["held_out"].to_json(),
        ),
        shards=found.shards,
    )


def _ratio(size: int, tokens: int) -> float:
    return round(size / max(tokens, 1), 3)


# ---- decoded documents


def _samples(run: str, manifest: Manifest, documents: int) -> dict[str, list[Sample]]:
    tokenizer = run_tokenizer(run, manifest)
    dtype = np.dtype(manifest["dtype"])
    return {
        name: list(islice(_decoded(run, manifest, name, tokenizer, dtype), documents))
        for name in manifest["mixture"]["sources"]
    }


def _decoded(run: str, manifest: Manifest, source: str, tokenizer: Tokenizer, dtype: np.dtype) -> Iterator[Sample]:
    """A source's training documents from the first one on, decoded; of a very long one, the beginning."""
    for shard in shards_of(manifest, source, "train"):
        try:
            yield from _decoded_shard(run, shard, tokenizer, dtype)
        except (ShardError, storage.StorageError):  # its check reports what is wrong with it
            return


def _decoded_shard(run: str, shard: ShardEntry, tokenizer: Tokenizer, dtype: np.dtype) -> Iterator[Sample]:
    index = storage.join(run, shard["index"])
    with open_shard(run, shard, dtype, random=True) as stream:
        for rows in read_index_batches(lambda: storage.open_stream(index), shard["index"]):
            for position in range(rows.num_rows):
                row = rows.slice(position, 1).to_pylist()[0]
                stream.seek(row["start"] * dtype.itemsize)
                count = row["end"] - row["start"]
                shown = min(max(count, 0), SHOWN_TOKENS)
                data = stream.read(shown * dtype.itemsize)
                if count < 0 or len(data) != shown * dtype.itemsize:
                    raise ShardError(f"{shard['path']}: holds no tokens {row['start']:,} to {row['end']:,}")
                text = tokenizer.decode(np.frombuffer(data, dtype))
                yield Sample(row["id"], row["src"], row["loc"], count, text, count > SHOWN_TOKENS)


# ---- what is printed


def show_inspect(found: Inspected, console: Console, shards: bool = False) -> None:
    """Print what `inspect` found; `shards` lists them however many there are."""
    table = plain_table(
        f"{found.run}: {found.name} ({found.profile or 'no profile'})",
        *("source<", "documents", "tokens", "bytes/token", *LENGTHS, "mean", "budget", "share", "repeats", "held out", "shards"),
    )
    for name, s in found.sources.items():
        table.add_row(
            name,
            f"{s.documents:,}",
            show_count(s.tokens),
            f"{s.bytes_per_token:.2f}",
            *_lengths(s.lengths),
            show_count(s.budget_tokens),
            f"{s.share:.2%}",
            f"{s.repeats:.2f}",
            show_count(s.held_out.tokens),
            f"{len(s.shards):,}",
        )
    console.print(table)
    console.print("min to mean: tokens of a training document, its end token included; bytes/token likewise\n")
    if shards or sum(len(s.shards) for s in found.sources.values()) <= FEW_SHARDS:
        _show_shards(found, console)
    tokenizer = found.tokenizer
    console.print(
        f"tokenizer {tokenizer['path']}: {tokenizer['vocab_size']:,} entries, end {tokenizer['eos_id']}, {found.dtype}; "
        f"mixture of {show_count(found.mixture_tokens)} tokens; fingerprint {found.fingerprint[:16]}"
    )
    if ordered := found.ordered:
        count, tokens = (sum(shard[fact] for shard in ordered["shards"]) for fact in ("instances", "tokens"))
        console.print(
            f"in training order: {count:,} instances of {ordered['plan']['sequence_length']:,} tokens, {show_count(tokens)} in "
            f"all, of the corpus {ordered['of'][:16]}; there is no document index"
        )
    for name, samples in found.samples.items():
        for sample in samples:
            place = f"{sample.file}, record {sample.record}"
            console.rule(Text(f"{name}: {sample.id} ({sample.tokens:,} tokens; {place})"), align="left")
            console.print(Text(sample.text), highlight=False, soft_wrap=True)
            if sample.cut:
                console.print("... (the beginning of a long document)")
    for note in found.notes:
        line(console, f"note: {note}")
    for problem in found.problems:
        line(console, f"problem: {problem}", "bold")
    if not found.problems:
        more = ", checksums, indexes, document ends and token ids" if found.tokens_read else " and indexes"
        console.print(f"no problems: sizes{more} are as they should be")


def _show_shards(found: Inspected, console: Console) -> None:
    columns = ("shard<", "documents", "tokens", "bytes/token", *LENGTHS, "mean", "end inside", "problems")
    table = plain_table("shards", *columns)
    for s in found.sources.values():
        for shard in s.shards:
            table.add_row(
                shard.path,
                f"{shard.documents:,}",
                show_count(shard.tokens),
                f"{shard.bytes_per_token:.2f}",
                *_lengths(shard.lengths),
                f"{shard.eos_inside:,}" if found.tokens_read else "",
                f"{shard.problems}",
            )
    console.print(table)


def _lengths(lengths: dict[str, float | int] | None) -> list[str]:
    if lengths is None:
        return [""] * (len(LENGTHS) + 1)
    return [*(f"{lengths[name]:,}" for name in LENGTHS), f"{lengths['mean']:,.0f}"]
