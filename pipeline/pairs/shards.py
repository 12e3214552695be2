"""Shards of pairs: beside the tokens and the index (stages/tokens/shard_format.py) stand three more files.

NAME.mask.npy      uint8, one a token: 1 where it is of an answer and learned. Raw, as tokens are.
NAME.pairs.npy     int64 [sequences, 4], raw: first token, end token, role (conversation.ROLES), number of the pair.
                   A pair's sequences follow one another, and are in one shard.
NAME.records.jsonl.gz   one line a sequence: id, prompt, answer, and the record's other fields.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pipeline.pairs.conversation import ROLES, Pair
from pipeline.pairs.encode import Encoded
from stages.tokens.manifest import shard_names
from stages.tokens.manifest_shape import ShardEntry
from stages.tokens.shard_format import AtomicFile, sha256_file


class ShardWriter:
    """Writes the pairs of one split into shards of about `shard_bytes` of tokens."""

    def __init__(self, folder: Path, source: str, split: str, shard_bytes: int) -> None:
        self.folder, self.source, self.split, self.shard_bytes = folder, source, split, shard_bytes
        self.entries: list[ShardEntry] = []
        self.pairs = 0
        self._open: _Shard | None = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        if error[0] is None:
            self._close()
        else:
            self._stack.__exit__(*error)

    def add(self, pair: Pair, sequences: list[Encoded]) -> None:
        """Append a pair."""
        size = sum(sequence.tokens.nbytes for sequence in sequences)
        if self._open is not None and self._open.bytes + size > self.shard_bytes:
            self._close()
        if self._open is None:
            names = shard_names(self.source, len(self.entries), self.split)
            self._open = self._stack.enter_context(_open(self.folder, *names))
        for conversation, role, sequence in zip(pair.conversations, pair.roles, sequences, strict=True):
            self._open.add(pair, conversation, role, sequence, self.pairs)
        self.pairs += 1

    def _close(self) -> None:
        if self._open is not None:
            shard, self._open = self._open, None
            self._stack.close()
            self.entries.append(shard.entry(sha256_file(self.folder / shard.names["index"])))


@contextlib.contextmanager
def _open(folder: Path, path: str, index: str) -> Iterator[_Shard]:
    stem = path.removesuffix(".npy")
    names = {
        "path": path,
        "index": index,
        "mask": f"{stem}.mask.npy",
        "pairs": f"{stem}.pairs.npy",
        "records": f"{stem}.records.jsonl.gz",
    }
    with contextlib.ExitStack() as stack:
        raw = {key: stack.enter_context(AtomicFile(folder / name)) for key, name in names.items()}
        texts = {key: stack.enter_context(_packed_text(raw[key])) for key in ("index", "records")}
        yield _Shard(names, raw, texts)


@contextlib.contextmanager
def _packed_text(file: BinaryIO) -> Iterator[io.TextIOWrapper]:
    with (
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=file, mtime=0) as packed,
        io.TextIOWrapper(io.BufferedWriter(packed, 1 << 18), "utf-8", newline="") as text,
    ):
        yield text


class _Shard:
    """The open files of one shard."""

    def __init__(
        self, names: dict[str, str], raw: dict[str, io.BufferedWriter], texts: dict[str, io.TextIOWrapper]
    ) -> None:
        self.names, self._raw, self._texts = names, raw, texts
        self._index = csv.writer(texts["index"], lineterminator="\n")
        self._digests = {key: hashlib.sha256() for key in ("path", "mask", "pairs")}
        self.bytes = self.tokens = self.documents = self.text_bytes = self.answer_tokens = 0

    def add(self, pair: Pair, messages: list[dict[str, str]], role: str, sequence: Encoded, number: int) -> None:
        first, self.tokens = self.tokens, self.tokens + len(sequence.tokens)
        self._put("path", sequence.tokens)
        self._put("mask", sequence.mask)
        self._put("pairs", np.array([first, self.tokens, ROLES.index(role), number], "<i8"))
        name = pair.id if len(pair.roles) == 1 else f"{pair.id}#{role}"
        self._index.writerow((first, self.tokens, name, pair.file, pair.record))
        facts = {"id": pair.id, "role": role, "prompt": pair.prompt, "answer": messages[-1]["content"]}
        facts |= {"cut": sequence.cut, "fields": pair.fields}
        self._texts["records"].write(json.dumps(facts, ensure_ascii=False, default=str) + "\n")
        self.documents += 1
        self.text_bytes += sequence.text_bytes
        self.answer_tokens += int(sequence.mask.sum())
        self.bytes += sequence.tokens.nbytes

    def _put(self, key: str, values: np.ndarray) -> None:
        data = np.ascontiguousarray(values).tobytes()
        self._raw[key].write(data)
        self._digests[key].update(data)

    def entry(self, index_sha256: str) -> ShardEntry:
        """The shard's entry in the manifest."""
        return ShardEntry(
            path=self.names["path"],
            index=self.names["index"],
            tokens=self.tokens,
            documents=self.documents,
            text_bytes=self.text_bytes,
            sha256=self._digests["path"].hexdigest(),
            index_sha256=index_sha256,
            mask=self.names["mask"],
            mask_sha256=self._digests["mask"].hexdigest(),
            pairs=self.names["pairs"],
            pairs_sha256=self._digests["pairs"].hexdigest(),
            records=self.names["records"],
            answer_tokens=self.answer_tokens,
        )
