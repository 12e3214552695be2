"""fastText classifiers applied to text columns, from one read-only copy per machine.

A supervised fastText model averages one row of its input matrix for each word and n-gram, then multiplies the average
by its output matrix. Both are linear, so the product can be taken row by row, once, ahead of time: a row of 100 numbers
becomes one number for each class (or for each inner node of the tree of hierarchical softmax), and for two classes under
softmax one number, the second's lead over the first. That is exact but for the rounding of float32. Where a model
has more classes than dimensions, folding would make it larger: its rows stay as they are.

What comes of it is written once to a file in a cache folder, named by a hash of the model file's content, and mapped by
every process of the machine.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import mmap
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.cache import cache_root
from stages.document import text_buffers
from stages.errors import InputError, UserError
from stages.kernels.fasttext import sum_rows
from stages.kernels.fasttext_lines import join_lines
from stages.kernels.fasttext_output import BINARY, HIERARCHICAL, SOFTMAX, all_labels, top_labels
from stages.kernels.fasttext_table import ENTRY_SUMS, LEAST_ENTRIES, ROOM
from stages.kernels.fasttext_words import fill_slots
from stages.quality.fasttext_file import ModelFile, read_model_file

FORMAT = b"HRFOLD04"
ALIGNMENT = 64
ROWS_PER_BLOCK = 1 << 16
LAYERS = {"softmax": SOFTMAX, "hs": HIERARCHICAL, "ns": BINARY, "ova": BINARY}
DEFAULT_TABLE_BYTES = 32 << 20


def cache_folder() -> Path:
    """Where folded models lie."""
    return cache_root() / "fasttext"


@dataclass(frozen=True)
class Prediction:
    """For each document: the best label, its probability, and the probability of the label that was asked for."""

    label: np.ndarray  # int64: index into the model's labels; -1 where fastText has no answer (no known word at all)
    probability: np.ndarray  # float64; NaN without an answer
    of_wanted: np.ndarray  # float64; NaN without an answer, or where no label was asked for


@dataclass
class FastTextModel:
    """A folded model, mapped from its file in the cache."""

    labels: tuple[str, ...]
    settings: dict
    arrays: dict[str, np.ndarray]
    table_bytes: int = DEFAULT_TABLE_BYTES
    _table: tuple[np.ndarray, np.ndarray, np.ndarray, int] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def predict(self, column: pa.Array, newlines: int, wanted: int = -1) -> Prediction:
        """Classify every text of a `large_string` column as `fasttext.predict` would, k = 1.

        `newlines`: how line breaks are treated first (`NEWLINE_SPACE`, `NEWLINE_REMOVE`, `JOIN_LINES` of
        stages/kernels/fasttext_lines.py). `wanted`: index of a label whose probability is wanted besides.
        """
        sums, counts = self._sums(column, newlines)
        n, s, a = len(counts), self.settings, self.arrays
        label, probability, of_wanted = np.empty(n, np.int64), np.empty(n), np.empty(n)
        top_labels(
            sums, counts, s["width"], a["head"], s["outputs"], s["layer"], a["left"], a["right"], a["parent"],
            wanted, label, probability, of_wanted,
        )  # fmt: skip
        return Prediction(label, probability, of_wanted)

    def probabilities(self, column: pa.Array, newlines: int) -> np.ndarray:
        """The probability of every label, as `fasttext.predict` gives them with k = -1: float64 [texts, labels].

        NaN where fastText has no answer; the rest as for `predict`.
        """
        sums, counts = self._sums(column, newlines)
        s, a = self.settings, self.arrays
        out = np.empty(len(counts) * len(self.labels))
        all_labels(
            sums, counts, s["width"], a["head"], s["outputs"], s["layer"], a["left"], a["right"], a["parent"],
            len(self.labels), out,
        )  # fmt: skip
        return out.reshape(len(counts), len(self.labels))

    def _sums(self, column: pa.Array, newlines: int) -> tuple[np.ndarray, np.ndarray]:
        """The summed rows of each text (float64, texts * width), and how many they are (int64)."""
        data, offsets = text_buffers(column)
        n, s, a = len(offsets) - 1, self.settings, self.arrays
        sums, counts = np.zeros(n * s["width"]), np.zeros(n, np.int64)
        line, begins = join_lines(data, offsets, newlines, 1)
        with self._lock:  # the table of words is this object's only state that changes
            seen, used, keys, stride = self._word_table()
            sum_rows(
                line, begins, a["words"], a["word_offsets"], a["slots"], s["n_words"], s["end_word"],
                a["rows"], s["width"], s["bucket"], s["word_ngrams"], a["kept"], s["minn"], s["maxn"],
                seen, used, keys, stride, sums, counts,
            )  # fmt: skip
        return sums, counts

    def has_label(self, label: str) -> bool:
        """Whether there is this label, written with or without the prefix `__label__`."""
        return label in self.labels or f"__label__{label}" in self.labels

    def label_index(self, label: str) -> int:
        """Index of a label, written with or without the prefix `__label__`. Raises UserError where there is none."""
        for name in (label, f"__label__{label}"):
            if name in self.labels:
                return self.labels.index(name)
        shown = ", ".join(self.labels[:10]) + (", ..." if len(self.labels) > 10 else "")
        raise UserError(f"fastText model {self.settings['path']} has no label {label!r}; it has {shown}")

    def _word_table(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
        """The table of words that the kernel keeps, in `table_bytes`: (seen, used, keys, units of 8 bytes an entry)."""
        size = -(-(4 * ENTRY_SUMS + 4 * self.settings["width"]) // ALIGNMENT) * ALIGNMENT
        if self._table is None:
            wanted = max(LEAST_ENTRIES, self.table_bytes // (size + 24))  # 16 to 32 bytes of each are for `seen`
            entries = min(wanted, (1 << 31) // size)
            slots = 1 << (2 * entries - 1).bit_length()
            memory = np.empty(entries * size + ALIGNMENT, np.uint8)
            memory = memory[-memory.ctypes.data % ALIGNMENT :][: entries * size]
            used = np.full(1, ROOM * size // 8, np.int64)
            self._table = (np.zeros(slots, np.uint64), used, memory.view(np.uint64), size // 8)
        return self._table


def load_model(path: str | Path, *, cache: Path | None = None, table_bytes: int = DEFAULT_TABLE_BYTES) -> FastTextModel:
    """Map the folded form of a fastText model file, making it first where this machine has none.

    `table_bytes` limits the memory in which a model with character n-grams keeps the sums of words it has seen.
    Raises UserError where the file is absent or the cache folder cannot be written, InputError where the file is not a
    model that can be used.
    """
    source = Path(path)
    folder = cache or cache_folder()
    target = folder / f"{content_hash(source)}.{FORMAT.decode()}"
    model = _map(target, table_bytes)
    if model is None:
        folded = fold(read_model_file(source))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _locked(target.with_suffix(".lock")):
                model = _map(target, table_bytes)  # another process may have been first
                if model is None:
                    _write(target, *folded)
        except OSError as error:
            raise UserError(f"cannot write {target}: {error.strerror or error}; set HEADRACE_CACHE to a folder") from error
        model = model or _map(target, table_bytes)
    if model is None:
        raise UserError(f"{target} cannot be read back after it was written; delete it and check the disk")
    model.settings["path"] = str(source)
    return model


def content_hash(path: str | Path) -> str:
    """A hash (40 hex digits) of a model file's content. Raises UserError where it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            stat = os.fstat(file.fileno())
            return _content_hash(str(path), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    except OSError as error:
        raise UserError(f"fastText model {path}: {error.strerror or error}") from error


def model_content(path: str | Path) -> str:
    """What a step's results hang on: the hash of the model file's content; the path itself where it is not here (yet)."""
    return f"sha256:{content_hash(path)}" if Path(path).is_file() else str(path)


@lru_cache(maxsize=32)
def _content_hash(path: str, size: int, modified: int, inode: int) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:40]


