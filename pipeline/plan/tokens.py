"""From documents to token shards and the manifest: tokenizer, token files a part, shards a source, the mixture."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, BinaryIO

import numpy as np
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.engine import Engine
from pipeline.jobs import tokens as jobs
from pipeline.plan.samples import draw, reads
from pipeline.plan.segments import Part
from pipeline.recipe import Recipe, dump
from pipeline.task import Phase, Task, task_key
from stages.tokens.manifest import TOKENIZER_PATH, build_manifest, shard_names, source_entry
from stages.tokens.mixture import compile_mixture
from stages.tokens.shard import plan_shards, shard_tokens
from stages.tokens.shard_format import Manifest, token_dtype
from stages.tokens.token_file import TokenFile

MODULE = "pipeline.jobs.tokens"
LAST_STAGE = 1_000_000  # behind all segments of a source
AHEAD = 16  # indexes read at once while shards are planned; each holds the ends of one token file,
AHEAD_DOCUMENTS = 1 << 20  # and all of them no more than so many, but for one file that has more


def tokenizer_phase(recipe: Recipe, parts: dict[str, list[Part]], engine: Engine) -> str:
    """Train or fetch the tokenizer into the run's folder; returns the digest of its file."""
    wanted = recipe.tokenizer
    if wanted.train is None:
        uri = wanted.path or f"hf://{wanted.hub}/tokenizer.json"
        key = task_key("tokenizer", storage.stat(uri).version)
        spec: dict[str, Any] = {"uri": uri, "output": TOKENIZER_PATH, "writes": [TOKENIZER_PATH]}
        task = Task(key, "tokenizer/copy", f"{MODULE}:copy_tokenizer", spec)
    else:
        chosen = [part for source in parts.values() for part in source]
        total = sum(part.bytes for part in chosen)
        share = min(1.0, wanted.train.max_bytes / max(total, 1))
        settings = dump(wanted.train)
        key = task_key("tokenizer", jobs.TRAIN_VERSION, settings, share, [part.identity() for part in chosen])
        drawn = draw(chosen, share, jobs.PURPOSE, engine, recipe.run.batch_bytes)
        spec = {
            "parts": drawn,
            "vocab_size": wanted.train.vocab_size,
            "max_bytes": wanted.train.max_bytes,
            "batch_bytes": recipe.run.batch_bytes,
            "output": TOKENIZER_PATH,
            "writes": [TOKENIZER_PATH],
            "reads": reads(drawn),
        }
        task = Task(key, "tokenizer/train", f"{MODULE}:train", spec, int(total * share))
    engine.before_replacing([TOKENIZER_PATH], {task.key})
    entry = engine.run(Phase("tokenizer", [task]))[0]
    return entry["outputs"][0]["digest"]


def salt_of(name: str, seed: int) -> str:
    """What makes a run's choice of held-out documents its own."""
    return f"{name}/{seed}"


def tokenize_phase(
    recipe: Recipe, parts: dict[str, list[Part]], tokenizer: str, engine: Engine
) -> dict[str, list[dict[str, Any]]]:
    """Tokenize every part; returns the ledger entries of each source, in canonical order."""
    settings = {
        "rules": dump(recipe.tokenizer.rules),
        "eos_token": recipe.tokenizer.eos_token,
        "pad_token": recipe.tokenizer.pad_token,
        "held_out": recipe.shards.held_out,
        "salt": salt_of(recipe.name, recipe.seed),
    }
    tasks, owners = [], []
    for source, source_parts in parts.items():
        for ordinal, part in enumerate(source_parts):
            key = task_key(f"{MODULE}:tokenize", jobs.TOKENIZE_VERSION, source, part.identity(), tokenizer, settings)
            spec = settings | {
                "source": source,
                "stage": LAST_STAGE,
                "part": part.path,
                "removals": part.removals,
                "edited": part.edited,
                "tokenizer": TOKENIZER_PATH,
                "engine": recipe.tokenizer.engine,
                "batch_bytes": recipe.run.batch_bytes,
                "prefix": f"parts/{source}/tokens/{ordinal:05d}-{key}",
                "reads": [part.path, *(r["path"] for r in part.removals), TOKENIZER_PATH],
            }
            tasks.append(Task(key, f"tokenize/{source}/{ordinal:05d}", f"{MODULE}:tokenize", spec, part.bytes))
            owners.append(source)
    found: dict[str, list[dict[str, Any]]] = {source: [] for source in parts}
    for source, entry in zip(owners, engine.run(Phase("tokenize", tasks)), strict=True):
        found[source].append(entry)
    return found


def shard_phase(
    shard_bytes: int, tokenized: dict[str, list[dict[str, Any]]], engine: Engine
) -> dict[str, dict[str, list]]:
    """Cut token files into shards of this size; returns source -> split -> the manifest's facts of each shard."""
    dtype = token_dtype(_tokenizer_facts(tokenized)["vocab_size"])
    tasks: list[Task] = []
    places: list[tuple[str, str]] = []
    for source, entries in tokenized.items():
        for split in jobs.SPLITS:
            files = [TokenFile(**entry["report"]["files"][split]) for entry in entries]
            digests = {o["path"]: o["digest"] for entry in entries for o in entry["outputs"]}
            limit = shard_tokens(shard_bytes, dtype)
            with read_ahead(files, limit, lambda file: _ends(file, engine)) as ends:
                for number, pieces in enumerate(plan_shards(files, limit, ends)):
                    tasks.append(_shard_task(source, split, number, files, pieces, digests, dtype))
                    places.append((source, split))
    engine.before_replacing([path for task in tasks for path in task.spec["writes"]], {t.key for t in tasks})
    found: dict[str, dict[str, list]] = {source: {split: [] for split in jobs.SPLITS} for source in tokenized}
    for (source, split), entry in zip(places, engine.run(Phase("shard", tasks)), strict=True):
        found[source][split].append(entry["report"]["shard"])
    return found


