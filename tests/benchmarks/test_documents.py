"""Ten times the documents through tokenize, mix and inspect: the same memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# All sizes are small, so that the fewer documents fill them too: what is compared is what grows with documents.
SCRIPT = """
import json, sys
from pathlib import Path
from benchmarks.documents import WORDS, recipe, write_corpus
from pipeline.questions import check_shard
from pipeline.questions.inspect import inspect
from pipeline.engine.memory import peak, reset_peak
from pipeline.mixture.mix import MixOptions, mix
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from pipeline.carry_out import Options, run_recipe
from stages.tokens import index_table
from stages.tokens.train_tokenizer import train_tokenizer

index_table.BLOCK_BYTES = check_shard.CHUNK_TOKENS = 1 << 16
folder, documents = Path(sys.argv[1]), int(sys.argv[2])
train_tokenizer(WORDS, folder / "tokenizer.json", 300)
data = recipe(write_corpus(folder, documents), folder / "tokenizer.json")
data["run"] |= {"batch_bytes": "256KB", "split_bytes": "1MB"}
data["shards"]["bytes"] = "1MiB"
found = {}
reset_peak()
run_recipe(build_recipe(data), Options(str(folder / "run"), inline=True, progress=Progress(quiet=True)))
found["run"] = peak()
reset_peak()
mix([str(folder / "run")], MixOptions(out=str(folder / "mixed")))
found["mix"] = peak()
reset_peak()
held = inspect(str(folder / "mixed"))
found["inspect"] = peak()
found["problems"] = held.problems
found["documents"] = sum(s.documents + s.held_out.documents for s in held.sources.values())
found["shards"] = sum(len(s.shards) for s in held.sources.values())
print(json.dumps(found))
"""


def test_memory_does_not_grow_with_the_number_of_documents(tmp_path: Path) -> None:
    found = {}
    for documents in (20_000, 200_000):
        folder = tmp_path / str(documents)
        folder.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(folder), str(documents)],
            cwd=ROOT,
            env=os.environ | {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
            capture_output=True,
            text=True,
            timeout=240,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        found[documents] = json.loads(done.stdout)
        assert found[documents]["documents"] == documents and found[documents]["problems"] == []
    few, many = found.values()
    assert many["shards"] > 5 * few["shards"]
    for work in ("run", "mix", "inspect"):
        assert many[work] < few[work] + 10e6, (work, few, many)  # 55 bytes for each document more; an object takes more
