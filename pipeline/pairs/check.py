"""What stands beside the tokens of pairs, held against the manifest."""

from __future__ import annotations

import hashlib

import numpy as np

from pipeline import storage
from stages.tokens.manifest_shape import ShardEntry

CHUNK = 4 << 20


def check_pairs(run: str, shard: ShardEntry, quick: bool) -> list[str]:
    """What is wrong with a shard's mask and its table of pairs; `quick` checks sizes alone."""
    if "mask" not in shard or "pairs" not in shard:
        return []
    problems = []
    files = ((shard["mask"], shard["tokens"], "mask_sha256"), (shard["pairs"], 32 * shard["documents"], "pairs_sha256"))
    for path, wanted, sha256 in files:
        uri = storage.join(run, path)
        size = storage.stat(uri).size if storage.exists(uri) else None
        if size != wanted:
            found = "the file is missing" if size is None else f"{size:,} bytes, {wanted:,} were expected"
            problems.append(f"{path}: {found}; make the pairs again")
        elif not quick:
            problems += _content(uri, path, shard.get(sha256), shard.get("answer_tokens") if path == shard["mask"] else None)
    return problems


def _content(uri: str, path: str, sha256: str | None, marked: int | None) -> list[str]:
    """What is wrong with the bytes of a file. marked: how many tokens it marks, where it is a mask."""
    digest, answers, other = hashlib.sha256(), 0, 0
    with storage.open_stream(uri) as stream:
        while data := stream.read(CHUNK):
            digest.update(data)
            if marked is not None:
                counts = np.bincount(np.frombuffer(data, np.uint8), minlength=2)
                answers, other = answers + int(counts[1]), other + int(counts[2:].sum())
    if digest.hexdigest() != sha256:
        return [f"{path}: is not what was written (sha256 {digest.hexdigest()[:12]})"]
    if marked is not None and (other or answers != marked):
        return [f"{path}: marks {answers:,} tokens, the manifest says {marked:,}"]
    return []
