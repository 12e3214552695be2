"""The training order written out: shards whose instances already stand in it, for storage that hates random reads.

The O(1) order reads a few KiB at random places of the corpus. Where that is slow, `materialize` does it once: it writes
instance after instance, as training will see them, and training then reads from front to back. `open_data` opens the
folder like a run, and at every position gives the same instance; the fingerprint is the same too, so a training may
change from one to the other at any step.

    OUT/ordered/00000.npy         tokens only, without padding, in the form of all shards
    OUT/ordered/00000.pack        best_fit: which documents make up each instance (packing.py)
    OUT/tokens/.../held-out shards and OUT/tokenizer/, copied from the run
    OUT/manifest.json             the run's, with `materialized`: the order's facts and the new shards

A shard is made in memory, from reads sorted by place, so `shard_bytes` bounds what is held, and each shard takes one
pass over the corpus in its own direction. Each is written atomically and recorded; after a stop the same call goes on.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stages.tokens.shard_format import (
    MANIFEST,
    Manifest,
    canonical_json,
    fingerprint,
    load_manifest,
    manifest_bytes,
    sha256_file,
    write_bytes,
    write_tokens,
)
from trainer.errors import TrainerError
from trainer.host import only_one
from trainer.loader.data import MATERIALIZED, Data, Packing, open_data
from trainer.loader.packing import PIECE, write_pack
from trainer.loader.sources import Pieces

SHARD_BYTES = 256 << 20
ROWS = 1024  # instances freed of padding at once


def materialize(
    run_dir: Path,
    out: Path,
    sequence_length: int,
    packing: Packing = "concatenate",
    seed: int | None = None,
    max_tokens: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    say: Callable[[str], Any] = print,
) -> int:
    """Write a run's instances to `out` in training order; returns how many. Called again after a stop, it goes on.

    Raises TrainerError where `out` holds other data or the run is damaged.
    """
    data = open_data(run_dir, sequence_length, seed, max_tokens, packing)
    manifest = load_manifest(run_dir)
    if MATERIALIZED in manifest:
        raise TrainerError(f"{run_dir}: is materialized already; name the run that it was made from")
    each = max(1, shard_bytes // (sequence_length * np.dtype(manifest["dtype"]).itemsize))
    total = len(data.train)
    firsts = range(0, total, each)
    identity = {"data": data.fingerprint, "instances": total, "instances_of_a_shard": each}
    with only_one(out):
        _claim(out, identity)
        if (out / MANIFEST).exists():
            say(f"{out}: already holds these {total:,} instances")
            return total
        _copy_rest(run_dir, out, manifest)
        shards = []
        for number, first in enumerate(firsts):
            shards.append(_shard(data, out, number, first, min(each, total - first)))
            say(f"shard {number + 1} of {len(firsts)}: {shards[-1]['tokens']:,} tokens")
        entries = {
            name: {**entry, "shards": []}  # the corpus itself is not here
            for name, entry in manifest["sources"].items()
        }
        facts = {"of": manifest["fingerprint"], "plan": data.plan._asdict(), "shards": shards}
        made = {**manifest, "sources": entries, MATERIALIZED: facts}
        if "whole" in made:
            made["whole"] = _held_out_files(manifest)
        made["fingerprint"] = fingerprint(made)
        write_bytes(out / MANIFEST, manifest_bytes(made))
    return total


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Note what the folder is for; raise TrainerError where it was begun for something else."""
    path, wanted = out / "ordered" / "identity.json", canonical_json(identity)
    if path.exists():
        if path.read_bytes() != wanted:
            raise TrainerError(
                f"{out}: holds, or was begun with, other data or another shard size; name another folder"
            )
    elif (out / MANIFEST).exists():
        raise TrainerError(f"{out}: holds a run; name another folder")
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, wanted)


def _copy_rest(run_dir: Path, out: Path, manifest: Manifest) -> None:
    """Held-out shards with their indexes, and the tokenizer where it is there."""
    paths = [manifest["tokenizer"]["path"]]
    for entry in manifest["sources"].values():
        paths += [shard[key] for shard in entry["held_out"]["shards"] for key in ("path", "index")]
    paths += [file["path"] for files in _held_out_files(manifest).values() for file in files]
    for path in paths:
        if not (run_dir / path).exists() or (out / path).exists():
            continue
        (out / path).parent.mkdir(parents=True, exist_ok=True)
        partial = (out / path).with_suffix(".partial")
        shutil.copyfile(run_dir / path, partial)
        partial.replace(out / path)


def _held_out_files(manifest: Manifest) -> dict[str, Any]:
    """The files that held-out shards are ranges of, by the name of their list."""
    entries = manifest["sources"].values()
    names = {shard["whole"] for entry in entries for shard in entry["held_out"]["shards"] if "whole" in shard}
    return {name: files for name, files in manifest.get("whole", {}).items() if name in names}


def _shard(data: Data, out: Path, number: int, first: int, count: int) -> dict[str, Any]:
    """Write one shard, unless it is recorded and there; returns its entry of the manifest."""
    path, record = out / "ordered" / f"{number:05d}.npy", out / "ordered" / f"{number:05d}.json"
    width = data.train.dtype.itemsize
    if record.exists():
        entry = json.loads(record.read_text())
        if path.exists() and path.stat().st_size == entry["tokens"] * width and sha256_file(path) == entry["sha256"]:
            return entry
    tokens, pieces = data.train.read_pieces(data.train.positions(first, count))
    written, digest = write_tokens(path, _without_padding(tokens, pieces), data.train.dtype)
    entry = {"path": f"ordered/{path.name}", "tokens": written, "instances": count, "sha256": digest}
    if pieces is not None:
        entry["pack"] = f"ordered/{number:05d}.pack"
        packed = np.empty(len(pieces.rows), PIECE)
        packed["start"], packed["length"] = np.cumsum(pieces.lengths) - pieces.lengths, pieces.lengths
        bounds = np.concatenate([[0], np.cumsum(np.bincount(pieces.rows, minlength=count))])
        write_pack(out / entry["pack"], [(packed, bounds)], digest, data.train.sequence_length)
    write_bytes(record, canonical_json(entry))
    return entry


def _without_padding(tokens: np.ndarray, pieces: Pieces | None) -> Iterator[np.ndarray]:
    """The tokens of a shard in order, some rows at a time."""
    used = None if pieces is None else pieces.used(len(tokens))
    for start in range(0, len(tokens), ROWS):
        some = tokens[start : start + ROWS]
        if used is None:
            yield some.reshape(-1)
        else:
            yield some[np.arange(tokens.shape[1]) < used[start : start + ROWS, None]]
