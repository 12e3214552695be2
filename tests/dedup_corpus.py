"""Corpora with planted copies, written as parts, and how a dedup of them is run and read: for the tests of dedup."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from stages.dedup.phases import group_parts, phases, run_inline
from stages.document import DOCUMENT

WORDS = [a + b + c for a in ("ka", "lo", "mi", "su", "te") for b in ("ra", "ne", "vi", "do") for c in ("", "n", "lu")]


def prose(rng: random.Random, words: int, line: int = 12) -> str:
    """Random words in lines of about `line` words."""
    text = " ".join(rng.choice(WORDS) + rng.choice(WORDS) for _ in range(words)).split(" ")
    for i in range(line, len(text), line):
        text[i] = "\n" + text[i]
    return " ".join(text).replace(" \n", "\n")


def new_word(rng: random.Random) -> str:
    """A word of ten random letters: no digits, which normalization would make equal."""
    return "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=10))


def altered(rng: random.Random, text: str, changes: int) -> str:
    """The text with some of its words replaced by others that occur nowhere else."""
    words = text.split(" ")
    for i in rng.sample(range(len(words)), changes):
        words[i] = new_word(rng)
    return " ".join(words)


def write_parts(
    folder: Path, documents: list[dict[str, Any]], rows: int, sources: tuple[str, ...] = ("a",)
) -> list[dict[str, Any]]:
    """Parts of `rows` documents each ({"text", "url", ...: extra columns}); their sources by turns."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for begin in range(0, len(documents), rows):
        some = documents[begin : begin + rows]
        columns: dict[str, list[Any]] = {
            "id": [f"d{begin + i}" for i in range(len(some))],
            "text": [d["text"] for d in some],
            "url": [d.get("url") for d in some],
            "file": [d.get("file", "file") for d in some],
            "record": list(range(1, len(some) + 1)),
            "offset": [None] * len(some),
            "metadata": [None] * len(some),
        }
        extra = [k for k in some[0] if k not in columns]
        schema = pa.schema([*DOCUMENT, *(pa.field(k, pa.float64()) for k in extra)])
        table = pa.table(columns | {k: [d[k] for d in some] for k in extra}, schema=schema)
        path = folder / f"{len(parts):05d}.parquet"
        pq.write_table(table, path, row_group_size=7)
        parts.append(
            {
                "ordinal": len(parts),
                "path": str(path),
                "source": sources[len(parts) % len(sources)],
                "documents": len(some),
                "bytes": sum(len(d["text"].encode()) for d in some),
                "files": list(dict.fromkeys(d.get("file", "file") for d in some)),
            }
        )
    return parts


def deduplicate(
    folder: Path, spec: dict[str, Any], parts: list[dict[str, Any]], group_bytes: int = 1
) -> tuple[dict[str, Any], dict[int, str | None]]:
    """Run a dedup; returns its summary, and for each document removed (by its number) the id of its representative."""
    folder.mkdir(parents=True, exist_ok=True)
    summary = run_inline(phases(spec, group_parts(parts, group_bytes), str(folder)))
    removed: dict[int, str | None] = {}
    first = 0
    for part in parts:
        table = pq.read_table(summary["removals"][str(part["ordinal"])])
        assert set(table.column("reason").to_pylist()) <= {f"dedup.{spec['method']}"}
        for row in table.to_pylist():
            removed[first + row["row"]] = row["representative"]
        first += part["documents"]
    return summary, removed


def shared_texts(shared: Path, name: str, size: int) -> list[str]:
    """The first texts of a file of the shared data, about `size` characters."""
    texts: list[str] = []
    with (shared / f"{name}.jsonl.zst").open("rb") as file:
        for line in io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8"):
            texts.append(json.loads(line)["text"])
            size -= len(texts[-1])
            if size <= 0:
                break
    return texts
