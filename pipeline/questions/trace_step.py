"""What training reads at a step: the instances of its batch, where each lies, and the documents in them.

The order is the trainer's own (`trainer.loader.order`, NumPy alone). This is the one module here that imports the trainer.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from rich.console import Console
from rich.text import Text

from pipeline import storage
from pipeline.questions.trace import documents_at, has_records, why_command
from pipeline.run_folder.manifest import read_corpus, shards_of
from pipeline.tables import plain_table
from stages.errors import UserError
from stages.tokens.manifest_shape import Manifest

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


class DocumentRead(msgspec.Struct, frozen=True, kw_only=True):
    """A document in a piece: which of the shard's tokens are of both, and how many the document has."""

    id: str
    file: str
    record: int
    first_token: int
    end_token: int
    document_tokens: int
    why: str | None  # the command that tells its way

    def named(self) -> str:
        name = f"{self.file.rsplit('/', 1)[-1]}:{self.record}" if self.record else self.id
        return f"{name} ({self.end_token - self.first_token:,})"


class PieceRead(msgspec.Struct, frozen=True):
    """So many tokens of a shard, from `offset` on."""

    shard: str
    offset: int
    tokens: int
    documents: list[DocumentRead]


class InstanceRead(msgspec.Struct, frozen=True):
    """One sequence of the batch."""

    position: int
    source: str
    instance: int
    epoch: int
    pieces: list[PieceRead]


class StepRead(msgspec.Struct, frozen=True, kw_only=True):
    """What training reads at a step. sources: instances of the whole batch; instances: the first of them."""

    run: str
    step: int
    batch: int
    sequence_length: int
    packing: str
    seed: int
    first_position: int
    sources: dict[str, int]
    instances: list[InstanceRead]


def trace_step(run: str, step: int, batches: Batches, top: int = TOP) -> StepRead:
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
    return StepRead(
        run=run,
        step=step,
        batch=batches.batch,
        sequence_length=batches.sequence_length,
        packing=batches.packing,
        seed=manifest["mixture"]["seed"] if batches.seed is None else batches.seed,
        first_position=first,
        sources=counts,
        instances=_with_documents(run, manifest, told),
    )


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
    from trainer.loader.sources import Holding, asked_of

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
    asked = asked_of(entries, [Holding(there, there * length) for there in available])
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


def _with_documents(run: str, manifest: Manifest, told: list[At]) -> list[InstanceRead]:
    """The instances with the documents in each of their pieces; an index is read once for all that lies in its shard."""
    known = has_records(run)
    wanted: dict[str, list[tuple[int, int]]] = {}
    for at in told:
        for path, start, count in at.pieces:
            wanted.setdefault(path, []).append((start, start + count))
    entries = {shard["path"]: shard for at in told for shard in shards_of(manifest, at.source, "train")}
    documents: dict[tuple[str, int], list[DocumentRead]] = {}
    for path, ranges in wanted.items():
        for (start, end), found in zip(ranges, documents_at(run, entries[path], ranges), strict=True):
            documents[path, start] = [
                DocumentRead(
                    id=document.id,
                    file=document.file,
                    record=document.record,
                    first_token=max(start, document.start),
                    end_token=min(end, document.end),
                    document_tokens=document.end - document.start,
                    why=why_command(run, document) if known else None,
                )
                for document in found
            ]
    return [
        InstanceRead(
            at.position,
            at.source,
            at.instance,
            at.epoch,
            [PieceRead(path, start, count, documents[path, start]) for path, start, count in at.pieces],
        )
        for at in told
    ]


def show_step(found: StepRead, console: Console) -> None:
    """Print what `trace_step` returned."""
    last = found.first_position + found.batch - 1
    table = plain_table(
        f"step {found.step:,}: instances {found.first_position:,} to {last:,} of {found.sequence_length:,} tokens",
        *("position", "source<", "epoch", "shard<", "tokens<", "documents", "the first of them (tokens here)<"),
    )
    for instance in found.instances:
        head = [f"{instance.position:,}", instance.source, f"{instance.epoch}"]
        for piece in instance.pieces:
            names = ", ".join(document.named() for document in piece.documents[:SHOWN_DOCUMENTS])
            more = ", ..." if len(piece.documents) > SHOWN_DOCUMENTS else ""
            span = f"{piece.offset:,} to {piece.offset + piece.tokens:,}"
            table.add_row(*map(Text, (*head, piece.shard, span, f"{len(piece.documents):,}", names + more)))
            head = ["", "", ""]
    console.print(table)
    told = len(found.instances)
    if told < found.batch:
        console.print(f"the first {told} of {found.batch:,} instances; --top 0 shows all")
    counts = ", ".join(f"{name} {count:,}" for name, count in found.sources.items() if count)
    console.print(f"the batch: {counts}; packing {found.packing}, seed {found.seed}")
