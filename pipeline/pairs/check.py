"""What stands beside the tokens of pairs, held against the manifest."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from pipeline import storage

CHUNK = 4 << 20


def check_pairs(run: str, shard: dict[str, Any], quick: bool) -> list[str]:
    """What is wrong with a shard's mask and its table of pairs; `quick` checks sizes alone."""
    problems = []
    sizes = {"mask": shard["tokens"], "pairs": 32 * shard["documents"]}
    for key, wanted in sizes.items():
        uri = storage.join(run, shard[key])
        size = storage.stat(uri).size if storage.exists(uri) else None
        if size != wanted:
            found = "the file is missing" if size is None else f"{size:,} bytes, {wanted:,} were expected"
            problems.append(f"{shard[key]}: {found}; make the pairs again")
        elif not quick:
            problems += _content(uri, key, shard)
    return problems


def _content(uri: str, key: str, shard: dict[str, Any]) -> list[str]:
    digest, answers, other = hashlib.sha256(), 0, 0
    with storage.open_stream(uri) as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
            if key == "mask":
                counts = np.bincount(np.frombuffer(data, np.uint8), minlength=2)
                answers, other = answers + int(counts[1]), other + int(counts[2:].sum())
    if digest.hexdigest() != shard[f"{key}_sha256"]:
        return [f"{shard[key]}: is not what was written (sha256 {digest.hexdigest()[:12]})"]
    if key == "mask" and (other or answers != shard["answer_tokens"]):
        return [f"{shard[key]}: marks {answers:,} tokens, the manifest says {shard['answer_tokens']:,}"]
    return []
