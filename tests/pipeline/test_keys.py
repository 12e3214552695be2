"""What a key holds: all that decides the bytes of a result, and nothing else; tried at the command line where users meet it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet as pq
import pytest
from keyed_run import keyed_recipe, keys, run
from pydantic import BaseModel

import pipeline.jobs
from pipeline.cli import main
from pipeline.jobs.inputs import NamedStep
from pipeline.plan import code, node
from pipeline.plan.node import Job
from pipeline.questions.inspect import inspect
from pipeline.recipe.recipe import Recipe, Tasks
from stages.dedup.spec import Bff, Exact, MinHash, Substring, Url
from stages.marks import Mark, in_key, marks_of
from stages.steps import STEPS
from stages.tokens.shard_format import load_manifest

ROOT = Path(__file__).resolve().parents[2]
MODULES = [import_module(f"pipeline.jobs.{found.name}") for found in pkgutil.iter_modules(pipeline.jobs.__path__)]
JOBS = [
    job
    for module in MODULES
    for job in vars(module).values()
    if isinstance(job, type) and issubclass(job, Job) and job is not Job and job.__module__ == module.__name__
]
@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return keyed_recipe(tmp_path)


def test_every_field_of_every_job_says_what_it_is_to_the_key() -> None:
    assert len(JOBS) >= 19
    for job in JOBS:
        assert {field.name for field in fields(job)} == set(marks_of(job)), job


def how_much(model: Any) -> set[str]:
    """The keys of a recipe's model that decide no byte."""
    return {name for name, field in model.model_fields.items() if Mark.HOW_MUCH in field.metadata}


