"""The peak is that since the reset, what a process starts is counted with it, and freed memory goes back to the system."""

import gc
import json
import mmap
import pickle
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.carry_out import Options, run_recipe
from pipeline.engine import execute, place
from pipeline.engine.execute import Finished, Surroundings
from pipeline.engine.memory import cpu_time, held, peak, release, reset_peak
from pipeline.ledger import Ref
from pipeline.plan.node import Node
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from stages.quality import language
from stages.quality.fasttext_model import FastTextModel, load_model

SIZE = 200_000_000


def test_the_peak_is_that_since_the_reset():
    reset_peak()
    before = peak()
    held = np.ones(SIZE, np.uint8)
    assert peak() >= before + 0.9 * SIZE
    del held
    release()
    assert peak() >= before + 0.9 * SIZE  # the mark stays
    reset_peak()
    assert peak() < before + 0.5 * SIZE


def test_mapped_files_which_all_processes_share_are_not_counted(tmp_path: Path):
    path = tmp_path / "model"
    path.write_bytes(bytes(SIZE))
    reset_peak()
    before = peak()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert not np.frombuffer(mapped, np.uint8).any()
        assert peak() < before + 0.2 * SIZE


def test_memory_freed_by_arrow_goes_back():
    release()
    reset_peak()
    before = peak()
    held = [pa.allocate_buffer(1_000_000) for _ in range(200)]
    for buffer in held:
        memoryview(buffer).cast("B")[:] = bytes(1_000_000)
    assert peak() >= before + 0.9 * SIZE
    del held, buffer
    release()
    reset_peak()
    assert peak() < before + 0.5 * SIZE


def test_what_a_process_starts_is_counted_with_it_while_it_runs_and_once_it_has_ended():
    work = f"""
import sys, time
for line in sys.stdin:
    held, until = bytearray({SIZE}), time.process_time() + 0.5
    while time.process_time() < until:
        pass
    del held
    print(flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None

        def ask() -> None:
            child.stdin.write(b"\n")
            child.stdin.flush()
            child.stdout.readline()

        reset_peak()
        before, held = cpu_time(), peak()
        ask()
        while_it_runs = cpu_time() - before
        assert while_it_runs >= 0.45
        assert peak() >= held + 0.9 * SIZE
        reset_peak()
        assert peak() < held + 0.5 * SIZE
        child.stdin.close()
        child.wait()
        assert cpu_time() - before >= while_it_runs - 0.05


def test_a_worker_keeps_no_model_of_the_tasks_that_it_has_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each task comes to a worker by itself, with steps of its own, which load models when they are used."""
    loaded: list[weakref.ref[FastTextModel]] = []

    def load(*arguments: Any, **options: Any) -> FastTextModel:
        model = load_model(*arguments, **options)
        loaded.append(weakref.ref(model))
        return model

    def as_on_a_worker(node: Node, key: str, around: Surroundings) -> Finished:
        return execute.execute(pickle.loads(pickle.dumps(node)), key, around)

    monkeypatch.setattr(language, "load_model", load)
    monkeypatch.setattr(place, "execute", as_on_a_worker)
    for number in range(4):
        (tmp_path / f"{number}.jsonl").write_text(json.dumps({"id": f"{number}", "text": f"the cat sat on the mat {number}"}))
    source = {"read": {"paths": [f"{tmp_path}/*.jsonl"]}, "steps": [{"language": {"score": 0}}]}
    data = {"name": "small", "sources": {"web": source}, "tokenizer": {"train": {"vocab_size": 300}}, "mixture": {}}
    gc.disable()
    try:
        run_recipe(build_recipe(data), Options(str(tmp_path / "run"), inline=True, progress=Progress(quiet=True)))
        assert len(loaded) >= 4 and not any(one() for one in loaded)
    finally:
        gc.enable()


def test_memory_is_given_back_between_stages_and_where_much_is_held(monkeypatch):
    """Small tasks of a stage keep what those before them freed; what a large one held does not stay."""
    calls: list[int] = []
    monkeypatch.setattr(execute, "release", lambda: calls.append(1))
    monkeypatch.setattr(execute, "held", lambda: held_now)
    held_now = 100 << 20
    for ref, expected in (
        (Ref("documents", "web", "0", 0), 1),
        (Ref("documents", "web", "0", 1), 1),
        (Ref("documents", "web", "1", 0), 2),
        (Ref("tokenize", "web", "1", 0), 3),
        (Ref("tokenize", "code", "1", 0), 4),
        (Ref("tokenize", "code", "1", 1), 4),
    ):
        execute._let_go(Node(ref, None, 0))  # type: ignore[arg-type]
        assert len(calls) == expected, ref
    held_now = 1 << 30
    execute._let_go(Node(Ref("tokenize", "code", "1", 2), None, 0))  # type: ignore[arg-type]
    assert len(calls) == 5


def test_what_is_held_is_told_at_any_moment():
    before = held()
    private = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    with mmap.mmap(-1, SIZE, private) as kept:  # what malloc frees may stay, as an earlier test told it to
        kept.write(bytes(SIZE))
        assert held() >= before + 0.9 * SIZE
    assert held() < before + 0.5 * SIZE
