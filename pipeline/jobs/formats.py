"""The jobs between token formats: one shard of a run to another tool's files, and one of those files to token files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import storage
from pipeline.task import Context
from stages.errors import UserError
from stages.tokens.adopt import adopt
from stages.tokens.formats import datatrove, jsonl, megatron, olmo, parquet
from stages.tokens.formats.block import Block, blocks, bounded, rows_by_end_token
from stages.tokens.shard_format import ShardError
from stages.tokens.token_bytes import TokenBytes
from stages.tokens.tokenizer import Tokenizer, load_tokenizer

EXPORT_VERSION = 1
IMPORT_VERSION = 1
SPLITS = ("train", "held_out")


def export_shard(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Write one shard of a run in another format; what was read is checked against the manifest before it appears."""
    shard, kind, dtype, eos = spec["shard"], spec["format"], np.dtype(spec["dtype"]), spec["eos_id"]
    names: list[str] = spec["writes"]
    try:
        with ExitStack() as stack:
            decoder = None
            if spec["text"]:
                uri = storage.join(spec["run"], spec["tokenizer"])
                decoder = _decoder(stack.enter_context(storage.pinned(uri, context.cache)), spec["sha256"])[1]
            stream = stack.enter_context(storage.open_stream(storage.join(spec["run"], shard["path"])))
            index_uri = storage.join(spec["run"], shard["index"])
            found = olmo.read_shard(stream, lambda: storage.open_stream(index_uri), shard, dtype, spec["vocab_size"])
            paths = [stack.enter_context(context.output(name)) for name in names]
            if kind == "parquet":
                documents, tokens = parquet.write_parquet(found, paths[0], spec["source"], dtype, eos, decoder)
            else:
                files = [stack.enter_context(path.open("wb")) for path in paths]
                if kind == "datatrove":
                    documents, tokens = datatrove.write_datatrove(found, files[0], files[1])
                    files[2].write(datatrove.metadata(spec["tokenizer"], dtype, tokens))
                elif kind == "megatron":
                    documents = shard["documents"]
                    tokens = megatron.write_megatron(found, files[0], files[1], documents, dtype)
                else:
                    out = stack.enter_context(jsonl.compressed(files[0], spec["compression"]))
                    documents, tokens = jsonl.write_jsonl(found, out, spec["source"], eos, decoder, spec["tokens"])
    except ShardError as error:
        raise UserError(f"{spec['run']}: {error}") from None
    return {"source": spec["source"], "documents": documents, "tokens": tokens}


def import_file(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Take in one file of tokens made elsewhere: training and held-out documents apart, as token files of a part."""
    with ExitStack() as stack:
        path = stack.enter_context(context.local(spec["tokenizer"]))
        tokenizer, decoder = _decoder(path, spec["sha256"], spec["eos_token"], spec["pad_token"])
        if spec["as_run"] and not decoder.exact:
            raise UserError(
                "--held-out-as needs a byte-level tokenizer: of others, a document's text is not known exactly"
            )
        try:
            found = adopt(
                _opened(spec, tokenizer, stack),
                tokenizer,
                decoder,
                context.scratch / "tokens",
                spec["file"],
                spec["held_out"],
                spec["salt"],
                spec["append_eos"],
            )
        except ShardError as error:
            raise UserError(str(error)) from None
    files = {}
    for split, written in zip(SPLITS, (found.train, found.held_out), strict=True):
        names = {"tokens_path": f"{spec['prefix']}.{split}.tokens", "index_path": f"{spec['prefix']}.{split}.parquet"}
        for field, name in names.items():
            with context.output(name) as target:
                Path(getattr(written, field)).replace(target)
        files[split] = written.to_json() | names
    return {
        "source": spec["source"],
        "books": [found.books.to_json()],
        "files": files,
        "ended": found.ended,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "pad_id": tokenizer.pad_id,
        "sha256": tokenizer.sha256,
    }


def _opened(spec: dict[str, Any], tokenizer: Tokenizer, stack: ExitStack) -> Iterator[Block]:
    """The documents of the file, whatever its format."""
    uri, index, kind = spec["file"], spec["index"], spec["format"]
    fields = {"tokens_field": spec["tokens_field"], "id_field": spec["id_field"]}
    if kind == "parquet":
        yield from parquet.read_parquet(stack.enter_context(storage.open_random(uri)), uri, **fields)
        return
    stream = stack.enter_context(storage.open_stream(uri))
    if kind == "jsonl":
        yield from jsonl.read_jsonl(stream, uri, **fields)
        return
    dtype = np.dtype(spec["dtype"]).newbyteorder("<") if spec["dtype"] else tokenizer.dtype
    if kind == "megatron":
        opened = stack.enter_context(storage.open_random(index))
        head = megatron.read_head(opened, index)
        dtype, rows = head.dtype, megatron.rows_of_index(opened, head, index, uri)
    elif kind == "datatrove":
        if spec["metadata"]:
            size = datatrove.read_metadata(storage.read_bytes(spec["metadata"]), spec["metadata"])
            dtype = np.dtype(f"<u{size}")
        rows = datatrove.rows_of_index(stack.enter_context(storage.open_stream(index)), index, uri) if index else None
    else:
        with storage.open_stream(uri, 0, 6) as head_bytes:
            if head_bytes.read(6) == b"\x93NUMPY":
                raise ShardError(
                    f"{uri}: has a numpy header, and OLMo's .npy have none; write it anew with array.tofile(...)"
                )
        rows = olmo.rows_of_index(lambda: storage.open_stream(index), index, uri) if index else None
    if rows is None:
        scan = stack.enter_context(storage.open_stream(uri))
        rows = rows_by_end_token(scan, dtype, tokenizer.eos_id, uri)
    yield from blocks(stream, dtype, bounded(rows, uri), uri)


_LOADED: dict[tuple, tuple[Tokenizer, TokenBytes]] = {}


def _decoder(
    path: Path, sha256: str, eos_token: str | None = None, pad_token: str | None = None
) -> tuple[Tokenizer, TokenBytes]:
    """The tokenizer and its table of bytes, loaded once a process."""
    key = (sha256, eos_token, pad_token)
    if key not in _LOADED:
        _LOADED.clear()
        loaded = load_tokenizer(path, engine="tokenizers", eos_token=eos_token, pad_token=pad_token)
        _LOADED[key] = loaded, TokenBytes(loaded.reference.tokenizer)
    return _LOADED[key]