def fold(source: ModelFile) -> tuple[dict, dict[str, np.ndarray]]:
    """(settings, arrays) of the folded form; the rows are float32 (rows * width).

    Raises InputError where the model holds numbers that are not finite.
    """
    layer = LAYERS[source.loss]
    outputs = len(source.labels) - (1 if layer == HIERARCHICAL else 0)
    weights = source.output.take(np.arange(outputs))
    difference = layer == SOFTMAX and outputs == 2
    folded = difference or outputs < source.dim
    if difference:
        weights = (weights[1].astype(np.float64) - weights[0])[None, :]
    width = len(weights) if folded else source.dim
    order, kept = _kept_buckets(source)
    rows = np.zeros((len(order), width), np.float32)
    for start in range(0, len(order), ROWS_PER_BLOCK):
        chosen = order[start : start + ROWS_PER_BLOCK]
        block = source.input.take(np.maximum(chosen, 0))
        block = block.astype(np.float64) @ weights.astype(np.float64).T if folded else block
        rows[start : start + len(chosen)] = np.where(chosen[:, None] < 0, 0, block)
        source.release()
        if not np.isfinite(rows[start : start + len(chosen)]).all():
            raise InputError(source.path, "the model's weights hold numbers that are not finite")
    if not np.isfinite(weights).all():
        raise InputError(source.path, "the model's weights hold numbers that are not finite")

    slots = np.zeros(_table_size(len(source.word_offsets) - 1), np.uint64)
    fill_slots(source.words, source.word_offsets, slots)
    fours = np.flatnonzero(np.diff(source.word_offsets[: source.n_words + 1]) == 4)
    ends = [word for word in fours if source.words[source.word_offsets[word] :][:4].tobytes() == b"</s>"]
    left, right, parent = huffman_tree(source.label_counts) if layer == HIERARCHICAL else (np.zeros(0, np.int32),) * 3
    settings = {
        "labels": list(source.labels), "n_words": source.n_words, "width": width, "outputs": outputs, "layer": layer,
        "bucket": source.bucket, "word_ngrams": source.word_ngrams, "minn": source.minn, "maxn": source.maxn,
        "end_word": int(ends[-1]) if ends else -1,
    }  # fmt: skip
    arrays = {
        "words": source.words, "word_offsets": source.word_offsets, "slots": slots, "kept": kept,
        "rows": rows.ravel(), "head": np.zeros(0, np.float32) if folded else weights.ravel(),
        "left": left, "right": right, "parent": parent,
    }  # fmt: skip
    return settings, arrays


