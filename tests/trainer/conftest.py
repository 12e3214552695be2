"""A small finished run, and a model small enough to train on it in a second."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from stages.tokens import manifest, shard_format
from trainer.config import Config, check

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it cuBLAS refuses to be deterministic

VOCAB, LENGTH, EOS, PAD = 61, 32, 0, 1

TINY = {
    "name": "test",
    "model": {
        "d_model": 32,
        "n_layers": 2,
        "n_heads": 4,
        "n_experts": 8,
        "top_k": 2,
        "expert_width": 16,
        "vocab_multiple": 8,
    },
    "losses": {"balance_instances": 1},
    "data": {"sequence_length": LENGTH},
    "schedule": {"peak": 1e-2, "warmup_tokens": 256},
    "train": {"batch_tokens": 4 * LENGTH, "micro_batch": 2, "log_every": 1, "routing_every": 2},
    "evaluate": {"instances": 4},
    "checkpoint": {"every_tokens": 2 * 4 * LENGTH, "keep": 2},
}


def tiny(**changes) -> Config:
    """The small configuration with `section={key: value}` changes."""
    values = {key: dict(value) if isinstance(value, dict) else value for key, value in TINY.items()}
    for key, value in changes.items():
        values[key] = {**values.get(key, {}), **value} if isinstance(value, dict) else value
    return check(values, "test")


@pytest.fixture(scope="session")
def make_config():
    return tiny


def write_run(
    folder: Path, seed: int = 0, vocab: int = VOCAB, sources: tuple[str, ...] = ("web", "code"), words: str = "t"
) -> Path:
    """A run whose tokens follow one another by a rule with noise, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    entries = {}
    for number, source in enumerate(sources):
        facts = {}
        for split, documents in (("train", 40), ("held_out", 8)):
            parts = []
            for _ in range(documents):
                tokens = np.empty(int(rng.integers(40, 90)), dtype="<u2")
                tokens[0] = rng.integers(2, vocab)
                for place in range(1, len(tokens)):
                    ruled = 2 + (tokens[place - 1] * (3 + number) + 7) % (vocab - 2)
                    tokens[place] = ruled if rng.random() < 0.8 else rng.integers(2, vocab)
                tokens[-1] = EOS
                parts.append(tokens)
            ends = np.cumsum([len(part) for part in parts]).tolist()
            path, index = manifest.shard_names(source, 0, split)
            count, sha256 = shard_format.write_tokens(folder / path, parts, np.dtype("<u2"))
            rows = zip([0, *ends], ends, strict=False)
            shard_format.write_index(folder / index, [(s, e, f"{i}", "f", i + 1) for i, (s, e) in enumerate(rows)])
            facts[split] = [{"tokens": count, "documents": documents, "text_bytes": 4 * count, "sha256": sha256}]
        budget = facts["train"][0]["tokens"] * 3 // 2 // (4 * LENGTH) * 4 * LENGTH  # whole batches
        entries[source] = manifest.source_entry(source, facts["train"], facts["held_out"], budget, 4.0)
    (folder / "tokenizer").mkdir(exist_ok=True)
    tokenizer = Tokenizer(models.WordLevel({f"{words}{number}": number for number in range(vocab)}, f"{words}2"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    built = manifest.build_manifest(
        name="small",
        profile="sample",
        recipe_hash="0" * 64,
        seed=seed,
        tokenizer_sha256=shard_format.sha256_file(folder / "tokenizer" / "tokenizer.json"),
        vocab_size=vocab,
        eos_id=EOS,
        pad_id=PAD,
        sources=entries,
        mixture_tokens=sum(entry["budget_tokens"] for entry in entries.values()),
        mixture_seed=seed,
    )
    shard_format.write_bytes(folder / shard_format.MANIFEST, shard_format.manifest_bytes(built))
    return folder


@pytest.fixture(scope="session")
def make_run():
    return write_run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory) -> Path:
    """The folder of a small finished run of two sources."""
    return write_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Matrices this small are slower on two threads, and far slower on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def deterministic():
    """Refuse operations whose result may differ from call to call."""
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)
