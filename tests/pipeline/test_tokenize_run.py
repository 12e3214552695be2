"""The tokenizer's engine within a run: an error on a run's own documents fails the task, and is told by document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from told import first_source

from pipeline.carry_out import Options, run_recipe
from pipeline.engine.engine import TasksFailed
from pipeline.jobs import tokenize as jobs
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from stages.tokens import tokenizer as module


def test_an_engine_that_errs_on_a_runs_documents_fails_the_task(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b"):
        rows = [
            {"id": f"{name}-{i}", "text": f"{'the zebra' if name == 'b' else 'the wheel'} turns {i} times"}
            for i in range(40)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = build_recipe(
        {
            "name": "zebra",
            "sources": {"web": {"read": {"paths": [f"{tmp_path}/*.jsonl"]}}},
            "tokenizer": {"train": {"vocab_size": 400}},
            "mixture": {},
            "run": {"split_bytes": "1KB"},
        }
    )
    right = module.FastokensEngine.encode

    def wrong(self: module.FastokensEngine, texts: list[str]) -> tuple:
        tokens, offsets = right(self, texts)
        if any("zebra" in text for text in texts):  # no text of those that every tokenizer is tried on
            tokens = tokens.copy()
            tokens[offsets[1:] - 1] ^= 1
        return tokens, offsets

    monkeypatch.setattr(jobs, "_TOKENIZERS", {})
    with monkeypatch.context() as patch:
        patch.setattr(module.FastokensEngine, "encode", wrong)
        with pytest.raises(TasksFailed, match=r"document b-\d+: fastokens and tokenizers differ on .* from token \d+"):
            run_recipe(recipe, Options(str(tmp_path / "run"), inline=True, progress=Progress(quiet=True)))
    assert not (tmp_path / "run" / "manifest.json").exists()
    summary = run_recipe(recipe, Options(str(tmp_path / "run"), inline=True, progress=Progress(quiet=True)))
    assert summary.tasks_known > 0 and first_source(summary).documents_kept == 80
