"""A finished run's folder made from tokens alone: for tests of what reads shards, without a pipeline before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from stages.tokens import shard_format
from stages.tokens.manifest import build_manifest, shard_names, source_entry
from stages.tokens.train_tokenizer import train_tokenizer

Documents = Sequence[Sequence[int]]


def write_run(
    folder: Path,
    sources: Mapping[str, Sequence[Documents]],
    held_out: Mapping[str, Sequence[Documents]] | None = None,
    vocab_size: int = 300,
    repeats: float = 1.0,
) -> Path:
    """Write shards (source -> shards -> documents -> tokens, the end token being 0), a tokenizer and a manifest."""
    tokenizer = folder / "tokenizer" / "tokenizer.json"
    tokenizer.parent.mkdir(parents=True)
    train_tokenizer(["the water turns the wheel of the mill"] * 3, tokenizer, vocab_size=vocab_size)
    entries = {}
    for name, shards in sources.items():
        kept = (held_out or {}).get(name, ())
        train = [_shard(folder, name, number, shard, "train") for number, shard in enumerate(shards)]
        held = [_shard(folder, name, number, shard, "held_out") for number, shard in enumerate(kept)]
        budget = int(sum(shard["tokens"] for shard in train) * repeats)
        entries[name] = source_entry(name, train, held, budget, 4.0)
    manifest = build_manifest(
        name="small",
        profile="",
        recipe_hash="",
        seed=0,
        tokenizer_sha256=shard_format.sha256_file(tokenizer),
        vocab_size=vocab_size,
        eos_id=0,
        pad_id=1,
        sources=entries,
        mixture_tokens=sum(entry["budget_tokens"] for entry in entries.values()),
        mixture_seed=0,
    )
    shard_format.write_bytes(folder / shard_format.MANIFEST, shard_format.manifest_bytes(manifest))
    return folder


def _shard(folder: Path, source: str, number: int, documents: Documents, split: str) -> dict[str, int | str]:
    path, index = shard_names(source, number, split)
    tokens = np.concatenate([np.array(document, np.uint16) for document in documents])
    count, digest = shard_format.write_tokens(folder / path, [tokens], np.dtype("<u2"))
    ends = np.cumsum([len(document) for document in documents]).tolist()
    rows = [
        (start, end, f"{source}-{split}-{number}-{row}", f"{source}.jsonl", row + 1)
        for row, (start, end) in enumerate(zip([0, *ends], ends, strict=False))
    ]
    shard_format.write_index(folder / index, rows)
    return {"tokens": count, "documents": len(rows), "text_bytes": count * 4, "sha256": digest}