def models(kind: Any) -> Iterator[Any]:
    """A model of a recipe, and all that its keys may hold."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
        for field in kind.model_fields.values():
            yield from models(field.annotation)
    for inside in get_args(kind):
        yield from models(inside)


# A value for each key that decides no byte, unlike the one of the recipe above.
OTHER = {
    "split_bytes": "100KB", "batch_bytes": "2KB", "task_memory": "3GiB", "cache_bytes": "1GiB", "stage_inputs": "true",
    "documents": "0.5", "files": "3", "expected_removal": "[0, 1]", "partitions": "5", "partition_bytes": "2MiB",
    "memory": "2MiB", "witness_memory": "1MiB", "threads": "2", "engine": "tokenizers", "attempts": "2", "wait_seconds": "1",
    "node_seconds": "60", "copy_seconds": "9", "keep_old": "true",  # the one value that it may have
}  # fmt: skip


SPREAD = {"expected_removal", "partitions", "partition_bytes", "memory", "keep_old"}
HOW_MUCH = {
    "Run": {"split_bytes", "batch_bytes", "task_memory", "cache_bytes", "stage_inputs", "check_inputs"},
    "Tasks": {"attempts", "wait_seconds", "node_seconds", "copy_seconds"},
    "Failures": {"documents", "files"},
    "Recipe": {"expected"},
    "Source": {"license", "citation"},
    "Tokenizer": {"engine"},
    "Exact": SPREAD,
    "Url": SPREAD,
    "MinHash": SPREAD,
    "Bff": {"expected_removal", "memory", "threads", "witness_memory", "keep_old"},
    "Substring": {"expected_removal", "memory"},
    "TokenRepeats": {"engine"},
    "Quality": {"table_mb", "name"},  # which is in keys as the name of the step
    "Language": {"table_mb"},
    "Axis": {"repeats"},  # which the mixture holds
}


def test_the_keys_that_decide_no_byte_are_these() -> None:
    every = {*models(Recipe), *STEPS.values(), Exact, Url, MinHash, Bff, Substring}
    assert {model.__name__: how_much(model) for model in every if how_much(model)} == HOW_MUCH
    table = [line for line in (ROOT / "docs/architecture.md").read_text().splitlines() if line.endswith("| no |")]
    told = set(re.findall(r"`(\w+)`", " ".join(table))) - {"HowMuch"}
    inside = {"Tasks": {"tasks"}, "Failures": {"failures"}}  # named by the key that they stand under
    assert told == set().union(*(inside.get(name, names) for name, names in HOW_MUCH.items()))


@pytest.mark.parametrize(
    ("step", "values", "other"),
    [
        ("token_repeats", {"tokenizer": "t.json", "engine": "fastokens"}, {"engine": "tokenizers"}),
        ("quality", {"model": "model.bin", "score": 0.5}, {"table_mb": 9}),
        ("language", {}, {"table_mb": 9}),
    ],
)
def test_what_decides_no_byte_of_a_step_is_not_in_its_key(step: str, values: dict[str, Any], other: dict[str, Any]) -> None:
    steps = [STEPS[step].model_validate(one) for one in (values, values | other)]
    one, two = (NamedStep(step, made).in_parts() for made in steps)
    assert one == two and steps[0] != steps[1]


CHANGES = [
    *(f"run.{name}={OTHER[name]}" for name in ("split_bytes", "batch_bytes", "task_memory", "cache_bytes", "stage_inputs")),
    "run.failures.documents=0.5",
    "run.failures.files=3",
    *(f"run.tasks.{name}={OTHER[name]}" for name in sorted(how_much(Tasks))),
    *(f"sources.web.steps.dedup.{name}={OTHER[name]}" for name in sorted(how_much(MinHash))),
    *(f"sources.wiki.steps.dedup.{name}={OTHER[name]}" for name in sorted(how_much(Bff))),
    "sources.web.license=cc0-1.0",
    "sources.web.citation=A paper",
    "tokenizer.engine=tokenizers",
    "expected={documents: 9, text_bytes: 9}",
]


def test_no_task_runs_where_only_what_decides_no_byte_changes(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(recipe)
    before, fingerprint = keys(recipe), load_manifest(recipe.parent / "out")["fingerprint"]
    for change in CHANGES:
        capsys.readouterr()
        run(recipe, change)
        assert "nothing to do" in capsys.readouterr().out, change
        assert keys(recipe) == before, change
    assert load_manifest(recipe.parent / "out")["fingerprint"] == fingerprint


def test_a_recipe_that_makes_the_same_bytes_has_the_same_fingerprint(recipe: Path) -> None:
    """A limit that no document comes near is another setting, and no other data: a training on them may go on."""
    run(recipe)
    before = load_manifest(recipe.parent / "out")
    run(recipe, "sources.web.steps.gopher_quality.words.max=99999999")
    after = load_manifest(recipe.parent / "out")
    assert after["recipe_hash"] != before["recipe_hash"] and after["fingerprint"] == before["fingerprint"]
    run(recipe, "shards.held_out=0.4")
    assert load_manifest(recipe.parent / "out")["fingerprint"] != before["fingerprint"]


def test_what_decides_bytes_is_in_a_key(recipe: Path) -> None:
    run(recipe)
    before = keys(recipe)
    for change, kind in (
        ("sources.web.steps.dedup.ngram=3", "dedup"),
        ("shards.bytes=5KB", "plan shards"),
        ("shards.held_out_salt=other", "tokenize"),
        ("sources.web.steps.repetition.top_2gram=0.5", "documents"),
    ):
        run(recipe, change)
        changed = {name for name, key in keys(recipe).items() if before.get(name) != key}
        assert any(name.startswith(f"{kind}/") for name in changed), change
        run(recipe)
        assert keys(recipe) == before, change


# ---- code


def parts_of_keys(recipe: Path) -> dict[str, dict[str, str]]:
    """What each task's basis is made of."""
    from pipeline.ledger import Ledger

    with Ledger(str(recipe.parent / "out")) as ledger:
        return {str(e.ref): ledger.basis(e.basis) or {} for e in ledger.entries()}


