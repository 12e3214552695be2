"""Small finished folders with real text, made through the public functions that runs use: for tests of token formats."""

from __future__ import annotations

import argparse
import csv
import difflib
import fnmatch
import glob
import gzip
import inspect
import json
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from pydoc_data.topics import topics

import numpy as np
import pyarrow as pa
import tokenizers

from stages.tokens.manifest import TOKENIZER_PATH, build_manifest, shard_names, source_entry
from stages.tokens.shard_format import (
    Manifest,
    load_manifest,
    manifest_bytes,
    open_tokens,
    read_index,
    write_bytes,
    write_index,
    write_tokens,
)
from stages.tokens.tokenizer import Tokenizer, load_tokenizer

TEXTS = {
    "docs": [text for _, text in sorted(topics.items())][:40],
    "code": [
        inspect.getsource(module)
        for module in (argparse, csv, difflib, fnmatch, glob, gzip, inspect, json, shutil, textwrap)
    ],
}


def train(path: Path, vocab_size: int = 600, added: Sequence[str] = ()) -> Path:
    """A byte-level BPE tokenizer with an end token."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>", "<|padding|>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS["docs"][:10], trainer)
    tokenizer.add_tokens(list(added))
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path


def wide(path: Path) -> Path:
    """A tokenizer whose ids need uint32: words, and many that no text has."""
    words = sorted({word for text in TEXTS["docs"] for word in text.split()})
    vocabulary = {
        name: i for i, name in enumerate(["<|endoftext|>", "[UNK]"] + [f"unused {i}" for i in range(70_000)] + words)
    }
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))
    return path


def write_run(folder: Path, tokenizer: Path, texts: dict[str, list[str]], per_shard: int = 15) -> Manifest:
    """A finished folder: every ninth document held out, so many documents a shard."""
    loaded = load_tokenizer(tokenizer, engine="tokenizers")
    entries = {}
    for source, documents in texts.items():
        splits = {}
        for split, remainder in (("train", range(1, 9)), ("held_out", range(1))):
            rows = [(i, text) for i, text in enumerate(documents) if i % 9 in remainder]
            pieces = [rows[i : i + per_shard] for i in range(0, len(rows), per_shard)]
            splits[split] = [_shard(folder, source, n, split, piece, loaded) for n, piece in enumerate(pieces)]
        tokens = sum(shard["tokens"] for shard in splits["train"])
        entries[source] = source_entry(source, splits["train"], splits["held_out"], tokens, 4.0)
    write_bytes(folder / TOKENIZER_PATH, tokenizer.read_bytes())
    manifest = build_manifest(
        name=folder.name,
        profile="",
        recipe_hash="0",
        seed=0,
        tokenizer_sha256=loaded.sha256,
        vocab_size=loaded.vocab_size,
        eos_id=loaded.eos_id,
        pad_id=loaded.pad_id,
        sources=entries,
        mixture_tokens=sum(entry["budget_tokens"] for entry in entries.values()),
        mixture_seed=0,
    )
    write_bytes(folder / "manifest.json", manifest_bytes(manifest))
    return manifest


def _shard(folder: Path, source: str, number: int, split: str, rows: list[tuple[int, str]], loaded: Tokenizer) -> dict:
    path, index = shard_names(source, number, split)
    tokens, offsets = loaded.encode(pa.array([text for _, text in rows], pa.large_string()))
    count, digest = write_tokens(folder / path, [tokens], loaded.dtype)
    names = [f'{source}, "{i}"' for i, _ in rows]  # with what CSV has to quote
    where = zip(offsets[:-1].tolist(), offsets[1:].tolist(), names, rows, strict=True)
    write_index(folder / index, ((a, b, name, f"{source}.jsonl", row[0] + 1) for a, b, name, row in where))
    size = sum(len(text.strip().encode()) for _, text in rows)
    return {"tokens": count, "documents": len(rows), "text_bytes": size, "sha256": digest}


def documents(folder: Path, source: str, split: str = "train") -> list[tuple[str, str, int, list[int]]]:
    """All documents of a folder's split: id, src, loc, tokens."""
    manifest = load_manifest(folder)
    entry = manifest["sources"][source]
    found = []
    for shard in (entry if split == "train" else entry["held_out"])["shards"]:
        tokens = open_tokens(folder / shard["path"], np.dtype(manifest["dtype"]), shard["tokens"])
        rows = read_index(folder / shard["index"])
        found += [(row.id, row.src, row.loc, tokens[row.start : row.end].tolist()) for row in rows]
    return found