def _shard_task(
    source: str, split: str, number: int, files: list[TokenFile], pieces: list, digests: dict[str, str], dtype: np.dtype
) -> Task:
    used = sorted({piece.file for piece in pieces})
    place = {file: position for position, file in enumerate(used)}
    path, index = shard_names(source, number, split)
    identity = [[digests[files[f].tokens_path], digests[files[f].index_path]] for f in used]
    local = [[place[piece.file], *piece[1:]] for piece in pieces]
    key = task_key(f"{MODULE}:shard", jobs.SHARD_VERSION, path, identity, local, dtype.name)
    spec = {
        "files": [files[f].to_json() for f in used],
        "pieces": local,
        "path": path,
        "index": index,
        "dtype": dtype.name,
        "writes": [path, index],
        "reads": [name for f in used for name in (files[f].tokens_path, files[f].index_path)],
    }
    weight = sum(piece.end_token - piece.first_token for piece in pieces) * dtype.itemsize
    return Task(key, f"shard/{source}/{path.rsplit('/', 1)[-1]}", f"{MODULE}:shard", spec, weight)


@contextmanager
def read_ahead(
    files: list[TokenFile], max_tokens: int, read: Callable[[TokenFile], np.ndarray]
) -> Iterator[Callable[[TokenFile], np.ndarray]]:
    """`read`, with the files that shard boundaries will fall into read ahead by a few threads, `AHEAD` at a time.

    Where a boundary falls is known when the one before it is: a shard further on, less a part of a document. So the
    guess is right but for a few files, and those are read when they are asked for.
    """
    bounds = np.cumsum([0, *(file.tokens for file in files)], dtype=np.int64)
    place = {file.index_path: number for number, file in enumerate(files)}
    pending: dict[int, Future[np.ndarray]] = {}
    expected = max_tokens  # about where the next boundary lies, in tokens from the start of the first file

    with ThreadPoolExecutor(AHEAD) as pool:

        def ends(file: TokenFile) -> np.ndarray:
            nonlocal expected
            here = place[file.index_path]
            expected = min(max(expected, int(bounds[here])), int(bounds[here + 1]) - 1)
            expected += max_tokens * max(1, -(-(int(bounds[here + 1]) - expected) // max_tokens))
            cuts = expected + max_tokens * np.arange(AHEAD)
            guesses = np.searchsorted(bounds, cuts[cuts < bounds[-1]], side="right") - 1
            for number in [number for number in pending if number < here]:
                pending.pop(number).cancel()
            found = pending.pop(here).result() if here in pending else read(file)
            for number in np.unique(guesses).tolist():
                held = sum(files[other].documents for other in pending)
                if number in pending or number == here:
                    continue
                if len(pending) >= AHEAD or (pending and held + files[number].documents > AHEAD_DOCUMENTS):
                    break
                pending[number] = pool.submit(read, files[number])
            return found

        try:
            yield ends
        finally:
            for future in pending.values():
                future.cancel()


def _ends(file: TokenFile, engine: Engine) -> np.ndarray:
    engine.check_present([file.index_path])
    with storage.open_random(storage.join(engine.run_uri, file.index_path)) as stream:
        return document_ends(stream, file.documents)


def document_ends(index: BinaryIO, documents: int) -> np.ndarray:
    """Where each document of a token file ends, in tokens (int64), from its index of so many documents.

    An imported file may have any number of them: where they are many the ends lie on disk, as a memory map.
    """
    with pq.ParquetFile(index, pre_buffer=False, buffer_size=1 << 20) as opened:
        if documents <= AHEAD_DOCUMENTS:
            return opened.read(["end"]).column("end").to_numpy()
        with tempfile.TemporaryFile(dir=storage.cache_folder()) as file:
            for rows in opened.iter_batches(columns=["end"]):
                file.write(memoryview(np.ascontiguousarray(rows.column("end"))).cast("B"))
            file.flush()
            return np.memmap(file, np.int64, "r")


def _tokenizer_facts(tokenized: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    return next(entry["report"] for entries in tokenized.values() for entry in entries)


def manifest_of(
    recipe: Recipe, tokenized: dict[str, list[dict[str, Any]]], shards: dict[str, dict[str, list]]
) -> Manifest:
    """The run's manifest: every shard, and the mixture compiled from what there is. Raises MixtureError."""
    facts = _tokenizer_facts(tokenized)
    available = {source: sum(s["tokens"] for s in splits["train"]) for source, splits in shards.items()}
    budgets = {budget.source: budget for budget in compile_mixture(recipe.mixture, available)}
    sources = {
        source: source_entry(
            source, splits["train"], splits["held_out"], budgets[source].asked, budgets[source].max_repeats
        )
        for source, splits in shards.items()
    }
    return build_manifest(
        name=recipe.name,
        profile=recipe.profile or "",
        recipe_hash=recipe.content(),
        seed=recipe.seed,
        tokenizer_sha256=facts["sha256"],
        vocab_size=facts["vocab_size"],
        eos_id=facts["eos_id"],
        pad_id=facts["pad_id"],
        sources=sources,
        mixture_tokens=sum(budget.asked for budget in budgets.values()),
        mixture_seed=recipe.mixture.seed,
        reshuffle_last_tokens=recipe.mixture.reshuffle_last_tokens,
    )
