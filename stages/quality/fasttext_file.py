"""Reads fastText's model files, `.bin` and quantized `.ftz`, as `FastText::loadModel` does.

The layout (github.com/facebookresearch/fastText, src/fasttext.cc, args.cc, dictionary.cc, densematrix.cc, quantmatrix.cc,
productquantizer.cc), all little-endian: magic and version; the training arguments; the dictionary (words, then labels,
each with its count and kind; then the buckets that pruning kept); the input matrix, dense or product-quantized; the
output matrix, likewise. The file is mapped, not read: matrices come out in blocks of rows.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from stages.errors import InputError, UserError
from stages.kernels.fasttext_words import copy_words, scan_dictionary

MAGIC = 793712314
VERSIONS = (11, 12)
LOSSES = {1: "hs", 2: "ns", 3: "softmax", 4: "ova"}
LONGEST_NGRAM = 256  # words or characters; memory for one block of text grows with it
MOST_PRUNED_BUCKETS = 1 << 28  # a pruned model says nothing of the buckets it lacks: each takes a bit or two here
CENTROIDS = 256  # of each sub-quantizer: codes are bytes


@dataclass(frozen=True)
class Matrix:
    """A matrix in the file: dense (`codes` is None) or product-quantized."""

    rows: int
    dim: int
    dense: np.ndarray | None  # float32 (rows * dim), mapped
    codes: np.ndarray | None = None  # uint8 (rows * sub-quantizers), mapped
    centroids: np.ndarray | None = None  # float32 (dim * 256)
    sub_dim: int = 0
    norm_codes: np.ndarray | None = None  # uint8 (rows)
    norms: np.ndarray | None = None  # float32 (256)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The given rows (int64), as float32 (len(rows), dim)."""
        if self.dense is not None:
            return self.dense.reshape(-1, self.dim)[rows]
        assert self.codes is not None and self.centroids is not None  # a matrix that is not dense is quantized
        parts = (self.dim + self.sub_dim - 1) // self.sub_dim
        codes = self.codes.reshape(-1, parts)[rows]
        out = np.empty((len(rows), self.dim), np.float32)
        for part in range(parts):
            begin = part * self.sub_dim
            size = min(self.sub_dim, self.dim - begin)
            table = self.centroids[begin * CENTROIDS : (begin + size) * CENTROIDS].reshape(CENTROIDS, size)
            out[:, begin : begin + size] = table[codes[:, part]]
        if self.norm_codes is not None and self.norms is not None:
            out *= self.norms[self.norm_codes[rows]][:, None]
        return out


@dataclass(frozen=True)
class ModelFile:
    """A supervised fastText model, as its file holds it."""

    path: str
    dim: int
    word_ngrams: int
    loss: str
    bucket: int
    minn: int
    maxn: int
    words: np.ndarray  # uint8: the dictionary's words, then its labels, end to end
    word_offsets: np.ndarray  # int64 (words + labels + 1)
    labels: tuple[str, ...]
    label_counts: np.ndarray  # int64 (labels): how often each stood in the training data
    pruned: int  # -1: not pruned; 0: pruned of all buckets; 1: `prune_from` -> `prune_to`
    prune_from: np.ndarray  # int32
    prune_to: np.ndarray  # int32
    input: Matrix
    output: Matrix
    memory: mmap.mmap  # the file: what the arrays above are views of

    def release(self) -> None:
        """Give back the memory of what has been read of the file; reading on reads it again."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self.memory.madvise(mmap.MADV_DONTNEED)

    @property
    def n_words(self) -> int:
        """Words in the dictionary, without the labels."""
        return len(self.word_offsets) - 1 - len(self.labels)


class _Cursor:
    """A place in the mapped file; every read is checked against the file's end."""

    def __init__(self, path: str, data: np.ndarray) -> None:
        self.path, self.data, self.at = path, data, 0

    def fail(self, reason: str) -> InputError:
        return InputError(self.path, f"not a fastText model that can be used: {reason}", offset=self.at)

    def take(self, size: int, what: str) -> np.ndarray:
        if size < 0 or self.at + size > len(self.data):
            raise self.fail(f"the file ends within {what}")
        self.at += size
        return self.data[self.at - size : self.at]

    def numbers(self, layout: str, what: str) -> tuple:
        return struct.unpack(layout, self.take(struct.calcsize(layout), what).tobytes())

    def array(self, dtype: type, count: int, what: str) -> np.ndarray:
        size = np.dtype(dtype).itemsize
        return np.frombuffer(self.take(count * size, what), dtype)


