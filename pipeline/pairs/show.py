"""What `pairs` made, as pairs.json in its folder says it, and what is printed of it."""

from __future__ import annotations

import shlex
from pathlib import Path

from msgspec import UNSET, Struct, UnsetType
from rich.console import Console

from pipeline.pairs.options import PairSettings
from pipeline.program import trainer_program
from pipeline.tables import plain_table
from stages.tokens.manifest_shape import TokenizerEntry
from stages.units import show_bytes, show_count

TRAININGS = "runs/train"  # where a training is written to, unless it is told otherwise


class PairSplit(Struct, frozen=True, kw_only=True):
    """What is trained on, or held out. documents: sequences; answer_tokens: of its tokens those that are learned."""

    documents: int
    tokens: int
    text_bytes: int
    answer_tokens: int
    shards: int


class PairsMade(Struct, frozen=True, kw_only=True):
    """A folder of pairs. key: of all that decides its bytes. dropped, changed: counts by rule; first_dropped: a record.

    out, made: where it is as the user named it, and whether it was made now; they are not in the folder.
    """

    finished: bool = True
    key: str
    kind: str
    files: list[str]
    settings: PairSettings
    chat_template: str
    read: int
    dropped: dict[str, int]
    first_dropped: dict[str, str]
    changed: dict[str, int]
    splits: dict[str, PairSplit]
    tokenizer: TokenizerEntry
    fingerprint: str
    out: str | UnsetType = UNSET
    made: bool | UnsetType = UNSET


def show_pairs(found: PairsMade, console: Console) -> None:
    """Print what `make_pairs` did."""
    state = "" if found.made else " (made before; nothing was done)"
    console.print(f"{found.out}: {found.kind} of {len(found.files):,} files{state}", style="bold", markup=False)
    table = plain_table("", "split<", "sequences", "tokens", "of answers", "text", "shards")
    for name, split in found.splits.items():
        sizes = [show_count(split.tokens), show_count(split.answer_tokens), show_bytes(split.text_bytes)]
        table.add_row(name, f"{split.documents:,}", *sizes, f"{split.shards:,}")
    console.print(table)
    console.print(f"{found.read:,} records read, {sum(found.dropped.values()):,} dropped")
    for rule, count in found.dropped.items():
        console.print(f"  {rule}: {count:,}; the first: {found.first_dropped[rule]}", markup=False)
    for rule, count in found.changed.items():
        console.print(f"  {rule}: {count:,} pairs", markup=False)
    config = {"preferences": "adapt/dpo_tiny", "labels": "adapt/kto_tiny"}.get(found.kind, "adapt/sft_tiny")
    training = _training_with(Path(str(found.out)) / "tokenizer" / "tokenizer.json")
    adapt = f"{trainer_program()} adapt {config} --from {training or 'FOLDER'} --data {shlex.quote(str(found.out))}"
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