def test_code_and_libraries_are_in_the_keys_of_the_tasks_that_use_them(recipe: Path) -> None:
    run(recipe)
    found = parts_of_keys(recipe)
    read, dropped = found["documents/web/0/00000"], found["documents/web/1/00000"]
    assert "step 00 repetition: code" in read and "step 00 gopher_quality: code" in dropped
    assert {"library pyarrow", "library unicode", "code stages.chain", "code stages.read.jsonl"} <= read.keys()
    assert "code stages.filters.repetition" not in dropped
    assert "code stages.dedup.scatter" in found["dedup/web/dedup scatter/00000"]
    assert "code stages.dedup.bff" in found["dedup/wiki/dedup filter/00000"]
    assert {"library tokenizers", "library fastokens"} <= found["tokenize/web/00000"].keys()
    assert not any("storage" in name or "engine" in name.split(".") for parts in found.values() for name in parts)


def test_the_modules_of_a_key_are_those_that_python_loads() -> None:
    """What a step's module imports, found by reading sources, is what Python imports for it (but for packages' __init__)."""
    for name in ("repetition", "c4_quality", "language", "quality", "extract", "mask_pii", "token_repeats"):
        module = STEPS[name].__module__
        known = {part.removeprefix("code ") for part, _ in code.code_of(module) if part.startswith("code ")}
        script = f"import sys, {module}; print([m for m in sys.modules if m.startswith('stages.')])"
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, check=True)
        loaded = {m for m in json.loads(done.stdout.replace("'", '"')) if (ROOT / (m.replace(".", "/") + ".py")).exists()}
        assert loaded <= known, (name, loaded - known)


def test_another_version_of_a_library_runs_the_tasks_that_use_it_and_says_so(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(recipe)
    before, installed = keys(recipe), code.library_version("tokenizers")
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == "tokenizers" else version(name))
    try:
        forget_code()
        assert main(["run", str(recipe), "--out", str(recipe.parent / "out"), "--inline"]) == 0
    finally:
        monkeypatch.undo()
        forget_code()
    assert f"tasks again: tokenizers is 0.0.1 and was {installed}" in capsys.readouterr().err
    changed = {name.partition("/")[0] for name, key in keys(recipe).items() if before.get(name) != key}
    assert "tokenize" in changed and not changed & {"documents", "dedup", "dedup result"}


def forget_code() -> None:
    """What is known of code and libraries, which no process expects to change while it runs."""
    code.code_of.cache_clear()
    code.library_version.cache_clear()
    node._BASES.clear()


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The project's sources, to be changed; with what Python made of them, which it makes again of those that change."""
    folder = tmp_path / "source"
    for name in ("pipeline", "stages"):
        shutil.copytree(ROOT / name, folder / name)
    return folder


def call(source: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(source)}
    command = [sys.executable, "-m", "pipeline", "run", *arguments, "--inline"]
    return subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True, timeout=300, check=False)


def test_changed_code_runs_the_tasks_that_use_it_and_says_so(recipe: Path, copied: Path) -> None:
    out = str(recipe.parent / "out")
    assert call(copied, str(recipe), "--out", out).returncode == 0
    before = keys(recipe)
    assert "nothing to do" in call(copied, str(recipe), "--out", out).stdout
    module = copied / "stages/filters/repetition.py"
    module.write_text(module.read_text() + "\nCHANGED = True\n")
    done = call(copied, str(recipe), "--out", out)
    assert done.returncode == 0 and "again: the code of `repetition` changed" in done.stderr
    changed = Counter(name.split("/")[1] for name, key in keys(recipe).items() if before.get(name) != key)
    assert set(changed) == {"web"} and sum(changed.values()) == len([n for n in before if n.startswith("documents/web/0/")])
    manifest = load_manifest(out)
    assert manifest["made_by"]["results_of_other_code"] == 0
    assert {"headrace", "python", "unicode", "pyarrow", "tokenizers"} <= manifest["made_by"]["versions"].keys()


def test_changed_code_of_one_dedup_runs_no_other(recipe: Path, copied: Path) -> None:
    out = str(recipe.parent / "out")
    assert call(copied, str(recipe), "--out", out).returncode == 0
    for changed, source in (("bff", "wiki"), ("components", "web")):
        before = keys(recipe)
        module = copied / f"stages/dedup/{changed}.py"
        module.write_text(module.read_text() + "\nCHANGED = True\n")
        assert call(copied, str(recipe), "--out", out).returncode == 0
        names = {name for name, key in keys(recipe).items() if before.get(name) != key and not name.startswith("dedup result/")}
        assert names and all(name.startswith(f"dedup/{source}/") for name in names), (changed, names)


