"""Small folders of pairs, and a model small enough to be fine-tuned on them in a second."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import token_runs
import torch

from pipeline.pairs.make import make_pairs
from pipeline.pairs.options import PairOptions
from trainer import checkpoint
from trainer.config import Config, check, plain
from trainer.model import Olmoe
from trainer.processes import Processes

LENGTH = 160
WORDS = ["mill", "wheel", "water", "race", "stone", "grain", "flour", "sluice"]


def copying(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs that ask for the words of the prompt again."""
    rng = random.Random(seed)
    found = []
    for number in range(count):
        words = " ".join(rng.choices(WORDS, k=rng.randint(1, 4)))
        found.append({"id": f"copy/{number}", "prompt": f"Copy: {words}", "answer": words, "final": words})
    return found


def preferring(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Preferences for the words of the prompt over other words."""
    rng = random.Random(seed)
    rows = copying(count, seed)
    others = [" ".join(rng.choices(WORDS, k=len(row["answer"].split()))) for row in rows]
    return [
        {"id": row["id"], "prompt": row["prompt"], "chosen": row["answer"], "rejected": f"no {other}"}
        for row, other in zip(rows, others, strict=True)
    ]


def write_pairs(folder: Path, rows: Iterable[dict[str, Any]], tokenizer: Path, **options: Any) -> Path:
    """A folder of pairs of these records."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".jsonl")
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings: dict[str, Any] = {"max_tokens": LENGTH, "held_out": 0.2, "dedup": "none"} | options
    make_pairs([str(file)], str(folder), PairOptions(tokenizer=str(tokenizer), **settings))
    return folder


def config(**model: Any) -> Config:
    """A tiny model for a vocabulary of 600."""
    values = {
        "name": "base",
        "model": {
            "d_model": 32,
            "n_layers": 2,
            "n_heads": 4,
            "n_experts": 8,
            "top_k": 2,
            "expert_width": 16,
            "vocab_size": 600,
            **model,
        },
        "data": {"sequence_length": LENGTH},
        "train": {"batch_tokens": LENGTH},
    }
    return check(values, "test")


def write_checkpoint(folder: Path, tokenizer: Path, seed: int = 1, **model: Any) -> Path:
    """A checkpoint of freshly drawn weights, as a pretraining would have left it."""
    loaded = token_runs.load_tokenizer(tokenizer)
    asked = config(**model)
    built = Olmoe(asked.model)
    built.init_weights(seed)
    data = {
        "fingerprint": "0",
        "tokenizer_sha256": loaded.sha256,
        "vocab_size": loaded.vocab_size,
        "eos_id": loaded.eos_id,
        "pad_id": loaded.pad_id,
    }
    state = {"step": 0, "updates": 0, "tokens": 0, "position": 0, "config": plain(asked), "data": data}
    saver = checkpoint.Saver(folder / "checkpoints", 1, Processes(0, 1, torch.device("cpu")), asynchronous=False)
    saver.save(built, None, state, tokenizer)
    return folder
