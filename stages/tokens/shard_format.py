"""The token shard format and the manifest that describes a run's shards. NumPy and the standard library only.

A shard is a pair of files, the form that OLMo's tools write and read:

- `NAME.npy`: the tokens alone, little-endian, with NO numpy header in spite of the name; uint16 where the vocabulary
  fits, else uint32. Documents follow one another, each with its end-of-document token.
- `NAME.csv.gz`: one row a document, without a header row: start,end,id,src,loc. `start` and `end` count tokens of this
  file, end exclusive; `src` is the file that the document was read from, `loc` the 1-based record in it. Rows of two
  columns (start,end), as OLMo-core writes them, are read too.

A mixture may hold parts of a source that were told apart after its tokens were written. Such a shard has no tokens of its
own: in place of `NAME.npy` stands `NAME.ranges`, which says what runs of tokens of other files it is (`Ranges`).

This is the one module of `stages` that the trainer imports; what a manifest holds is said in manifest_shape.py.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np

from stages.tokens.manifest_shape import Manifest, ShardError, check_schema

MANIFEST = "manifest.json"
MAX_FIELD = 2**31 - 1  # characters of an id in an index; the csv module stops at 131,072 unless it is told
FORMAT, VERSION = "headrace", 1
UINT16_VOCABULARY = 65_536  # the largest vocabulary whose ids fit into uint16


class Document(NamedTuple):
    """One row of a shard's index."""

    start: int  # first token, counted from the start of the shard
    end: int  # one past the last token
    id: str
    src: str
    loc: int  # 1-based; 0 where the index holds only start and end


def token_dtype(vocab_size: int) -> np.dtype:
    """The dtype of token files for a vocabulary of this size: '<u2' up to 65,536 entries, else '<u4'."""
    if not 0 < vocab_size <= 2**32:
        raise ShardError(f"a vocabulary of {vocab_size} entries cannot be stored: 1 to 4,294,967,296 are possible")
    return np.dtype("<u2" if vocab_size <= UINT16_VOCABULARY else "<u4")


class AtomicFile:
    """A binary file that appears under its name, fsynced, only when the block ends without an exception."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._partial = self.path.with_name(f"{self.path.name}.{os.getpid()}.partial")

    def __enter__(self) -> io.BufferedWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self._partial.open("wb")
        return self._file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            self._file.close()
            if kind is not None:
                self._partial.unlink(missing_ok=True)
        if kind is None:
            self._partial.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write a small file atomically and durably."""
    with AtomicFile(path) as file:
        file.write(data)


def write_tokens(path: str | Path, chunks: Iterable[np.ndarray], dtype: np.dtype) -> tuple[int, str]:
    """Write token chunks one after another as a raw `.npy`; returns the number of tokens and the file's sha256.

    Chunks must already be of `dtype` (ShardError otherwise): a silent cast could cut an id.
    """
    digest, tokens = hashlib.sha256(), 0
    with AtomicFile(path) as file:
        for chunk in chunks:
            if chunk.dtype != dtype:
                raise ShardError(f"{path}: tokens are {chunk.dtype}, the shard is {dtype}")
            data = memoryview(np.ascontiguousarray(chunk)).cast("B") if len(chunk) else b""
            file.write(data)
            digest.update(data)
            tokens += len(chunk)
    return tokens, digest.hexdigest()


def write_index(path: str | Path, documents: Iterable[tuple[int, int, str, str, int]]) -> int:
    """Write (start, end, id, src, loc) rows as `.csv.gz`, the same bytes for the same rows; returns the row count."""
    count = 0
    with (
        AtomicFile(path) as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        io.TextIOWrapper(io.BufferedWriter(packed, 1 << 18), "utf-8", newline="") as text,
    ):
        writer = csv.writer(text, lineterminator="\n")
        for row in documents:
            writer.writerow(row)
            count += 1
    return count


