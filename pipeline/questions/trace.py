"""From a token back to its text: which document holds it, and the source file and record that this was read from.

An index is read in batches up to the document, never a whole shard: a few MiB of memory, whatever the shard holds.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec
import numpy as np
from rich.console import Console
from rich.text import Text

from pipeline import storage
from pipeline.mixture.shard_tokens import open_shard
from pipeline.program import program
from pipeline.run_folder.folder import PAIRS, RUN
from pipeline.run_folder.manifest import SPLITS, read_corpus, run_tokenizer, shards_of
from pipeline.tables import line
from stages.errors import UserError
from stages.tokens.index_table import read_index_batches
from stages.tokens.manifest import RANGES
from stages.tokens.manifest_shape import Manifest, ShardEntry
from stages.tokens.shard_format import ShardError

CONTEXT = 48  # tokens shown on each side
SPLIT_CHARACTER = 4  # tokens that one character may be cut into


@dataclass(frozen=True)
class Found:
    """A document of a shard: its row (from 1), its tokens in the shard, and where it was read."""

    number: int
    start: int
    end: int
    id: str
    file: str
    record: int


class DocumentOfToken(msgspec.Struct, frozen=True):
    """The document that holds a token: its row in the index (from 1), its tokens in the shard, the token's place in it."""

    id: str
    number: int
    first_token: int
    end_token: int
    position: int


class Traced(msgspec.Struct, frozen=True, kw_only=True):
    """A token, its document, and where that was read. before, text, after: what is around it, the token, and behind it.

    window: the tokens of the shard that these hold. why: the command that tells the document's way, where there is one.
    """

    run: str
    shard: str
    split: str
    source: str
    offset: int
    token: int
    document: DocumentOfToken
    file: str
    record: int
    before: str
    text: str
    after: str
    window: tuple[int, int]
    why: str | None


def trace(run: str, place: str, context: int = CONTEXT) -> Traced:
    """The document that holds the token at `SHARD:OFFSET`, its source, and up to `context` tokens of text on each side.

    SHARD is a path of the manifest, or its end (`dclm/00000`); OFFSET counts the shard's tokens from 0. Raises UserError.
    """
    manifest = read_corpus(run)
    name, _, number = place.rpartition(":")
    if not name or not re.fullmatch(r"[0-9][0-9,]*", number):
        raise UserError(f"{place!r}: name a token as SHARD:OFFSET, such as {_example(manifest)}:0")
    offset = int(number.replace(",", ""))
    source, split, shard = find_shard(run, manifest, name)
    if offset >= shard["tokens"]:
        raise UserError(f"{place}: {shard['path']} holds {shard['tokens']:,} tokens, numbered from 0")
    document = documents_at(run, shard, [(offset, offset + 1)])[0][0]
    tokens, first = _window(run, manifest, shard, document, offset, context)
    before, marked, after = mark(run_tokenizer(run, manifest).decode, tokens, offset - first)
    return Traced(
        run=run,
        shard=shard["path"],
        split=split,
        source=source,
        offset=offset,
        token=int(tokens[offset - first]),
        document=DocumentOfToken(document.id, document.number, document.start, document.end, offset - document.start),
        file=document.file,
        record=document.record,
        before=before,
        text=marked,
        after=after,
        window=(first, first + len(tokens)),
        why=why_command(run, document) if has_records(run) else None,
    )


def has_records(run: str) -> bool:
    """Whether `why` has records of documents: in a run's own folder or one of pairs, not in a mixture or an imported corpus."""
    return any(storage.exists(storage.join(run, name)) for name in (RUN, PAIRS))


def why_command(run: str, document: Found) -> str:
    """The command that shows a document's way through the run: its measures, edits and copies."""
    query = f"{document.file}:{document.record}" if document.record else document.id
    return f"{program()} {shlex.join(['why', run, query])}"


