"""Runs in which some parts, or some stages, hold nothing: each document is still found in the part that it is in."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import pytest
from told import as_json

from pipeline.carry_out import Options, run_recipe
from pipeline.progress import Progress
from pipeline.questions.sweep import sweep
from pipeline.questions.why import why
from pipeline.recipe.recipe import build_recipe
from pipeline.run_folder.finished import open_finished

WORDS = [word for _, text in sorted(topics.items()) for word in text.split() if word.isalpha()]  # real prose


def text_of(number: int) -> str:
    return "\n".join(" ".join(WORDS[i : i + 12]) for i in range(number * 53, number * 53 + 120, 12))


def run(folder: Path, steps: list[Any]) -> str:
    """Four files, each document a part: of 0 and 2 nothing passes; the last of each of the others is a copy of its first."""
    for part in range(4):
        texts = ["too short"] * 3 if part % 2 == 0 else [text_of(10 * part + i) for i in range(3)]
        rows = [{"id": f"{part}.{i}", "text": text} for i, text in enumerate([*texts, texts[0]])]
        (folder / f"docs-{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    data = {
        "name": "gaps",
        "sources": {"docs": {"read": {"paths": [f"{folder}/docs-*.jsonl"]}, "steps": steps}},
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "50KB"}},
        "shards": {"held_out": 0},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "1"},
    }
    run_recipe(build_recipe(data), Options(str(folder / "run"), inline=True, progress=Progress(quiet=True)))
    return str(folder / "run")


GOPHER = {
    "gopher_quality": {"words": {"min": 20}, "symbol_ratio": None, "non_alphabetic_words": None, "stop_words": None}
}
EXACT = {"dedup": {"method": "exact"}}


@pytest.mark.parametrize("later", [[], [{"remove_urls": {"urls": "all"}}]], ids=["last", "then_steps"])
def test_parts_that_hold_nothing_do_not_move_the_others(later: list[Any], tmp_path: Path) -> None:
    finished = run(tmp_path, [GOPHER, EXACT, *later])
    opened = open_finished(finished).sources["docs"]
    assert {len(parts) for parts in opened.parts} == {16} == {len(opened.tokens)}  # a document each
    (told,) = as_json(why(finished, "3.3"))["documents"]
    assert (told["outcome"], told["representative"]) == ("duplicate", "3.0")
    (told,) = as_json(why(finished, "3.1"))["documents"]
    assert told["outcome"] == "kept" and told["shard"]["path"] == "tokens/docs/00000.npy"
    (row,) = as_json(sweep(finished, "gopher_quality.words", values=[20]))["sources"]["docs"]["limits"]
    assert (row["kept"]["documents"], row["lost_later"]["documents"]) == (6, 2)


def test_a_stage_without_steps_is_passed_over(tmp_path: Path) -> None:
    finished = run(tmp_path, [EXACT, {"dedup": {"method": "minhash"}}, GOPHER])
    outcomes = {name: why(finished, name).documents[0].outcome for name in ("0.0", "3.1", "3.3")}
    assert outcomes == {"0.0": "dropped", "3.1": "kept", "3.3": "duplicate"}
    (row,) = as_json(sweep(finished, "gopher_quality.words", values=[20]))["sources"]["docs"]["limits"]
    assert row["kept"]["documents"] == 6