def read_model_file(path: str | Path) -> ModelFile:
    """Open a supervised fastText model file.

    Raises UserError where there is no such file, InputError where it is truncated, is no fastText model, or is of a
    kind that is not supported (an unsupervised model, another version).
    """
    path = str(path)
    try:
        with Path(path).open("rb") as file:
            size = file.seek(0, 2)
            memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else mmap.mmap(-1, 1)
    except OSError as error:
        raise UserError(f"fastText model {path}: {error.strerror or error}") from error
    cursor = _Cursor(path, np.frombuffer(memory, np.uint8)[:size])
    magic, version = cursor.numbers("<ii", "the header")
    if magic != MAGIC:
        raise cursor.fail("it does not begin with fastText's mark (a model of before 2017, or another kind of file)")
    if version not in VERSIONS:
        raise cursor.fail(f"format version {version}; known are {VERSIONS[0]} and {VERSIONS[1]}")
    shape = _read_shape(cursor, version)
    words = _read_dictionary(cursor)
    pairs = cursor.array(np.int32, 2 * max(words.prune_size, 0), "the pruned buckets").reshape(-1, 2)
    inputs, output = _read_matrices(cursor, words.prune_size)
    _check_rows(cursor, shape, words, pairs, inputs, output)
    return ModelFile(
        path=path,
        dim=shape.dim,
        word_ngrams=max(shape.word_ngrams, 1),
        loss=LOSSES[shape.loss],
        bucket=shape.bucket,
        minn=shape.minn,
        maxn=shape.maxn,
        words=words.text,
        word_offsets=words.offsets,
        labels=words.labels,
        label_counts=words.label_counts,
        pruned=-1 if words.prune_size < 0 else int(words.prune_size > 0),
        prune_from=np.ascontiguousarray(pairs[:, 0]),
        prune_to=np.ascontiguousarray(pairs[:, 1]),
        input=inputs,
        output=output,
        memory=memory,
    )


@dataclass(frozen=True)
class _Shape:
    """What the training arguments say of the model."""

    dim: int
    word_ngrams: int
    loss: int
    bucket: int
    minn: int
    maxn: int

    @property
    def has_ngrams(self) -> bool:
        return self.word_ngrams > 1 or self.maxn > 0


def _read_shape(cursor: _Cursor, version: int) -> _Shape:
    args = cursor.numbers("<12id", "the training arguments")
    dim, word_ngrams, loss, model, bucket, minn, maxn = args[0], args[5], args[6], args[7], args[8], args[9], args[10]
    if model != 3:
        raise cursor.fail("it holds word vectors, not a supervised classifier")
    if loss not in LOSSES:
        raise cursor.fail(f"unknown loss number {loss}")
    if dim < 1:
        raise cursor.fail(f"its vectors have {dim} dimensions")
    if version == 11:
        maxn = 0  # supervised models of that version say otherwise, but were trained without character n-grams
    if word_ngrams > LONGEST_NGRAM or maxn > LONGEST_NGRAM:
        raise cursor.fail(f"n-grams of {max(word_ngrams, maxn)}; up to {LONGEST_NGRAM} are supported")
    shape = _Shape(dim, word_ngrams, loss, bucket, minn, maxn)
    if bucket < 1 and shape.has_ngrams:
        raise cursor.fail("it uses n-grams, yet has no buckets for them")
    return shape


@dataclass(frozen=True)
class _Dictionary:
    """Words, then labels, end to end; prune_size: buckets that pruning kept, below 0 where there was none."""

    text: np.ndarray
    offsets: np.ndarray
    n_words: int
    labels: tuple[str, ...]
    label_counts: np.ndarray
    prune_size: int


