"""A small run with two sources and two dedups, to look at the keys of its tasks."""

from __future__ import annotations

import json
from pathlib import Path
from pydoc_data.topics import topics

import yaml
from ledgers import entries

from pipeline.cli import main
from stages.tokens.train_tokenizer import train_tokenizer

WORDS = [word for _, topic in sorted(topics.items()) for word in topic.split()]  # real prose


def text(number: int) -> str:
    start = number * 61 % (len(WORDS) - 80)
    return " ".join(WORDS[start : start + 80]) + f"\nand {number}."


def keyed_recipe(tmp_path: Path) -> Path:
    for part in range(3):
        rows = [{"id": f"{part}-{i}", "text": text(part * 20 + i)} for i in range(20)]
        (tmp_path / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    train_tokenizer(iter(text(i) for i in range(60)), tmp_path / "tokenizer.json", 300, 1 << 20)
    near = {"method": "minhash", "ngram": 2, "partitions": 2}
    data = {
        "name": "keys",
        "sources": {
            "web": {
                "read": {"paths": [f"{tmp_path}/[01].jsonl"]},
                "steps": [{"repetition": {"top_2gram": 0.9}}, {"dedup": near}, {"gopher_quality": {"words": [5, 1000]}}],
            },
            "wiki": {"read": {"paths": [f"{tmp_path}/2.jsonl"]}, "steps": [{"dedup": {"method": "bff", "ngram": 5}}]},
        },
        "tokenizer": {"path": str(tmp_path / "tokenizer.json")},
        "shards": {"held_out": 0.1},
        "mixture": {},
        "run": {"split_bytes": "3KB"},
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return path


def run(recipe: Path, *changes: str) -> None:
    sets = [part for change in changes for part in ("--set", change)]
    assert main(["run", str(recipe), "--out", str(recipe.parent / "out"), "--inline", "--quiet", *sets]) == 0


def keys(recipe: Path) -> dict[str, str]:
    return {str(entry.ref): entry.key for entry in entries(recipe.parent / "out")}