def test_results_of_other_code_may_be_kept_on_purpose(recipe: Path, copied: Path) -> None:
    out = str(recipe.parent / "out")
    assert call(copied, str(recipe), "--out", out).returncode == 0
    module = copied / "stages/filters/repetition.py"
    module.write_text(module.read_text() + "\nCHANGED = True\n")
    done = call(copied, str(recipe), "--out", out, "--reuse-other-code", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tasks_run"] == 0
    kept = len([name for name in keys(recipe) if name.startswith("documents/web/0/")])
    assert load_manifest(out)["made_by"]["results_of_other_code"] == kept
    done = call(copied, str(recipe), "--out", out)
    assert "nothing to do" in done.stdout and f"{kept} tasks' results are of other code" in done.stderr
    assert load_manifest(out)["made_by"]["results_of_other_code"] == kept  # also when nobody asks for it any more
    assert inspect(out, quick=True).notes[0].startswith(f"{kept} tasks' results are of other code")
    module.write_text(module.read_text() + "\nCHANGED = 2\n")
    assert call(copied, str(recipe), "--out", out).returncode == 0
    assert load_manifest(out)["made_by"]["results_of_other_code"] == 0


def test_measures_of_other_code_are_not_taken_for_those_of_the_code_of_now(recipe: Path, copied: Path) -> None:
    """A limit changed after results were kept on purpose: the task that decides anew measures with the code of now."""
    out, fresh = recipe.parent / "out", recipe.parent / "fresh"
    assert call(copied, str(recipe), "--out", str(out)).returncode == 0
    module = copied / "stages/filters/gopher_quality.py"
    module.write_text(module.read_text() + DOUBLED)
    assert call(copied, str(recipe), "--out", str(out), "--reuse-other-code").returncode == 0
    change = ["--set", "sources.web.steps.gopher_quality.words=[5, 999]"]
    for folder in (out, fresh):
        assert call(copied, str(recipe), "--out", str(folder), *change).returncode == 0
    assert words(out) == words(fresh)


DOUBLED = """

_measure = GopherQuality.measure
GopherQuality.measure = lambda self, docs: {**(m := _measure(self, docs)), "words": m["words"] * 2}
"""


def words(out: Path) -> list[int]:
    """The measure of the kept documents of web, after its dedup."""
    parts = sorted(out.glob("parts/web/1/*.kept.parquet"))
    return [n for part in parts for n in pq.read_table(part).column("gopher_quality.words").to_pylist()]


def test_data_that_a_module_reads_is_in_the_key_of_what_uses_it(copied: Path) -> None:
    """The model of blocks lies beside the module that loads it; another one extracts other texts."""
    script = "import json; from pipeline.plan.code import code_of; print(json.dumps(dict(code_of('stages.extract.extract'))))"

    def code_now() -> dict[str, str]:
        command = [sys.executable, "-c", script]
        done = subprocess.run(command, cwd=copied, capture_output=True, text=True, timeout=120, check=True)
        return json.loads(done.stdout)

    before = code_now()
    model = copied / "stages/extract/blocks.npz"
    model.write_bytes(model.read_bytes() + b"\0")
    after = code_now()
    assert {name for name in before if after[name] != before[name]} == {"code stages.extract.block_model"}
    assert data_files_of_stages() == {model.name}  # another one needs a module that names it, and a line here


def data_files_of_stages() -> set[str]:
    """Files of the package that decide bytes and are no Python source."""
    there = {path for path in (ROOT / "stages").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    return {path.name for path in there if path.suffix not in (".py", ".md")}


def test_a_value_of_an_unknown_kind_is_refused_in_a_key() -> None:
    with pytest.raises(TypeError, match="cannot be in a key"):
        in_key({"a": object()})
