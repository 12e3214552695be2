"""How `inspect` prints what it found: a row a source, a row a shard where there are few, documents, and what is wrong."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.text import Text

from pipeline.summary import plain_table
from stages.units import show_count

FEW_SHARDS = 32  # so many are listed without being asked for
LENGTHS = ("min", "median", "p90", "p99", "max")


def show_inspect(found: dict[str, Any], console: Console, shards: bool = False) -> None:
    """Print what `inspect` found; `shards` lists them however many there are."""
    table = plain_table(f"{found['run']}: {found['name']} ({found['profile'] or 'no profile'})")
    table.add_column("source", no_wrap=True)
    for heading in (
        "documents",
        "tokens",
        "bytes/token",
        *LENGTHS,
        "mean",
        "budget",
        "share",
        "repeats",
        "held out",
        "shards",
    ):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, s in found["sources"].items():
        table.add_row(
            name,
            f"{s['documents']:,}",
            show_count(s["tokens"]),
            f"{s['bytes_per_token']:.2f}",
            *_lengths(s["lengths"]),
            show_count(s["budget_tokens"]),
            f"{s['share']:.2%}",
            f"{s['repeats']:.2f}",
            show_count(s["held_out"]["tokens"]),
            f"{len(s['shards']):,}",
        )
    console.print(table)
    console.print("min to mean: tokens of a training document, its end token included; bytes/token likewise\n")
    if shards or sum(len(s["shards"]) for s in found["sources"].values()) <= FEW_SHARDS:
        _show_shards(found, console)
    tokenizer = found["tokenizer"]
    console.print(
        f"tokenizer {tokenizer['path']}: {tokenizer['vocab_size']:,} entries, end {tokenizer['eos_id']}, {found['dtype']}; "
        f"mixture of {show_count(found['mixture_tokens'])} tokens; fingerprint {found['fingerprint'][:16]}"
    )
    if ordered := found["ordered"]:
        count, tokens = (sum(shard[fact] for shard in ordered["shards"]) for fact in ("instances", "tokens"))
        console.print(
            f"in training order: {count:,} instances of {ordered['plan']['sequence_length']:,} tokens, {show_count(tokens)} in "
            f"all, of the corpus {ordered['of'][:16]}; there is no document index"
        )
    for name, samples in found["samples"].items():
        for sample in samples:
            place = f"{sample['file']}, record {sample['record']}"
            console.rule(Text(f"{name}: {sample['id']} ({sample['tokens']:,} tokens; {place})"), align="left")
            console.print(Text(sample["text"]), highlight=False, soft_wrap=True)
            if sample["cut"]:
                console.print("... (the beginning of a long document)")
    for note in found["notes"]:
        console.print(Text(f"note: {note}"), soft_wrap=True)
    for problem in found["problems"]:
        console.print(Text(f"problem: {problem}", "bold"), soft_wrap=True)
    if not found["problems"]:
        what = (
            "sizes and indexes"
            if not found["tokens_read"]
            else "sizes, checksums, indexes, document ends and token ids"
        )
        console.print(f"no problems: {what} are as they should be")


def _show_shards(found: dict[str, Any], console: Console) -> None:
    table = plain_table("shards")
    table.add_column("shard", no_wrap=True)
    for heading in ("documents", "tokens", "bytes/token", *LENGTHS, "mean", "end inside", "problems"):
        table.add_column(heading, justify="right", no_wrap=True)
    for s in found["sources"].values():
        for shard in s["shards"]:
            table.add_row(
                shard["path"],
                f"{shard['documents']:,}",
                show_count(shard["tokens"]),
                f"{shard['bytes_per_token']:.2f}",
                *_lengths(shard["lengths"]),
                f"{shard['eos_inside']:,}" if found["tokens_read"] else "",
                f"{shard['problems']}",
            )
    console.print(table)


def _lengths(lengths: dict[str, Any] | None) -> list[str]:
    if lengths is None:
        return [""] * (len(LENGTHS) + 1)
    return [*(f"{lengths[name]:,}" for name in LENGTHS), f"{lengths['mean']:,.0f}"]
