"""Questions about a run's folder: how far it is (`status`), what it holds and whether that is whole (`inspect`)."""

from __future__ import annotations

from typing import Any

import numpy as np
from rich.console import Console

from pipeline import storage
from pipeline.engine import MANIFEST
from pipeline.ledger import Ledger
from pipeline.summary import plain_table
from stages.errors import UserError
from stages.tokens.shard_format import Manifest, ShardError, parse_manifest, read_index
from stages.tokens.tokenizer import load_tokenizer
from stages.units import show_bytes, show_count, show_seconds


def status(run: str) -> dict[str, Any]:
    """How far a run is: for each phase the tasks done, their documents, time and memory; and whether it is whole."""
    if not storage.exists(run) and not storage.list_files(run):
        raise UserError(f"{run}: there is no run here; start one with: python -m pipeline run RECIPE --out {run}")
    ledger = Ledger(run)
    phases: dict[str, dict[str, Any]] = {}
    for entry in ledger.entries.values():
        name = "/".join(entry["name"].split("/")[:2])
        phase = phases.setdefault(
            name, {"tasks": 0, "documents_in": 0, "documents_out": 0, "cpu_seconds": 0.0, "peak_memory": 0}
        )
        phase["tasks"] += 1
        phase["cpu_seconds"] += entry["cpu_seconds"]
        phase["peak_memory"] = max(phase["peak_memory"], entry["peak_memory"])
        if books := entry["report"].get("books"):
            phase["documents_in"] += books[0]["in"][0]
            phase["documents_out"] += books[-1]["out"][0]
    return {
        "run": run,
        "finished": MANIFEST in ledger.sizes,
        "holder": storage.lock_holder(run),
        "tasks": len(ledger.entries),
        "bytes": sum(ledger.sizes.values()),
        "phases": dict(sorted(phases.items())),
    }


def show_status(found: dict[str, Any], console: Console) -> None:
    """Print what `status` found."""
    table = plain_table(found["run"])
    for heading, justify in (
        ("work", "left"),
        ("tasks done", "right"),
        ("documents in", "right"),
        ("out", "right"),
        ("core time", "right"),
        ("memory", "right"),
    ):
        table.add_column(heading, justify=justify)
    for name, p in found["phases"].items():
        table.add_row(
            name,
            f"{p['tasks']:,}",
            f"{p['documents_in']:,}" if p["documents_in"] else "",
            f"{p['documents_out']:,}" if p["documents_in"] else "",
            show_seconds(p["cpu_seconds"]),
            show_bytes(p["peak_memory"]),
        )
    console.print(table)
    state = "finished" if found["finished"] else "not finished: the run command goes on from here"
    if found["holder"]:
        state = f"being written by {found['holder']}"
    console.print(f"{state}; {show_bytes(found['bytes'])} in the folder")


def read_manifest(run: str) -> Manifest:
    """The manifest of a finished run. Raises UserError where there is none, or it is damaged."""
    uri = storage.join(run, MANIFEST)
    if not storage.exists(uri):
        raise UserError(
            f"{run} holds no finished run (no {MANIFEST}); python -m pipeline status {run} tells how far it is"
        )
    try:
        return parse_manifest(storage.read_bytes(uri), uri)
    except ShardError as error:
        raise UserError(str(error)) from None


def inspect(run: str, documents: int = 0) -> dict[str, Any]:
    """What a finished run holds, source by source and shard by shard, with what is wrong with it (`problems`).

    Every shard's size is compared with the manifest, and every document's end token with its index; with
    `documents`, the first so many of each source are decoded.
    """
    manifest = read_manifest(run)
    dtype = np.dtype(manifest["dtype"])
    problems: list[str] = []
    sources: dict[str, Any] = {}
    eos = manifest["tokenizer"]["eos_id"]
    samples: dict[str, list[dict[str, Any]]] = {}
    for name in manifest["mixture"]["sources"]:
        entry = manifest["sources"][name]
        lengths: list[np.ndarray] = []
        for split in (entry, entry["held_out"]):
            for shard in split["shards"]:
                uri = storage.join(run, shard["path"])
                size = storage.stat(uri).size if storage.exists(uri) else None
                if size != shard["tokens"] * dtype.itemsize:
                    problems.append(
                        f"{shard['path']}: {size} bytes, the manifest says {shard['tokens'] * dtype.itemsize}"
                    )
                    continue
                with (
                    storage.open_random(uri) as stream,
                    storage.open_stream(storage.join(run, shard["index"])) as index,
                ):
                    lengths.append(_check_shard(shard, stream, index, dtype, eos, problems))
        all_lengths = np.concatenate(lengths) if lengths else np.zeros(0, np.int64)
        total = entry["tokens"] + entry["held_out"]["tokens"]
        sources[name] = {
            "documents": entry["documents"],
            "tokens": entry["tokens"],
            "text_bytes": entry["text_bytes"],
            "bytes_per_token": round((entry["text_bytes"] + entry["held_out"]["text_bytes"]) / max(total, 1), 3),
            "tokens_per_document": [int(q) for q in np.percentile(all_lengths, [5, 50, 95])]
            if len(all_lengths)
            else [],
            "budget_tokens": entry["budget_tokens"],
            "share": round(entry["budget_tokens"] / max(manifest["mixture"]["tokens"], 1), 6),
            "repeats": round(entry["budget_tokens"] / max(entry["tokens"], 1), 4),
            "held_out": {k: entry["held_out"][k] for k in ("documents", "tokens", "text_bytes")},
            "shards": entry["shards"] + entry["held_out"]["shards"],
        }
        if documents and entry["shards"]:
            samples[name] = _decode(run, manifest, entry["shards"][0], documents, dtype)
    digests = [shard["sha256"] for s in sources.values() for shard in s["shards"]]
    if len(set(digests)) < len(digests):
        problems.append("two shards have the same checksum")
    return {
        "run": run,
        "name": manifest["name"],
        "profile": manifest["profile"],
        "tokenizer": manifest["tokenizer"],
        "dtype": manifest["dtype"],
        "fingerprint": manifest["fingerprint"],
        "mixture_tokens": manifest["mixture"]["tokens"],
        "sources": sources,
        "samples": samples,
        "problems": problems,
    }