def open_tokens(path: str | Path, dtype: np.dtype | str, tokens: int | None = None) -> np.ndarray:
    """A read-only memory map of a token file, shape [tokens].

    Raises ShardError when the file is missing, has a numpy header, ends inside a token, or does not hold `tokens`.
    """
    dtype = np.dtype(dtype)
    check_tokens(path, dtype, tokens)
    size = Path(path).stat().st_size
    return np.memmap(path, dtype, "r") if size else np.zeros(0, dtype)


def check_tokens(path: str | Path, dtype: np.dtype | str, tokens: int | None = None) -> int:
    """The number of tokens in a token file, after the checks of `open_tokens`."""
    dtype = np.dtype(dtype)
    try:
        with Path(path).open("rb") as file:
            head = file.read(6)
            size = os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        raise ShardError(f"{path}: the token file is missing; run the pipeline again to rebuild it") from None
    except OSError as error:
        raise ShardError(f"{path}: the token file cannot be read ({error.strerror})") from None
    if head == b"\x93NUMPY":
        raise ShardError(f"{path}: the file has a numpy header; token files hold the tokens alone")
    if size % dtype.itemsize:
        raise ShardError(f"{path}: {size} bytes is no whole number of {dtype.name} tokens; the file is cut off")
    if tokens is not None and size != tokens * dtype.itemsize:
        raise ShardError(f"{path}: holds {size // dtype.itemsize} {dtype.name} tokens, {tokens} were expected")
    return size // dtype.itemsize


def read_index(path: str | Path | BinaryIO) -> Iterator[Document]:
    """The documents of a shard, in order, streamed from a path or open file. Raises ShardError where it is damaged."""
    number = 0
    try:
        csv.field_size_limit(MAX_FIELD)
        with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
            for number, row in enumerate(csv.reader(text), start=1):
                if len(row) == 2:
                    yield Document(int(row[0]), int(row[1]), "", "", 0)
                elif len(row) == 5:
                    yield Document(int(row[0]), int(row[1]), row[2], row[3], int(row[4]))
                else:
                    raise ShardError(f"{path}, row {number}: {len(row)} columns; start,end,id,src,loc were expected")
    except FileNotFoundError:
        raise ShardError(f"{path}: the shard's index is missing") from None
    except (OSError, EOFError, ValueError, csv.Error) as error:
        raise ShardError(f"{path}, after row {number}: the index is damaged ({error})") from None


class Ranges(NamedTuple):
    """A shard as runs of tokens of other files, whose tokens are numbered through, one file after another.

    The file holds the two arrays as little-endian int64, and behind them the sha256 of each of those files.
    """

    ends: np.ndarray  # tokens of the shard up to the end of each run
    starts: np.ndarray  # where each run begins among the tokens of the files


def ranges_bytes(ranges: int, files: int) -> int:
    """The size of a file of so many ranges over so many files."""
    return 16 * ranges + 32 * files


def write_ranges(path: str | Path, found: Ranges, digests: Iterable[str]) -> str:
    """Write a file of ranges. digests: sha256 of the files, in hex. Returns the sha256 of what was written."""
    arrays = [np.ascontiguousarray(array, "<i8") for array in found]
    parts = [*(memoryview(array).cast("B") for array in arrays if len(array)), *map(bytes.fromhex, digests)]
    digest = hashlib.sha256()
    with AtomicFile(path) as file:
        for part in parts:
            file.write(part)
            digest.update(part)
    return digest.hexdigest()


def open_ranges(path: str | Path, ranges: int, files: int) -> Ranges:
    """The ranges of a file as memory maps. Raises ShardError where it is missing, or not of that size."""
    check_ranges(path, ranges, files)
    if not ranges:
        return Ranges(np.zeros(0, "<i8"), np.zeros(0, "<i8"))
    both = np.memmap(path, "<i8", "r", shape=(2, ranges))
    return Ranges(np.asarray(both[0]), np.asarray(both[1]))


def check_ranges(path: str | Path, ranges: int, files: int) -> None:
    """Raise ShardError where a file of ranges is missing, or not of the size that so many take."""
    try:
        size = Path(path).stat().st_size
    except OSError as error:
        raise ShardError(f"{path}: the file of ranges cannot be read ({error.strerror}); mix the folder again") from None
    if size != ranges_bytes(ranges, files):
        raise ShardError(f"{path}: {size} bytes are not {ranges} ranges of {files} files; it is damaged: mix the folder again")


