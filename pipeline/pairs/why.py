"""What became of a record in a folder of pairs: where its tokens lie, or by which rule it was dropped."""

from __future__ import annotations

import gzip
import json

from msgspec import Struct
from rich.console import Console

from pipeline import storage
from pipeline.pairs.dropped import DroppedRecord, read_dropped
from pipeline.pairs.make import DROPPED
from pipeline.run_folder.manifest import SPLITS, read_corpus, shards_of
from stages.errors import UserError
from stages.tokens.manifest_shape import ShardEntry
from stages.tokens.shard_format import read_index

SHOWN = 10


class KeptPair(Struct, frozen=True, tag_field="state", tag="kept"):
    """A sequence of a pair, and where its tokens lie: `tokens` is the first one and one past the last."""

    id: str
    file: str
    record: int
    role: str
    cut: str | None
    shard: str
    split: str
    tokens: tuple[int, int]


class DroppedPair(DroppedRecord, frozen=True, tag_field="state", tag="dropped"):
    """A record that gave no pair."""


class WhyPair(Struct, frozen=True):
    """What a folder knows of a pair: `found` places, of which the first are told."""

    run: str
    query: str
    found: int
    pairs: list[KeptPair | DroppedPair]


def why_pair(run: str, query: str) -> WhyPair:
    """All that the folder knows of a pair, by its id or FILE:RECORD. Raises UserError for one that it does not know."""
    manifest = read_corpus(run)
    found: list[KeptPair | DroppedPair] = []
    for source in manifest["mixture"]["sources"]:
        for split in SPLITS:
            for shard in shards_of(manifest, source, split):
                found += _in_shard(run, shard, split, query)
    for line in read_dropped(storage.local_path(run) / DROPPED):
        if _is(query, line.id, line.file, line.record):
            found.append(DroppedPair(line.id, line.file, line.record, line.rule, line.detail))
    if not found:
        raise UserError(f"{run} knows no pair {query!r} by id or FILE:RECORD; `inspect --show 3` shows some ids")
    return WhyPair(run, query, len(found), found[:SHOWN])


def _in_shard(run: str, shard: ShardEntry, split: str, query: str) -> list[KeptPair]:
    found = []
    folder = storage.local_path(run)
    with gzip.open(folder / shard.get("records", ""), "rt", encoding="utf-8") as lines:
        for row, line in zip(read_index(folder / shard["index"]), lines, strict=True):
            if _is(query, row.id, row.src, row.loc) or row.id.rsplit("#", 1)[0] == query:
                facts = json.loads(line)
                place = (shard["path"], split, (row.start, row.end))
                found.append(KeptPair(row.id, row.src, row.loc, facts["role"], facts["cut"], *place))
    return found


def _is(query: str, name: str | None, file: str, record: int) -> bool:
    return query in (name, f"{file}:{record}", f"{file.rsplit('/', 1)[-1]}:{record}")


def show_why_pair(found: WhyPair, console: Console) -> None:
    """Print it."""
    for pair in found.pairs:
        console.print(f"{pair.id or '(no id)'}: read from {pair.file}, record {pair.record}", markup=False)
        if isinstance(pair, DroppedPair):
            console.print(f"  dropped by {pair.rule}: {pair.detail}", markup=False)
            continue
        first, end = pair.tokens
        cut = f"; {pair.cut}" if pair.cut else ""
        console.print(f"  kept ({pair.role}): {pair.shard}, tokens {first:,} to {end:,}{cut}", markup=False)
