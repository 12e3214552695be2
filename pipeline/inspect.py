"""What a finished run holds, and whether that is whole: every shard held against its index and the manifest (`inspect`)."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.check_shard import Checked, Rules, check_shard
from pipeline.engine import MANIFEST
from pipeline.folder import EXPORT, IMPORT, MADE_BY, MIXTURE, PAIRS, RUN, read_mark
from pipeline.ledger import FOLDER
from pipeline.pairs.check import check_pairs
from stages.errors import UserError
from stages.tokens.index_table import read_index_batches
from stages.tokens.lengths import Lengths
from stages.tokens.shard_format import Manifest, ShardError, parse_manifest
from stages.tokens.tokenizer import Tokenizer, load_tokenizer

SPLITS = ("train", "held_out")
MATERIALIZED = "materialized"  # the manifest's key where the trainer wrote instances in training order
READERS = min(8, os.cpu_count() or 1)  # shards read at once
SHOWN_TOKENS = 1 << 16  # of one document that is decoded


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


def inspect(run: str, documents: int = 0, quick: bool = False) -> dict[str, Any]:
    """What a finished run holds, source by source and shard by shard, with what is wrong with it (`problems`).

    Checked are each shard's size and checksum, that its index covers it without gaps and counts what the manifest
    says, that documents end in the end token and have none inside, that all tokens lie within the vocabulary, and that
    no two shards are the same. `quick` leaves the tokens unread: sizes and indexes are checked then. With `documents`, the
    first so many of each source are decoded. Memory is a few MiB for each shard read at a time. Raises UserError.
    """
    if documents < 0:
        raise UserError(f"--show {documents}: a number of documents, 0 for none")
    manifest = read_manifest(run)
    rules = _rules(run, manifest)
    entries = [
        (name, split, shard)
        for name in manifest["mixture"]["sources"]
        for split in SPLITS
        for shard in shards_of(manifest, name, split)
    ]
    found: dict[str, dict[str, Any]] = {
        name: {"lengths": {split: Lengths() for split in SPLITS}, "shards": [], "eos_inside": 0}
        for name in manifest["mixture"]["sources"]
    }
    ordered = manifest.get(MATERIALIZED)
    entries += [(None, "ordered", shard) for shard in (ordered or {}).get("shards", ())]
    problems, notes, first = _of_manifest(manifest) + _of_tokenizer(run, manifest), [], {}
    with ThreadPoolExecutor(READERS) as pool:
        for (name, split, shard), checked in _checked(
            pool, entries, lambda name, shard: check_shard(run, shard, rules[name], quick)
        ):
            if "mask" in shard:
                checked.problems += check_pairs(run, shard, quick)
            problems += checked.problems
            notes += checked.notes
            digest = checked.sha256 or shard["sha256"]
            if shard["tokens"] and digest in first:
                problems.append(f"{shard['path']}: the same tokens as {first[digest]} (sha256 {digest[:12]})")
            first.setdefault(digest, shard["path"])
            if name is None:
                continue
            source = found[name]
            source["lengths"][split].merge(checked.lengths)
            source["eos_inside"] += checked.eos_inside
            source["shards"].append(_shard(shard, split, checked))
    return {
        "run": run,
        "name": manifest["name"],
        "profile": manifest["profile"],
        "tokenizer": manifest["tokenizer"],
        "dtype": manifest["dtype"],
        "fingerprint": manifest["fingerprint"],
        "mixture_tokens": manifest["mixture"]["tokens"],
        "tokens_read": not quick,
        "ordered": ordered,
        "sources": {name: _source(manifest, name, facts) for name, facts in found.items()},
        "samples": _samples(run, manifest, documents) if documents else {},
        "notes": notes,
        "problems": problems,
    }


def _checked(
    pool: ThreadPoolExecutor, entries: list[tuple], check: Callable[[str | None, dict[str, Any]], Checked]
) -> Iterator[tuple[tuple, Checked]]:
    """The entries with what was found of each, in order; a few are checked ahead, so that few results wait in memory."""
    waiting: deque[tuple[tuple, Future[Checked]]] = deque()
    for entry in entries:
        waiting.append((entry, pool.submit(check, entry[0], entry[2])))
        if len(waiting) > READERS:
            first, future = waiting.popleft()
            yield first, future.result()
    for entry, future in waiting:
        yield entry, future.result()


def shards_of(manifest: Manifest, source: str, split: str) -> list[dict[str, Any]]:
    """The manifest's entries of a source's shards, training or held out."""
    entry = manifest["sources"][source]
    return entry["shards"] if split == "train" else entry["held_out"]["shards"]


def token_rules(run: str, sources: Iterable[str]) -> dict[str, dict[str, bool]]:
    """Of each source whether its documents end in the end token (`ends`), and whether texts may hold it (`inside`).

    The recipe says so, or how the folder was made: an import takes tokens as they are, a mixture has each from its
    folder, pairs are as their chat template makes them.
    """
    usual = {"ends": True, "inside": False}
    if (mark := read_mark(run, MIXTURE)) is not None:
        known = mark.get("token_rules", {})
        return {name: known.get(name, usual) for name in sources}
    if (mark := read_mark(run, IMPORT)) is not None:
        usual = {"ends": mark["settings"]["append_eos"], "inside": True}
    elif read_mark(run, PAIRS) is not None:  # a chat template puts end tokens where it likes, and a cut one has none
        usual = {"ends": False, "inside": True}
    elif (mark := read_mark(run, RUN)) is not None:
        asked = mark["tokenizer"]["rules"]
        usual = {"ends": asked.get("append_eos", True), "inside": asked.get("special_tokens_in_text") == "match"}
    return dict.fromkeys(sources, usual)


def _rules(run: str, manifest: Manifest) -> dict[str | None, Rules]:
    """What the tokens of each source must be; None: those that stand in training order."""
    tokenizer = manifest["tokenizer"]
    plain = Rules(np.dtype(manifest["dtype"]), tokenizer["eos_id"], tokenizer["vocab_size"])
    asked = token_rules(run, manifest["mixture"]["sources"])
    return {None: plain} | {name: replace(plain, **rules) for name, rules in asked.items()}


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
                continue  # the source's figures are those of the run; its tokens stand in training order
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


def _shard(shard: dict[str, Any], split: str, checked: Checked) -> dict[str, Any]:
    return shard | {
        "split": split,
        "bytes_per_token": _ratio(shard["text_bytes"], shard["tokens"]),
        "lengths": checked.lengths.to_json(),
        "eos_inside": checked.eos_inside,
        "problems": len(checked.problems),
    }


def _source(manifest: Manifest, name: str, facts: dict[str, Any]) -> dict[str, Any]:
    entry = manifest["sources"][name]
    held = entry["held_out"]
    return {
        "documents": entry["documents"],
        "tokens": entry["tokens"],
        "text_bytes": entry["text_bytes"],
        "bytes_per_token": _ratio(entry["text_bytes"], entry["tokens"]),
        "lengths": facts["lengths"]["train"].to_json(),
        "budget_tokens": entry["budget_tokens"],
        "share": round(entry["budget_tokens"] / max(manifest["mixture"]["tokens"], 1), 6),
        "repeats": round(entry["budget_tokens"] / max(entry["tokens"], 1), 4),
        "max_repeats": entry["max_repeats"],
        "eos_inside": facts["eos_inside"],
        "held_out": {k: held[k] for k in ("documents", "tokens", "text_bytes")}
        | {"lengths": facts["lengths"]["held_out"].to_json()},
        "shards": facts["shards"],
    }


def _ratio(size: int, tokens: int) -> float:
    return round(size / max(tokens, 1), 3)


# ---- decoded documents


def run_tokenizer(run: str, manifest: Manifest) -> Tokenizer:
    """The tokenizer of a run, as the reference decodes with it."""
    cache = storage.Cache(storage.cache_folder(), 1 << 30)
    return load_tokenizer(storage.fetch(storage.join(run, manifest["tokenizer"]["path"]), cache), engine="tokenizers")


def _samples(run: str, manifest: Manifest, documents: int) -> dict[str, list[dict[str, Any]]]:
    tokenizer = run_tokenizer(run, manifest)
    dtype = np.dtype(manifest["dtype"])
    return {
        name: list(islice(_decoded(run, manifest, name, tokenizer, dtype), documents))
        for name in manifest["mixture"]["sources"]
    }


def _decoded(
    run: str, manifest: Manifest, source: str, tokenizer: Tokenizer, dtype: np.dtype
) -> Iterator[dict[str, Any]]:
    """A source's training documents from the first one on, decoded; of a very long one, the beginning."""
    for shard in shards_of(manifest, source, "train"):
        try:
            yield from _decoded_shard(run, shard, tokenizer, dtype)
        except (ShardError, storage.StorageError):  # its check has told what is wrong with it
            return


def _decoded_shard(run: str, shard: dict[str, Any], tokenizer: Tokenizer, dtype: np.dtype) -> Iterator[dict[str, Any]]:
    index = storage.join(run, shard["index"])
    with storage.open_random(storage.join(run, shard["path"])) as stream:
        for rows in read_index_batches(lambda: storage.open_stream(index), shard["index"]):
            for position in range(rows.num_rows):
                row = rows.slice(position, 1).to_pylist()[0]
                stream.seek(row["start"] * dtype.itemsize)
                count = row["end"] - row["start"]
                shown = min(max(count, 0), SHOWN_TOKENS)
                data = stream.read(shown * dtype.itemsize)
                if count < 0 or len(data) != shown * dtype.itemsize:
                    raise ShardError(f"{shard['path']}: holds no tokens {row['start']:,} to {row['end']:,}")
                yield {
                    "id": row["id"],
                    "file": row["src"],
                    "record": row["loc"],
                    "tokens": count,
                    "text": tokenizer.decode(np.frombuffer(data, dtype)),
                    "cut": count > SHOWN_TOKENS,
                }
