"""One run from recipe to manifest: the phases in their order, against one output folder.

Everything that is done stays done: a run that is started again skips what its ledger knows, whether it was finished,
killed or has other settings now.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import orjson

from pipeline import storage
from pipeline.engine import MANIFEST, Engine, InputsGone, Placement
from pipeline.folder import RUN, check_kind
from pipeline.ledger import Ledger
from pipeline.plan.classifiers import with_trained_models
from pipeline.plan.dedup import Job, dedup_phases
from pipeline.plan.documents import documents_phase
from pipeline.plan.preflight import check_named_files
from pipeline.plan.segments import Part, segments
from pipeline.plan.sources import File, list_all
from pipeline.plan.tokens import manifest_of, shard_phase, tokenize_phase, tokenizer_phase
from pipeline.recipe import Recipe, dump
from pipeline.summary import Summary, summarise
from stages.tokens.shard_format import manifest_bytes

RECIPE = "recipe.json"
SUMMARY = "summary.json"


@dataclass
class Options(Placement):
    """How a run is carried out: nothing here changes a byte of the result."""

    out: str


def run_recipe(recipe: Recipe, options: Options, files: dict[str, list[File]] | None = None) -> Summary:
    """Carry out a recipe; returns what became of every document.

    Raises UserError for what the user can mend: inputs missing, no space, too many failures, another run on the
    same output. What was done until then stays, and the next run goes on from there.
    """
    began = time.monotonic()
    check_named_files(recipe, options.inline)
    out = options.out
    if storage.is_local(out) and not out.startswith("file:"):
        out = str(storage.local_path(out).absolute())  # the same folder for every process, wherever that was started
    with storage.RunLock(out) as lock:
        check_kind(out, RUN)
        storage.clear_scratch(out)
        ledger = Ledger(out)
        with Engine(
            out,
            ledger,
            options,
            lock=lock,
            task_memory=recipe.run.task_memory,
            cache_bytes=recipe.run.cache_bytes,
            max_failed_documents=recipe.run.failures.documents,
            max_failed_files=recipe.run.failures.files,
        ) as engine:
            while True:
                try:
                    return _carry_out(recipe, engine, files, began)
                except InputsGone as gone:
                    options.progress.note(f"{len(gone.keys)} tasks run again: their parts were let go")
                    ledger.forget(gone.keys)


def _carry_out(recipe: Recipe, engine: Engine, files: dict[str, list[File]] | None, began: float) -> Summary:
    engine.used.clear()
    files = files or list_all(recipe.sources)
    plan = {source: segments(recipe.sources[source]) for source in recipe.sources}
    parts: dict[str, list[Part]] = {source: [] for source in recipe.sources}
    for number in range(max(len(found) for found in plan.values())):
        here = {source: found[number] for source, found in plan.items() if number < len(found)}
        here = {source: with_trained_models(recipe, segment, source, parts, engine) for source, segment in here.items()}
        working = {source: segment for source, segment in here.items() if number == 0 or segment.steps}
        before = {source: list(found) for source, found in parts.items()}
        parts.update(documents_phase(recipe, number, working, files, parts, engine))
        read = {source: list(found) for source, found in parts.items()}
        jobs = {
            s: Job(f"{s}/{segment.dedup[0]}", segment.dedup[1], parts[s])
            for s, segment in here.items()
            if segment.dedup
        }
        parts.update(zip(jobs, dedup_phases(list(jobs.values()), engine, recipe.run.keep == "all"), strict=True))
        _release(recipe, before, read, engine)
        _release(recipe, read, parts, engine)
    for name, settings in recipe.dedup:
        flat = [part for found in parts.values() for part in found]
        left = iter(dedup_phases([Job(f"all/{name}", settings, flat)], engine, recipe.run.keep == "all")[0])
        read, parts = parts, {source: [next(left) for _ in found] for source, found in parts.items()}
        _release(recipe, read, parts, engine)
    tokenizer = tokenizer_phase(recipe, parts, engine)
    tokenized = tokenize_phase(recipe, parts, tokenizer, engine)
    shards = shard_phase(recipe.shards.bytes, tokenized, engine)
    manifest = manifest_of(recipe, tokenized, shards)
    _release(recipe, parts, {}, engine)
    if recipe.run.keep != "all":
        # Indexes stay: where the shards begin and end is read from them, also by a rerun that has nothing to do.
        entries = [entry for found in tokenized.values() for entry in found]
        engine.ledger.release(
            (entry["key"], [file["tokens_path"] for file in entry["report"]["files"].values()]) for entry in entries
        )
    summary = summarise(recipe, manifest, engine, time.monotonic() - began)
    _finish(recipe, manifest, summary, engine)
    return summary


def _release(recipe: Recipe, before: dict[str, list[Part]], now: dict[str, list[Part]], engine: Engine) -> None:
    """Unless the recipe keeps all, let the documents go that no later phase reads; who was dropped stays on record."""
    if recipe.run.keep == "all":
        return
    still = {part.path for found in now.values() for part in found}
    gone = (part for found in before.values() for part in found if part.path not in still)
    engine.ledger.release((part.key, [part.path]) for part in gone)


def _finish(recipe: Recipe, manifest: dict[str, Any], summary: Summary, engine: Engine) -> None:
    """Write the manifest last of all; then remove what earlier settings left behind."""
    run = engine.run_uri
    engine.still_ours()
    data = manifest_bytes(manifest)
    target = storage.join(run, MANIFEST)
    summary.unchanged = engine.executed == 0 and storage.exists(target) and storage.read_bytes(target) == data
    if not summary.unchanged:
        storage.write_bytes(storage.join(run, RECIPE), orjson.dumps(dump(recipe), option=orjson.OPT_INDENT_2))
        storage.write_bytes(storage.join(run, SUMMARY), summary.to_bytes())
        storage.write_bytes(target, data)
    engine.ledger.sweep(engine.used)


__all__ = ["Options", "run_recipe"]