def _read_dictionary(cursor: _Cursor) -> _Dictionary:
    entries, n_words, n_labels, _, prune_size = cursor.numbers("<iiiqq", "the dictionary")
    if min(entries, n_words, n_labels) < 0 or n_words + n_labels != entries or n_labels == 0:
        raise cursor.fail(f"a dictionary of {entries} entries with {n_words} words and {n_labels} labels")
    if entries * 10 > len(cursor.data):
        raise cursor.fail("the file ends within the dictionary")
    starts, counts, kinds = np.zeros(entries, np.int64), np.zeros(entries, np.int64), np.zeros(entries, np.uint8)
    end = scan_dictionary(cursor.data, cursor.at, starts, counts, kinds)
    if end < 0:
        raise cursor.fail("the file ends within the dictionary")
    if kinds[:n_words].any() or not (kinds[n_words:] == 1).all():
        raise cursor.fail("words and labels are mixed in its dictionary")
    ends = np.append(starts[1:], end) - 10
    offsets = np.concatenate([[0], np.cumsum(ends - starts)]).astype(np.int64)
    words = np.empty(offsets[-1], np.uint8)
    copy_words(cursor.data, starts, offsets, words)
    cursor.at = int(end)
    spans = [words[offsets[i] : offsets[i + 1]] for i in range(n_words, entries)]
    labels = tuple(span.tobytes().decode("utf-8", "replace") for span in spans)
    return _Dictionary(words, offsets, n_words, labels, counts[n_words:], prune_size)


def _read_matrices(cursor: _Cursor, prune_size: int) -> tuple[Matrix, Matrix]:
    """The matrices of words and of labels."""
    quantized = cursor.numbers("<?", "the input matrix")[0]
    if prune_size >= 0 and not quantized:
        raise cursor.fail("a pruned dictionary over a matrix that is not quantized, which fastText refuses too")
    inputs = _read_matrix(cursor, quantized, "the input matrix")
    quantized_output = cursor.numbers("<?", "the output matrix")[0]
    return inputs, _read_matrix(cursor, quantized and quantized_output, "the output matrix")


def _check_rows(
    cursor: _Cursor, shape: _Shape, words: _Dictionary, pairs: np.ndarray, inputs: Matrix, output: Matrix
) -> None:
    """Whether the matrices have a row for whatever may be looked up."""
    needed = words.n_words + (shape.bucket if words.prune_size < 0 and shape.has_ngrams else 0)
    if words.prune_size >= 0 and shape.bucket > MOST_PRUNED_BUCKETS:
        raise cursor.fail(f"pruned from {shape.bucket} buckets; up to {MOST_PRUNED_BUCKETS} are supported")
    if words.prune_size > 0:
        needed = words.n_words + int(pairs[:, 1].max()) + 1
        if pairs.min() < 0 or pairs[:, 0].max() >= shape.bucket:
            raise cursor.fail(f"a pruned bucket outside of 0 to {shape.bucket}")
    if inputs.rows < needed or output.rows < len(words.labels) or not inputs.dim == output.dim == shape.dim:
        raise cursor.fail(
            f"matrices of {inputs.rows} x {inputs.dim} and {output.rows} x {output.dim} do not go with {needed} rows, "
            f"{len(words.labels)} labels and {shape.dim} dimensions"
        )


def _read_matrix(cursor: _Cursor, quantized: bool, what: str) -> Matrix:
    if not quantized:
        rows, dim = cursor.numbers("<qq", what)
        if rows < 0 or dim < 1:
            raise cursor.fail(f"{what} has {rows} rows of {dim}")
        return Matrix(rows, dim, cursor.array(np.float32, rows * dim, what))
    has_norms, rows, dim, code_bytes = cursor.numbers("<?qqi", what)
    if rows < 0 or dim < 1 or code_bytes < 0:
        raise cursor.fail(f"{what} has {rows} rows of {dim} in {code_bytes} bytes of codes")
    codes = cursor.take(code_bytes, what)
    parts, sub_dim, centroids = _read_quantizer(cursor, dim, what)
    if parts * rows != code_bytes:
        raise cursor.fail(f"{what} has {code_bytes} bytes of codes for {rows} rows of {parts}")
    if not has_norms:
        return Matrix(rows, dim, None, codes, centroids, sub_dim)
    norm_codes = cursor.take(rows, what)
    _, _, norms = _read_quantizer(cursor, 1, what)
    return Matrix(rows, dim, None, codes, centroids, sub_dim, norm_codes, norms)


def _read_quantizer(cursor: _Cursor, dim: int, what: str) -> tuple[int, int, np.ndarray]:
    """(sub-quantizers, dimensions of each but perhaps the last, centroids) of a product quantizer over `dim`."""
    found, parts, sub_dim, last = cursor.numbers("<iiii", what)
    if found != dim or sub_dim < 1 or parts != -(-dim // sub_dim) or last != dim - sub_dim * (parts - 1):
        raise cursor.fail(f"{what} has a quantizer of {parts} parts of {sub_dim} (last {last}) for {dim} dimensions")
    return parts, sub_dim, cursor.array(np.float32, dim * CENTROIDS, what)