def _check_shard(
    shard: dict[str, Any], stream: Any, index: Any, dtype: np.dtype, eos: int, problems: list[str]
) -> np.ndarray:
    """Token counts of a shard's documents; what is wrong with their ends is added to `problems`."""
    try:
        rows = [(start, end) for start, end, *_ in read_index(index)]
    except ShardError as error:
        problems.append(f"{shard['index']}: {error}")
        return np.zeros(0, np.int64)
    bounds = np.array(rows, np.int64).reshape(-1, 2)
    if len(bounds) != shard["documents"] or (
        len(bounds) and (bounds[-1, 1] != shard["tokens"] or (bounds[1:, 0] != bounds[:-1, 1]).any())
    ):
        problems.append(f"{shard['index']}: its documents do not cover the shard's {shard['tokens']:,} tokens")
        return bounds[:, 1] - bounds[:, 0]
    missing, position = 0, 0
    while chunk := stream.read(16 << 20):
        tokens = np.frombuffer(chunk, dtype)
        ends = bounds[:, 1] - 1
        first, last = np.searchsorted(ends, [position, position + len(tokens)])
        missing += int((tokens[ends[first:last] - position] != eos).sum())
        position += len(tokens)
    if missing:
        problems.append(f"{shard['path']}: {missing:,} documents do not end in the end token {eos}")
    return bounds[:, 1] - bounds[:, 0]


def _decode(
    run: str, manifest: Manifest, shard: dict[str, Any], documents: int, dtype: np.dtype
) -> list[dict[str, Any]]:
    cache = storage.Cache(storage.cache_folder(), 1 << 30)
    tokenizer = load_tokenizer(storage.fetch(storage.join(run, manifest["tokenizer"]["path"]), cache))
    found = []
    with (
        storage.open_random(storage.join(run, shard["path"])) as stream,
        storage.open_stream(storage.join(run, shard["index"])) as index,
    ):
        for (start, end, name, src, loc), _ in zip(read_index(index), range(documents), strict=False):
            stream.seek(start * dtype.itemsize)
            tokens = np.frombuffer(stream.read((end - start) * dtype.itemsize), dtype)
            found.append(
                {"id": name, "file": src, "record": loc, "tokens": end - start, "text": tokenizer.decode(tokens)}
            )
    return found


def show_inspect(found: dict[str, Any], console: Console) -> None:
    """Print what `inspect` found."""
    table = plain_table(f"{found['run']}: {found['name']} ({found['profile'] or 'no profile'})")
    table.add_column("source")
    for heading in (
        "documents",
        "tokens",
        "bytes/token",
        "tokens/document 5% 50% 95%",
        "budget",
        "share",
        "repeats",
        "held out",
        "shards",
    ):
        table.add_column(heading, justify="right")
    for name, s in found["sources"].items():
        table.add_row(
            name,
            f"{s['documents']:,}",
            show_count(s["tokens"]),
            f"{s['bytes_per_token']:.2f}",
            " ".join(f"{q:,}" for q in s["tokens_per_document"]),
            show_count(s["budget_tokens"]),
            f"{s['share']:.2%}",
            f"{s['repeats']:.2f}",
            show_count(s["held_out"]["tokens"]),
            f"{len(s['shards'])}",
        )
    console.print(table)
    tokenizer = found["tokenizer"]
    console.print(
        f"tokenizer {tokenizer['path']}: {tokenizer['vocab_size']:,} entries, end {tokenizer['eos_id']}, {found['dtype']}; "
        f"mixture of {show_count(found['mixture_tokens'])} tokens; fingerprint {found['fingerprint'][:16]}"
    )
    for name, samples in found["samples"].items():
        for sample in samples:
            console.rule(
                f"{name}: {sample['id']} ({sample['tokens']:,} tokens; {sample['file']}, record {sample['record']})",
                align="left",
            )
            console.print(sample["text"], markup=False, highlight=False)
    for problem in found["problems"]:
        console.print(f"problem: {problem}", style="bold", markup=False)
    if not found["problems"]:
        console.print("all shards are there, in the size and with the document ends that the manifest and indexes name")