def _kept_buckets(source: ModelFile) -> tuple[np.ndarray, np.ndarray]:
    """(the input rows in the order that the kernel wants, -1 for a row of zeros; the kernel's `kept`)."""
    n_words = source.n_words
    if source.pruned < 0:
        used = n_words + (source.bucket if source.word_ngrams > 1 or source.maxn > 0 else 0)
        return np.arange(used, dtype=np.int64), np.zeros(0, np.uint64)
    buckets, first = np.unique(source.prune_from[::-1], return_index=True)  # of two entries for one bucket the last
    rows = source.prune_to[::-1][first].astype(np.int64)
    bits = np.zeros(-(-source.bucket // 32), np.uint64)
    np.bitwise_or.at(bits, buckets >> 5, np.uint64(1) << (buckets & 31).astype(np.uint64))
    before = np.concatenate([[0], np.cumsum(np.bitwise_count(bits), dtype=np.uint64)[:-1]]).astype(np.uint64)
    kept = bits << np.uint64(32) | (before + np.uint64(1))
    return np.concatenate([np.arange(n_words), [-1], n_words + rows]), kept


def huffman_tree(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The tree of hierarchical softmax over labels in order of falling count: (left, right, parent), int32, -1: none.

    As `HierarchicalSoftmaxLoss::buildTree` (fastText, src/loss.cc): leaves are 0..n-1, inner nodes n..2n-2, the root last.
    """
    leaves = len(counts)
    total = [int(c) for c in counts] + [10**15] * (leaves - 1)
    left, right, parent = (np.full(2 * leaves - 1, -1, np.int32) for _ in range(3))
    leaf, node = leaves - 1, leaves
    for inner in range(leaves, 2 * leaves - 1):
        pair = []
        for _ in range(2):
            if leaf >= 0 and total[leaf] < total[node]:
                pair.append(leaf)
                leaf -= 1
            else:
                pair.append(node)
                node += 1
        left[inner], right[inner] = pair
        parent[pair] = inner
        total[inner] = total[pair[0]] + total[pair[1]]
    return left, right, parent


def _table_size(entries: int) -> int:
    """Slots of an open-addressing table, a power of two that the entries fill at most to a half."""
    return 1 << max(1, (2 * entries - 1).bit_length() if entries else 1)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _write(target: Path, settings: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write the folded model and put it in place in one step: format mark, length of the JSON, JSON, aligned arrays."""
    places, at = {}, 0
    for name, array in arrays.items():
        places[name] = [at, str(array.dtype), len(array)]
        at += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    text = json.dumps({"settings": settings, "arrays": places, "bytes": at}).encode()
    text += b" " * (-(16 + len(text)) % ALIGNMENT)
    temporary = target.with_suffix(f".{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(FORMAT + len(text).to_bytes(8, "little") + text)
            for array in arrays.values():
                file.write(memoryview(np.ascontiguousarray(array)).cast("B") if array.nbytes else b"")
                file.write(b"\0" * (-array.nbytes % ALIGNMENT))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _map(target: Path, table_bytes: int) -> FastTextModel | None:
    """Map a folded model; None where there is none, or it is not whole."""
    try:
        with target.open("rb") as file:
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        return None
    if memory[:8] != FORMAT:
        return None
    begin = 16 + int.from_bytes(memory[8:16], "little")
    try:
        header = json.loads(memory[16:begin])
    except ValueError:
        return None
    if len(memory) != begin + header["bytes"]:
        return None
    arrays = {
        name: np.frombuffer(memory, np.dtype(dtype), count, begin + at) if count else _empty(dtype)
        for name, (at, dtype, count) in header["arrays"].items()
    }
    settings = header["settings"]
    return FastTextModel(tuple(settings.pop("labels")), settings, arrays, table_bytes)


def _empty(dtype: str) -> np.ndarray:
    array = np.zeros(0, np.dtype(dtype))
    array.flags.writeable = False
    return array
