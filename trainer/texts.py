"""Raw text in files: JSON lines with `text`, or a .txt file, which is one document; packed or not. No torch is needed for it."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from trainer.errors import TrainerError

KINDS = (".jsonl", ".json", ".txt")
PACKED = (".gz", ".zst")


@dataclass(frozen=True)
class Document:
    """A text to be scored, and where it was read."""

    file: str
    id: str
    text: str


def text_files(paths: Sequence[Path]) -> dict[str, Path]:
    """The files that are meant, folders searched, each with a name of its own. Raises TrainerError where there is none."""
    found: list[Path] = []
    for path in paths:
        inside = sorted(one for one in path.rglob("*") if one.is_file() and _kind(one)) if path.is_dir() else [path]
        if not inside or not inside[0].is_file():
            raise TrainerError(f"--text {path}: no such file, nor a folder with files that end in {', '.join(KINDS)} (.gz, .zst)")
        found += inside
    short = [path.name.split(".")[0] for path in found]
    names = short if len(set(short)) == len(short) else [str(path) for path in found]
    return dict(zip(names, found, strict=True))


def read_texts(name: str, path: Path) -> Iterator[Document]:
    """The documents of a file: an object with `text` (and `id`) a line; or a .txt file, which is one document.

    Raises TrainerError, with the line, for what is neither.
    """
    kind = _kind(path)
    if kind is None:
        raise TrainerError(f"--text {path}: raw text ends in {', '.join(KINDS)}, with .gz or .zst behind it where it is packed")
    try:
        with _open(path) as stream:
            if kind == ".txt":
                yield Document(name, path.name, stream.read().decode())
                return
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield _document(name, path, number, line)
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise TrainerError(f"{path}: cannot be read ({error})") from None


def _document(name: str, path: Path, number: int, line: bytes) -> Document:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise TrainerError(f"{path}, line {number}: is no JSON ({error})") from None
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise TrainerError(f"{path}, line {number}: has no string under `text`")
    return Document(name, str(row.get("id", number)), row["text"])


def _kind(path: Path) -> str | None:
    suffix = Path(path.stem).suffix if path.suffix in PACKED else path.suffix
    return suffix if suffix in KINDS else None


def _open(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        try:
            import pyarrow as pa
        except ModuleNotFoundError:
            raise TrainerError(f"{path}: .zst files are read with pyarrow, which is not installed; unpack it first") from None
        return cast(BinaryIO, io.BufferedReader(cast(io.RawIOBase, pa.CompressedInputStream(pa.OSFile(str(path)), "zstd"))))
    return path.open("rb")
