"""Small runs of a source that is split by measures and labels of its documents."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from pipeline.cli import main
from stages.filters.gopher_quality import GopherQuality
from stages.tokens.shard_format import read_index

HOSTS = ["http://en.wiki.example/a", "http://news.example/b", None, "http://x.wiki.example:80/c", "http://other.example/d"]
SPLIT = [
    {"by": "domain", "labels": {"wiki": ["wiki.example"], "news": ["news.example", "gazette.example"]}},
    {"by": "gopher_quality.words", "quantiles": [0.5, 0.8]},
]
MEMBERS = [f"web-{a}-words{b}" for a in ("wiki", "news", "other") for b in (1, 2, 3)]


def rows(count: int) -> list[dict[str, Any]]:
    """Documents of 3 to 60 words; every seventh has as many as the one before it, and some are copies."""
    found: list[dict[str, Any]] = []
    for number in range(count):
        words = 3 + (number - (number % 7 == 0)) * 37 % 58
        text = " ".join(f"w{(number * 7 + place) % 97}" for place in range(words))
        if number % 11 == 10:
            text = found[number - 5]["text"]
        date = {"date": f"{2010 + number % 6}-05-01"} if number % 4 else {}
        found.append({"id": f"d{number}", "text": text, "url": HOSTS[number % 5], **date})
    return found


def write(folder: Path, split: Any, **changes: Any) -> Path:
    folder.mkdir(exist_ok=True)
    lines = [json.dumps(row) for row in rows(300)]
    for number in range(3):
        if not (folder / f"{number}.jsonl").exists():
            (folder / f"{number}.jsonl").write_text("\n".join(lines[number * 100 : (number + 1) * 100]) + "\n")
    gopher = dict.fromkeys(pipeline_limits()) | {"words": {"min": 1}}
    recipe = {
        "name": "cut",
        "sources": {
            "web": {
                "read": {"paths": ["*.jsonl"]},
                "steps": [{"gopher_quality": gopher}, {"dedup": {"method": "exact"}}],
                "split": split,
            }
        },
        "tokenizer": {"train": {"vocab_size": 300, "max_bytes": "20KB"}},
        "shards": {"bytes": "4KiB", "held_out": 0.1},
        "mixture": {"epochs": 1},
        "run": {"split_bytes": "12KiB"},
    }
    for name, value in changes.items():
        recipe[name] |= value
    (folder / "cut.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "cut.yaml"


def pipeline_limits() -> list[str]:
    """The limits of the step whose measures tests split by: none is to drop a document."""
    return list(GopherQuality().limits())


def run(recipe: Path, out: Path, *more: str) -> Path:
    assert main(["run", str(recipe), "--out", str(out), "--inline", "--quiet", *more]) == 0
    return out


def listed(out: Path, split: dict[str, Any]) -> list[tuple[str, tuple[int, ...]]]:
    """(id, tokens) of all documents of a split, shard by shard."""
    found = []
    for shard in split["shards"]:
        tokens = np.fromfile(out / shard["path"], "<u2")
        found += [(row.id, tuple(tokens[row.start : row.end].tolist())) for row in read_index(out / shard["index"])]
    return found


FOUND = [1, 1, 1, 2, 2, 3, 4, 5, 8, 9]  # as how many documents each text is found


def often(folder: Path, split: Any, **changes: Any) -> Path:
    """A recipe over documents of which some are found often, among them short and long ones."""
    found = [
        {"id": f"t{text}-{copy}", "text": f"text {text} " + " ".join(f"w{text * 31 + n}" for n in range(5 + 20 * (text % 2)))}
        for text, count in enumerate(FOUND * 6)
        for copy in range(count)
    ]
    order = np.random.default_rng(3).permutation(len(found))
    folder.mkdir(exist_ok=True)
    for number in range(3):
        if not (folder / f"{number}.jsonl").exists():
            (folder / f"{number}.jsonl").write_text("".join(json.dumps(found[i]) + "\n" for i in order[number::3]))
    recipe = yaml.safe_load(write(folder, split, **changes).read_text())
    recipe["sources"]["web"]["steps"][1]["dedup"]["copies"] = True
    (folder / "cut.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder / "cut.yaml"
