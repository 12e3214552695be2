"""One run from recipe to manifest, against one output folder.

Everything that is done stays done: a run that is started again skips what its ledger knows, whether it was finished,
killed or has other settings now.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

import msgspec
import orjson

from pipeline import storage
from pipeline.engine.engine import Allowed, Engine, InputsGone
from pipeline.engine.place import Placement
from pipeline.jobs.inputs import SourceFile
from pipeline.ledger import Ledger
from pipeline.plan.code import versions
from pipeline.plan.corpus import Corpus, Inputs, corpus
from pipeline.plan.inputs import addresses_of, look_up
from pipeline.plan.sources import by_content, unversioned
from pipeline.plan.tokens import manifest_of
from pipeline.progress import Ahead
from pipeline.recipe.checks import check_files, checked
from pipeline.recipe.recipe import Recipe, public_dump
from pipeline.run_folder.folder import absolute, claim
from pipeline.run_folder.made import write_made
from pipeline.run_folder.run_summary import SUMMARY, RunSummary
from pipeline.run_folder.summary import summarise
from pipeline.run_folder.verify import damaged_files
from stages.tokens.manifest_shape import Manifest
from stages.tokens.shard_format import MANIFEST, manifest_bytes

RECIPE = "recipe.json"


@dataclass
class Options(Placement):
    """How a run is carried out: nothing here changes a byte of the result.

    take_over: go on in the folder of another recipe's run. reuse_other_code: take results that other code made as they are.
    verify: read all files of the run first, and make those again that are not as they were written.
    """

    out: str
    take_over: bool = False
    reuse_other_code: bool = False
    verify: bool = False


def run_recipe(recipe: Recipe, options: Options, files: Mapping[str, list[SourceFile]] | None = None) -> RunSummary:
    """Carry out a recipe; returns what became of every document.

    Raises UserError for what the user can mend: inputs missing, no space, too many failures, another run on the
    same output, a folder that is not this recipe's. What was done until then stays, and the next run goes on from there.
    """
    began = time.monotonic()
    inputs = look_up(recipe, absolute(options.out), files, inline=options.inline)
    check_files(recipe.sources, inputs.files)
    run = recipe.run
    placement = replace(options, task_memory=run.task_memory, cache_bytes=run.cache_bytes, tasks=run.tasks)
    with storage.RunLock(inputs.run) as lock:
        claim(inputs.run, recipe, options.take_over)
        storage.clear_scratch(inputs.run)
        with Ledger(inputs.run, writable=True, still_ours=lock.check) as ledger:
            allowed = Allowed(recipe.run.failures.documents, recipe.run.failures.files)
            engine = Engine(inputs.run, ledger, placement, lock, allowed, options.reuse_other_code)
            for note in (*ledger.notes, *unversioned(inputs.files, recipe.run.check_inputs)):
                engine.progress.line(note)
            if recipe.run.check_inputs == "content":
                inputs = replace(inputs, files=by_content(inputs.files, inputs.run))
            engine.progress.ahead = lambda: _ahead(recipe, inputs)
            engine.log.begin()
            with engine:
                if options.verify:
                    _forget_damaged(engine)
                found = _walk(recipe, inputs, engine)
                manifest = manifest_of(recipe, found.tokens)
                manifest["made_by"] = {"versions": versions(), "results_of_other_code": engine.of_other_code()}
                if kept := manifest["made_by"]["results_of_other_code"]:
                    engine.progress.line(f"{kept} tasks' results are of other code, kept as --reuse-other-code asked")
                if revisions := storage.revisions(addresses_of(recipe)):
                    manifest["made_by"]["revisions"] = revisions
                summary = summarise(recipe, manifest, found, engine, time.monotonic() - began)
                summary = _finish(recipe, manifest, summary, engine)
        if engine.executed:
            storage.clear_scratch(inputs.run)  # what killed workers left, whose tasks ran again
        return summary


def _ahead(recipe: Recipe, inputs: Inputs) -> list[Ahead]:
    """The run's phases before they begin, for what is told of it: asked once there is something to be told."""
    from pipeline.forecast.usual import phases_ahead

    return phases_ahead(recipe, inputs.files)


def _walk(recipe: Recipe, inputs: Inputs, engine: Engine) -> Corpus:
    """Carry out the plan; again where files that are needed were let go after their first use."""
    while True:
        try:
            return engine.walk(checked(corpus(recipe, inputs), recipe))
        except InputsGone as gone:
            engine.progress.note(f"{len(gone.keys)} tasks run again: their parts were removed, as run.keep says")
            engine.forget(gone.keys)


def _forget_damaged(engine: Engine) -> None:
    """Let the tasks run again whose files are not as they were written."""
    engine.progress.note("comparing all files with what was written")
    damaged = list(damaged_files(engine.run_uri, engine.ledger))
    for _, path in damaged:
        engine.progress.line(f"{path}: not the bytes that were written; it is made again where anything still reads it")
    engine.ledger.forget({key for key, _ in damaged})


def _finish(recipe: Recipe, manifest: Manifest, summary: RunSummary, engine: Engine) -> RunSummary:
    """Write the manifest last of all; then remove what earlier settings left behind. Returns whether anything changed, too."""
    run = engine.run_uri
    engine.still_ours()
    data = manifest_bytes(manifest)
    target = storage.join(run, MANIFEST)
    unchanged = engine.executed == 0 and storage.exists(target) and storage.read_bytes(target) == data
    if not unchanged:
        storage.write_bytes(storage.join(run, RECIPE), orjson.dumps(public_dump(recipe), option=orjson.OPT_INDENT_2))
        storage.write_bytes(storage.join(run, SUMMARY), msgspec.json.format(msgspec.json.encode(summary)))
        write_made(run, engine.walked, engine.used)
        storage.write_bytes(target, data)
    engine.ledger.sweep(engine.used)
    return msgspec.structs.replace(summary, unchanged=unchanged)


__all__ = ["Options", "run_recipe"]
