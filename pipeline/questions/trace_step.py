"""What training reads at a step: the instances of its batch, where each lies, and the documents in them.

The order is the trainer's own (`trainer.loader.order`, NumPy alone). This is the one module here that imports the trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console, JustifyMethod
from rich.text import Text

from pipeline import storage
from pipeline.manifest import read_corpus, shards_of
from pipeline.questions.trace import documents_at, has_records, why_command
from pipeline.summary import plain_table
from stages.errors import UserError
from stages.tokens.shard_format import Manifest

if TYPE_CHECKING:
    from trainer.loader.data import Packing

TOP = 8
SHOWN_DOCUMENTS = 3  # of an instance, in the table


@dataclass(frozen=True)
class Batches:
    """How training cuts its data: tokens of an instance, instances of a batch, the order's seed (None: the mixture's)."""

    sequence_length: int
    batch: int
    seed: int | None = None
    packing: Packing = "concatenate"


def from_config(path: str) -> Batches:
    """As a trainer configuration says. Raises UserError."""
    from trainer.config import load
    from trainer.errors import TrainerError

    try:
        config = load(Path(path))
    except TrainerError as error:
        raise UserError(str(error)) from None
    return Batches(config.data.sequence_length, config.batch_instances, config.data.seed, config.data.packing)


@dataclass(frozen=True)
class At:
    """The instance at a position of the order: pieces are (path of the shard, first token, tokens)."""

    position: int
    source: str
    instance: int
    epoch: int
    pieces: list[tuple[str, int, int]]


def trace_step(run: str, step: int, batches: Batches, top: int = TOP) -> dict[str, Any]:
    """The instances of the batch of training step `step` (the first is 1, as the trainer counts).

    `sources` counts the whole batch; the first `top` instances are given with their documents (0: all).
    Raises UserError for a step behind the end of training, or data that cannot be read so.
    """
    if step < 1:
        raise UserError(f"--step {step}: steps are counted from 1")
    if batches.sequence_length < 2 or batches.batch < 1:
        raise UserError("an instance has 2 tokens at least, and a batch 1 instance")
    manifest = read_corpus(run)
    first = (step - 1) * batches.batch
    found = _places(run, manifest, batches, first)
    counts = dict.fromkeys(manifest["mixture"]["sources"], 0)
    for at in found:
        counts[at.source] += 1
    told = found[:top] if top else found
    return {
        "run": run,
        "step": step,
        "batch": batches.batch,
        "sequence_length": batches.sequence_length,
        "packing": batches.packing,
        "seed": manifest["mixture"]["seed"] if batches.seed is None else batches.seed,
        "first_position": first,
        "sources": counts,
        "instances": _with_documents(run, manifest, told),
    }


def _places(run: str, manifest: Manifest, batches: Batches, first: int) -> list[At]:
    if batches.packing == "concatenate":
        return _concatenated(manifest, batches, first)
    if not storage.is_local(run):
        raise UserError(f"packing {batches.packing} is worked out from local files: trace a local copy of {run}")
    from trainer.errors import TrainerError
    from trainer.loader.data import open_data
    from trainer.loader.places import places

    folder = storage.local_path(run)
    try:
        data = open_data(folder, batches.sequence_length, batches.seed, packing=batches.packing)
        _check_end(first, batches.batch, len(data.train))
        found = places(data, first, batches.batch)
    except TrainerError as error:
        raise UserError(str(error)) from None
    return [
        At(
            place.position,
            data.sources[place.source],
            place.instance,
            place.epoch,
            [(piece.path.relative_to(folder).as_posix(), piece.first_token, piece.tokens) for piece in place.pieces],
        )
        for place in found
    ]


def _concatenated(manifest: Manifest, batches: Batches, first: int) -> list[At]:
    """Instances cut every `sequence_length` tokens lie where the manifest's counts say: no file is opened."""
    from trainer.loader.order import Order

    length, names = batches.sequence_length, list(manifest["mixture"]["sources"])
    ends = {
        name: np.cumsum([shard["tokens"] // length for shard in shards_of(manifest, name, "train")], dtype=np.int64)
        for name in names
    }
    available = [int(ends[name][-1]) if len(ends[name]) else 0 for name in names]
    entries = [manifest["sources"][name] for name in names]
    for name, entry, there in zip(names, entries, available, strict=True):
        if entry["budget_tokens"] and not there:  # as the trainer refuses it
            raise UserError(
                f"source {name}: none of its shards ({entry['tokens']:,} tokens in {len(entry['shards']):,}) holds one instance "
                f"of {length:,} tokens; make the sequence shorter, or leave the source out"
            )
    asked = [
        entry["budget_tokens"] * there // entry["tokens"] if entry["tokens"] else 0
        for entry, there in zip(entries, available, strict=True)
    ]
    seed = manifest["mixture"]["seed"] if batches.seed is None else batches.seed
    order = Order(available, asked, seed, manifest["mixture"]["reshuffle_last_tokens"] // length)
    _check_end(first, batches.batch, order.total)
    found = order.instances(np.arange(first, first + batches.batch))
    told = []
    for row in range(batches.batch):
        name, instance = names[int(found.source[row])], int(found.instance[row])
        number = int(np.searchsorted(ends[name], instance, side="right"))
        before = int(ends[name][number - 1]) if number else 0
        path = shards_of(manifest, name, "train")[number]["path"]
        told.append(
            At(first + row, name, instance, int(found.epoch[row]), [(path, (instance - before) * length, length)])
        )
    return told


def _check_end(first: int, count: int, total: int) -> None:
    if first + count > total:
        raise UserError(
            f"training ends with step {total // count:,}: there are {total:,} instances in all, {count:,} a step"
        )


def _with_documents(run: str, manifest: Manifest, told: list[At]) -> list[dict[str, Any]]:
    """The instances with the documents in each of their pieces; an index is read once for all that lies in its shard."""
    known = has_records(run)
    wanted: dict[str, list[tuple[int, int]]] = {}
    for at in told:
        for path, start, count in at.pieces:
            wanted.setdefault(path, []).append((start, start + count))
    entries = {shard["path"]: shard for at in told for shard in shards_of(manifest, at.source, "train")}
    documents = {}
    for path, ranges in wanted.items():
        for piece, found in zip(ranges, documents_at(run, entries[path], ranges), strict=True):
            documents[path, *piece] = found
    return [
        {
            "position": at.position,
            "source": at.source,
            "instance": at.instance,
            "epoch": at.epoch,
            "pieces": [
                {
                    "shard": path,
                    "offset": start,
                    "tokens": count,
                    "documents": [
                        {
                            "id": document.id,
                            "file": document.file,
                            "record": document.record,
                            "first_token": max(start, document.start),
                            "end_token": min(start + count, document.end),
                            "document_tokens": document.end - document.start,
                            "why": why_command(run, document) if known else None,
                        }
                        for document in documents[path, start, start + count]
                    ],
                }
                for path, start, count in at.pieces
            ],
        }
        for at in told
    ]


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
