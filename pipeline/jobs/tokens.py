"""The jobs from documents to shards: train a tokenizer on a sample, tokenize one part, write one shard."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.jobs.inputs import part_batches
from pipeline.jobs.sample import sampled
from pipeline.task import Context, file_digest
from stages.books import StepBooks
from stages.document import payload_sizes
from stages.parts import PartWriter, dropped_schema, total_bytes
from stages.tokens.shard import Piece, write_shard
from stages.tokens.token_file import TokenFile
from stages.tokens.tokenize import tokenize_part
from stages.tokens.tokenizer import EncodeRules, Tokenizer, load_tokenizer
from stages.tokens.train_tokenizer import train_tokenizer

PURPOSE = "tokenizer"  # what documents are sampled for
TRAIN_VERSION = 1
TOKENIZE_VERSION = 2
SHARD_VERSION = 1
COLUMNS = ["id", "text", "url", "file", "record", "offset"]
SPLITS = ("train", "held_out")


def train(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Train the run's tokenizer on documents of all parts, chosen by hash of their ids, in canonical order."""

    def texts() -> Iterator[str]:
        for batch in sampled(spec["parts"], PURPOSE, spec["batch_bytes"], context):
            for text in batch.column("text"):
                yield text.as_py()

    with context.output(spec["output"]) as path:
        used = train_tokenizer(texts(), path, spec["vocab_size"], spec["max_bytes"])
    return {"bytes": used, "path": spec["output"]}


def copy_tokenizer(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Bring the recipe's tokenizer into the run's folder, so that shards and tokenizer travel together."""
    from pipeline import storage

    source = storage.fetch(spec["uri"], context.cache)
    with context.output(spec["output"]) as path:
        path.write_bytes(Path(source).read_bytes())
    return {"path": spec["output"]}


def tokenize(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Tokenize the documents of one part that dedup left, training and held-out documents apart."""
    rules = EncodeRules.model_validate(spec["rules"])
    intake = StepBooks("dedup")
    prefix = spec["prefix"]
    with ExitStack() as stack:
        tokenizer_path = stack.enter_context(context.local(spec["tokenizer"]))
        tokenizer = _loaded(tokenizer_path, spec["engine"], spec["eos_token"], spec["pad_token"], rules)
        dropped_path = stack.enter_context(context.output(f"{prefix}.dropped.parquet"))
        schema = pa.schema(
            [
                (name, pa.large_string() if name in ("id", "url", "file") else pa.int64())
                for name in COLUMNS
                if name != "text"
            ]
        )
        dropped_file = stack.enter_context(PartWriter(dropped_path, dropped_schema(schema, with_text=False)))
        batches = _remaining(spec, context, tokenizer, intake, dropped_file)
        local = context.scratch / "tokens"
        part = tokenize_part(batches, tokenizer, local, spec["held_out"], spec["salt"])
    files = {}
    for split, written in zip(SPLITS, (part.train, part.held_out), strict=True):
        names = {"tokens_path": f"{prefix}.{split}.tokens", "index_path": f"{prefix}.{split}.parquet"}
        for field, name in names.items():
            with context.output(name) as path:
                Path(getattr(written, field)).replace(path)
        files[split] = written.to_json() | names
    return {
        "source": spec["source"],
        "stage": spec["stage"],
        "books": [intake.to_json(), part.books.to_json()],
        "failed_documents": 0,
        "files": files,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        "sha256": tokenizer.sha256,
        "engine": tokenizer.engine.name,
        "fallback": tokenizer.fallback,
        "dropped": f"{prefix}.dropped.parquet",
    }


_TOKENIZERS: dict[tuple, Tokenizer] = {}


def _loaded(path: Path, engine: Any, eos_token: str | None, pad_token: str | None, rules: EncodeRules) -> Tokenizer:
    """The tokenizer, loaded once a process: that takes half a second, and its cache of words has to warm up."""
    key = (file_digest(path), engine, eos_token, pad_token, rules)
    if key not in _TOKENIZERS:
        _TOKENIZERS.clear()
        _TOKENIZERS[key] = load_tokenizer(path, engine=engine, eos_token=eos_token, pad_token=pad_token, rules=rules)
    return _TOKENIZERS[key]


def _remaining(
    spec: dict[str, Any], context: Context, tokenizer: Tokenizer, intake: StepBooks, dropped_file: PartWriter
) -> Iterator[pa.RecordBatch]:
    """The documents that are tokenized; duplicates and empty ones are entered in the books and put on record."""
    intake.into.add(0, spec["edited"])
    intake.edited += spec["edited"]
    for _, kept, gone in part_batches(spec["part"], spec["removals"], context, spec["batch_bytes"], COLUMNS):
        intake.into.add(kept.num_rows + gone.num_rows, total_bytes(kept) + total_bytes(gone))
        if tokenizer.rules.skip_empty and kept.num_rows:
            empty = np.asarray(pc.equal(pc.binary_length(tokenizer.prepare(kept.column("text"))), 0))
            if empty.any():
                bare = kept.filter(pa.array(empty))
                _record(bare, ["tokenize.skip_empty"] * bare.num_rows, None, intake, dropped_file)
                kept = kept.filter(pa.array(~empty))
        if gone.num_rows:
            _record(gone, gone.column("reason").to_pylist(), gone.column("representative"), intake, dropped_file)
        intake.out.add(kept.num_rows, total_bytes(kept))
        yield kept


def _record(
    gone: pa.RecordBatch, reasons: list[str], representative: pa.Array | None, intake: StepBooks, file: PartWriter
) -> None:
    sizes = payload_sizes(gone)
    for reason, size in zip(reasons, sizes, strict=True):
        intake.dropped[reason].add(1, int(size))
    columns = {name: gone.column(name) for name in COLUMNS if name != "text"}
    columns |= {"bytes": pa.array(sizes, pa.int64()), "reason": pa.array(reasons, pa.large_string())}
    if representative is not None:
        columns["representative"] = representative
    file.write(pa.RecordBatch.from_pydict(columns))


def shard(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Write one shard of a source from runs of documents in its token files."""
    with ExitStack() as stack:
        files = []
        for file in spec["files"]:
            local = {
                field: str(stack.enter_context(context.local(file[field]))) for field in ("tokens_path", "index_path")
            }
            files.append(TokenFile(**(file | local)))
        pieces = [Piece(*piece) for piece in spec["pieces"]]
        path = stack.enter_context(context.output(spec["path"]))
        index = stack.enter_context(context.output(spec["index"]))
        entry = write_shard(files, pieces, path, index, np.dtype(spec["dtype"]))
    return {"shard": entry}