def sha256_file(path: str | Path) -> str:
    """The sha256 of a file, read in bounded pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one byte string that stands for a JSON value: keys sorted, no spaces, ASCII. Refuses NaN and infinity."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


# Keys of a manifest that decide no token: itself, what made it, what is known of its held-out documents,
_BESIDE = frozenset(("fingerprint", "made_by", "held_out"))
# and how the recipe was written. Manifests of before cover these too.
_RECIPE = frozenset(("name", "profile", "recipe_hash", "seed"))


def fingerprint(manifest: Mapping[str, Any], without: frozenset[str] = _BESIDE | _RECIPE) -> str:
    """sha256 over the canonical JSON of what of a manifest decides tokens and their order: shards, tokenizer, mixture.

    So it follows from the content: recipes that are written differently and make the same bytes have one fingerprint.
    """
    facts = {key: value for key, value in manifest.items() if key not in without}
    return hashlib.sha256(canonical_json(facts)).hexdigest()


def manifest_bytes(manifest: Manifest) -> bytes:
    """The manifest's file: indented JSON with sorted keys, the same bytes for the same facts. Checks the schema."""
    check_schema(manifest)
    return (json.dumps(manifest, sort_keys=True, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode()


def load_manifest(run_dir: str | Path) -> Manifest:
    """Read and check RUN/manifest.json. Raises ShardError: missing, damaged, of another version, or edited."""
    path = Path(run_dir) / MANIFEST
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ShardError(f"{path}: not found; {_without_manifest(Path(run_dir))}") from None
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror})") from None
    return parse_manifest(data, path)


def _without_manifest(folder: Path) -> str:
    if not folder.is_dir():
        return "there is no such folder: name a finished run, or make one with `python -m pipeline run RECIPE --out DIR`"
    if (folder / "export.json").exists():
        return "this is an export for other tools: name the run that it was made from"
    command = "pipeline run"
    if (folder / "import.json").exists():
        command = "pipeline import"
    elif (folder / "ordered").is_dir():
        command = "trainer materialize"
    return f"the run has not finished: start the same `python -m {command}` again, which goes on with it"


def parse_manifest(data: bytes, path: str | Path) -> Manifest:
    """Check the bytes of a manifest, as `load_manifest` does; `path` is what errors call it."""
    try:
        manifest = json.loads(data)
    except ValueError as error:
        raise ShardError(f"{path}: is not JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ShardError(f"{path}: is no {FORMAT} manifest")
    if manifest.get("version") != VERSION:
        raise ShardError(f"{path}: has version {manifest.get('version')!r}, this program reads version {VERSION}")
    try:
        check_schema(manifest)
        if np.dtype(manifest["dtype"]) not in (np.dtype("<u2"), np.dtype("<u4")):
            raise ShardError(f"dtype: must be uint16 or uint32, not {manifest['dtype']!r}")
        if sorted(manifest["mixture"]["sources"]) != sorted(manifest["sources"]):
            raise ShardError("mixture.sources: must name each of the sources once")
        _check_whole(manifest)
    except (ShardError, TypeError) as error:
        raise ShardError(f"{path}: {error}") from None
    found = fingerprint(manifest)
    if manifest["fingerprint"] not in (found, fingerprint(manifest, _BESIDE)):
        raise ShardError(
            f"{path}: was changed after the run wrote it "
            f"(fingerprint {found[:12]}, recorded {manifest['fingerprint'][:12]})"
        )
    return cast(Manifest, manifest)


def _check_whole(manifest: Mapping[str, Any]) -> None:
    """Raise ShardError where a shard is ranges of files that the manifest does not list."""
    for name, entry in manifest["sources"].items():
        for shard in (*entry["shards"], *entry["held_out"]["shards"]):
            of = shard.get("whole")
            if "ranges" in shard and of not in manifest.get("whole", {}):
                raise ShardError(f"sources.{name}: {shard['path']} is ranges of {of!r}, and `whole` has no such list")