def find_shard(run: str, manifest: Manifest, name: str) -> tuple[str, str, ShardEntry]:
    """(source, split, entry) of a shard, by its path in the manifest or the end of it. Raises UserError."""
    bare = _bare(name)
    found = [
        (source, split, shard)
        for source in manifest["mixture"]["sources"]
        for split in SPLITS
        for shard in shards_of(manifest, source, split)
        if f"/{_bare(shard['path'])}".endswith(f"/{bare}")
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(
            f"{name}: {len(found)} shards end so, {found[0][2]['path']} and {found[1][2]['path']} among them"
        )
    raise UserError(
        f"{run} has no shard {name}; a shard is named as in {_example(manifest)} (`inspect --shards` lists them)"
    )


def _bare(path: str) -> str:
    """A shard's name without what ends those of its files."""
    return path.removesuffix(".npy").removesuffix(RANGES).removesuffix(".csv.gz")


def _example(manifest: Manifest) -> str:
    for source in manifest["mixture"]["sources"]:
        for shard in shards_of(manifest, source, "train"):
            return _bare(shard["path"]).removeprefix("tokens/")
    return "SOURCE/00000"


def documents_at(run: str, shard: ShardEntry, ranges: list[tuple[int, int]]) -> list[list[Found]]:
    """For each range of a shard's tokens (first, end) the documents in it; the index is read once, and not to its end.

    Raises UserError for a damaged index, or one that does not cover a range.
    """
    found: list[list[Found]] = [[] for _ in ranges]
    last = max(end for _, end in ranges)
    row = 0
    try:
        opened = partial(storage.open_stream, storage.join(run, shard["index"]))
        for rows in read_index_batches(opened, shard["index"]):
            starts, ends = (np.asarray(rows.column(name)) for name in ("start", "end"))
            for which, (first, end) in enumerate(ranges):
                low = int(np.searchsorted(ends, first, side="right"))
                high = int(np.searchsorted(starts, end, side="left"))
                for line in rows.slice(low, max(0, high - low)).to_pylist():
                    found[which].append(
                        Found(row + low + 1, line["start"], line["end"], line["id"], line["src"], line["loc"])
                    )
                    low += 1
            row += rows.num_rows
            if len(ends) and ends[-1] >= last:
                break
    except (ShardError, storage.StorageError) as error:
        raise UserError(f"{error}; `python -m pipeline inspect {run}` tells more") from None
    for (first, end), documents in zip(ranges, found, strict=True):
        if not documents or documents[0].start > first or documents[-1].end < end:
            raise UserError(
                f"{shard['index']}: no document holds tokens {first:,} to {end:,}; `inspect` tells what is wrong"
            )
    return found


def _window(
    run: str, manifest: Manifest, shard: ShardEntry, document: Found, offset: int, context: int
) -> tuple[np.ndarray, int]:
    """The document's tokens around one of them, and the place of the first of these in the shard."""
    dtype = np.dtype(manifest["dtype"])
    first, end = max(document.start, offset - context), min(document.end, offset + context + 1)
    with open_shard(run, shard, dtype, random=True) as stream:
        stream.seek(first * dtype.itemsize)
        data = stream.read((end - first) * dtype.itemsize)
    if len(data) != (end - first) * dtype.itemsize:
        raise UserError(f"{shard['path']}: ends before token {end:,}; `python -m pipeline inspect {run}` tells more")
    return np.frombuffer(data, dtype), first


def mark(decode: Callable[[np.ndarray], str], tokens: np.ndarray, at: int) -> tuple[str, str, str]:
    """The text of some tokens in three: before the token `at`, the token, and after it.

    A character may be spread over several tokens; the middle then takes in all of them.
    """
    whole = decode(tokens)

    def clean(cut: int) -> bool:
        return decode(tokens[:cut]) + decode(tokens[cut:]) == whole

    low, high = at, at + 1
    while not clean(low) and low > max(0, at - SPLIT_CHARACTER):
        low -= 1
    while not clean(high) and high < min(len(tokens), at + SPLIT_CHARACTER + 1):
        high += 1
    return decode(tokens[:low]), decode(tokens[low:high]), decode(tokens[high:])


def show_trace(found: Traced, console: Console) -> None:
    """Print what `trace` returned."""
    d = found.document
    held = ", held out from training" if found.split == "held_out" else ""
    line(console, f"{found.shard}, token {found.offset:,}: {found.token} ({found.source}{held})", "bold")
    line(
        console,
        f"document  {d.id}: number {d.number:,} of the shard, its tokens {d.first_token:,} to {d.end_token:,}; "
        f"this is token {d.position:,} of {d.end_token - d.first_token:,}",
    )
    line(console, f"source    {found.file}, record {found.record}")
    if found.why:
        line(console, f"its way   {found.why}")
    console.print()
    text = Text(f"{'' if found.window[0] == d.first_token else '...'}{found.before}")
    text.append(f">>{found.text}<<", "bold reverse")
    text.append(f"{found.after}{'' if found.window[1] == d.end_token else '...'}")
    console.print(text, soft_wrap=True)
