"""What `pairs` prints."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from pipeline.program import trainer_program
from pipeline.summary import plain_table
from stages.units import show_bytes, show_count

TRAININGS = "runs/train"  # where a training is written to, unless it is told otherwise


def show_pairs(found: dict[str, Any], console: Console) -> None:
    """Print what `make_pairs` did."""
    state = "" if found["made"] else " (made before; nothing was done)"
    console.print(
        f"{found['out']}: {found['kind']} of {len(found['files']):,} files{state}", style="bold", markup=False
    )
    table = plain_table("")
    table.add_column("split")
    for heading in ("sequences", "tokens", "of answers", "text", "shards"):
        table.add_column(heading, justify="right")
    for name, split in found["splits"].items():
        sizes = [show_count(split["tokens"]), show_count(split["answer_tokens"]), show_bytes(split["text_bytes"])]
        table.add_row(name, f"{split['documents']:,}", *sizes, f"{split['shards']:,}")
    console.print(table)
    dropped = sum(found["dropped"].values())
    console.print(f"{found['read']:,} records read, {dropped:,} dropped")
    for rule, count in found["dropped"].items():
        console.print(f"  {rule}: {count:,}; the first: {found['first_dropped'][rule]}", markup=False)
    for rule, count in found["changed"].items():
        console.print(f"  {rule}: {count:,} pairs", markup=False)
    config = {"preferences": "adapt/dpo_tiny", "labels": "adapt/kto_tiny"}.get(found["kind"], "adapt/sft_tiny")
    training = _training_with(Path(found["out"]) / "tokenizer" / "tokenizer.json")
    adapt = f"{trainer_program()} adapt {config} --from {training or 'FOLDER'} --data {shlex.quote(found['out'])}"
    if training:
        console.print(f"next: {adapt}", markup=False, soft_wrap=True)
    else:
        text = f"no training under {TRAININGS} has this tokenizer; train one on a run that has it, then: {adapt}"
        console.print(text, markup=False, soft_wrap=True)


def _training_with(tokenizer: Path) -> str | None:
    """The newest training below the current folder whose tokenizer is this one, as a command takes it; None: there is none."""
    wanted = tokenizer.read_bytes() if tokenizer.is_file() else None
    there = sorted(Path(TRAININGS).glob("*/checkpoints/*/tokenizer.json"), key=lambda path: path.stat().st_mtime)
    found = next((path for path in reversed(there) if path.read_bytes() == wanted), None)
    return None if found is None else shlex.quote(str(found.parents[2]))
