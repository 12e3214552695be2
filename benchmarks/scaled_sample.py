"""The sample corpus of all seven sources, and one several times as large: each further copy with other words."""

from __future__ import annotations

import gzip
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from benchmarks.alter import alter, vocabulary
from benchmarks.crawl import copy_pages, read_pages
from stages.sample.write import write_sample

VOCABULARY_BYTES = 1 << 20  # of each file's text, from which the words of its copies are drawn
TEXT_FIELDS = ("text", "content")
Words = dict[int, list[bytes]]


def make_sample(work: Path, scale: int) -> Path:
    """A folder with the sample's files `scale` times over; made once and kept in `work`."""
    plain = work / "sample"
    report = write_sample(plain)
    if scale == 1:
        return plain
    digests = [file for source in report["sources"].values() for file in source["files"].items()]
    folder = work / f"sample-{scale}-{hashlib.sha256(json.dumps(digests).encode()).hexdigest()[:12]}"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for path in sorted(p for p in plain.glob("*/*") if p.is_file()):
            (folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            _multiply(path, folder / path.parent.name, scale)
        (folder / "complete").touch()
    return folder


def _multiply(path: Path, folder: Path, scale: int) -> None:
    """Write a file and its altered copies, each named so that they keep the file's place in the order."""
    suffix = "".join(path.suffixes)
    stem = path.name.removesuffix(suffix)
    targets = [folder / f"{stem}-{copy:03d}{suffix}" for copy in range(scale)]
    shutil.copyfile(path, targets[0])
    if ".warc" in path.suffixes:
        pages = list(read_pages(path))
        words = vocabulary(_some([html for _, _, _, html in pages]))
        for copy in range(1, scale):
            copy_pages(pages, words, copy, path.name, targets[copy])
        return
    rows = _read_rows(path)
    field = next(name for name in TEXT_FIELDS if name in rows[0])
    words = vocabulary(_some([row[field].encode() for row in rows]))
    for copy in range(1, scale):
        changed = [
            _named(row, copy) | {field: _other_text(row[field], words, f"{copy}/{path.name}/{place}")}
            for place, row in enumerate(rows)
        ]
        _write_rows(targets[copy], changed, path)


def _other_text(text: str, words: Words, seed: str) -> str:
    return alter(text.encode("utf-8", "surrogatepass"), words, seed).decode("utf-8", "surrogatepass")


def _named(row: dict[str, Any], copy: int) -> dict[str, Any]:
    """The row with every id and URL made that of another document."""
    changed = dict(row)
    for key, value in row.items():
        if isinstance(value, dict):
            changed[key] = _named(value, copy)
        elif isinstance(value, str) and (key.endswith("id") or key == "url"):
            changed[key] = f"{value}#{copy}"
    return changed


def _some(texts: list[bytes]) -> list[bytes]:
    found, size = [], 0
    for text in texts:
        if size >= VOCABULARY_BYTES:
            break
        found.append(text)
        size += len(text)
    return found


def _read_rows(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    data = path.read_bytes()
    lines = (
        gzip.decompress(data) if path.suffix == ".gz" else zstandard.ZstdDecompressor().decompressobj().decompress(data)
    )
    return [json.loads(line) for line in lines.splitlines() if line]


def _write_rows(path: Path, rows: list[dict[str, Any]], original: Path) -> None:
    if path.suffix == ".parquet":
        pq.write_table(
            pa.Table.from_pylist(rows, pq.read_schema(original)), path, compression="zstd", row_group_size=200
        )
        return
    data = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")
    path.write_bytes(gzip.compress(data, 5, mtime=0) if path.suffix == ".gz" else zstandard.compress(data))
