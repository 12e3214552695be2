"""How `trace` prints what it found: the token within its text, or the instances of a step."""

from __future__ import annotations

from typing import Any

from rich.console import Console, JustifyMethod
from rich.text import Text

from pipeline.summary import plain_table

SHOWN_DOCUMENTS = 3  # of an instance, in the table


def show_trace(found: dict[str, Any], console: Console) -> None:
    """Print what `trace` returned."""
    d = found["document"]
    held = ", held out from training" if found["split"] == "held_out" else ""
    _line(console, f"{found['shard']}, token {found['offset']:,}: {found['token']} ({found['source']}{held})", "bold")
    _line(
        console,
        f"document  {d['id']}: number {d['number']:,} of the shard, its tokens {d['first_token']:,} to {d['end_token']:,}; "
        f"this is token {d['position']:,} of {d['end_token'] - d['first_token']:,}",
    )
    _line(console, f"source    {found['file']}, record {found['record']}")
    if found["why"]:
        _line(console, f"its way   {found['why']}")
    console.print()
    cut_before = "" if found["window"][0] == d["first_token"] else "..."
    cut_after = "" if found["window"][1] == d["end_token"] else "..."
    text = Text(f"{cut_before}{found['before']}")
    text.append(f">>{found['text']}<<", "bold reverse")
    text.append(f"{found['after']}{cut_after}")
    console.print(text, soft_wrap=True)


def show_step(found: dict[str, Any], console: Console) -> None:
    """Print what `trace_step` returned."""
    last = found["first_position"] + found["batch"] - 1
    table = plain_table(
        f"step {found['step']:,}: instances {found['first_position']:,} to {last:,} of {found['sequence_length']:,} tokens"
    )
    columns: tuple[tuple[str, JustifyMethod], ...] = (
        ("position", "right"),
        ("source", "left"),
        ("epoch", "right"),
        ("shard", "left"),
        ("tokens", "left"),
        ("documents", "right"),
        ("the first of them (tokens here)", "left"),
    )
    for heading, justify in columns:
        table.add_column(heading, justify=justify, no_wrap=True)
    for instance in found["instances"]:
        head = [f"{instance['position']:,}", instance["source"], f"{instance['epoch']}"]
        for piece in instance["pieces"]:
            documents = piece["documents"]
            names = ", ".join(
                f"{_short(d)} ({d['end_token'] - d['first_token']:,})" for d in documents[:SHOWN_DOCUMENTS]
            )
            more = ", ..." if len(documents) > SHOWN_DOCUMENTS else ""
            span = f"{piece['offset']:,} to {piece['offset'] + piece['tokens']:,}"
            table.add_row(*(Text(cell) for cell in (*head, piece["shard"], span, f"{len(documents):,}", names + more)))
            head = ["", "", ""]
    console.print(table)
    told = len(found["instances"])
    if told < found["batch"]:
        console.print(f"the first {told} of {found['batch']:,} instances; --top 0 shows all")
    counts = ", ".join(f"{name} {count:,}" for name, count in found["sources"].items() if count)
    console.print(f"the batch: {counts}; packing {found['packing']}, seed {found['seed']}")


def _short(document: dict[str, Any]) -> str:
    return f"{document['file'].rsplit('/', 1)[-1]}:{document['record']}" if document["record"] else document["id"]


def _line(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style), soft_wrap=True)
