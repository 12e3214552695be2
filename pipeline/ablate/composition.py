"""What an arm is made of: how long its documents are and which sites they are from, and what these two say of a score."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np
import pyarrow as pa
import xxhash

from pipeline.questions.documents import Wanted, documents
from pipeline.run_folder.finished import open_finished
from pipeline.run_folder.manifest import read_manifest
from stages.tokens.manifest_shape import Manifest, SourceEntry
from stages.tokens.shard_format import read_index

LARGEST = 5  # domains that are named
BINS = 20  # of documents by their length


class Composition(msgspec.Struct, frozen=True):
    """Of the documents that an arm may train on: their lengths in tokens (10%, half and 90% are not longer), how many domains
    they are from, and the share of the tokens that the largest of these have."""

    lengths: list[int]
    domains: int
    largest: dict[str, float]


class Explained(msgspec.Struct, frozen=True):
    """How much of the order of documents by a score is told by something else alone: 0 nothing, 1 all of it.

    Of the variance of ranks the part that lies between groups and not within them, less what as many groups would take of any
    order (epsilon squared, Kelley 1935). None: of groups that hold a document each nothing can be told.
    """

    documents: int
    by_domain: float | None
    by_length: float | None


def seen_sources(manifest: Manifest) -> list[SourceEntry]:
    """The members of a mixture that it takes tokens of."""
    return [entry for entry in manifest["sources"].values() if entry["budget_tokens"]]


def composition(run: Path, folder: Path) -> Composition:
    """What a mixture of a run is made of. It holds 16 bytes a document."""
    manifest, finished = read_manifest(str(folder)), open_finished(str(run))
    tokens: Counter[str] = Counter()
    lengths = [np.zeros(0, np.int64)]
    for source in dict.fromkeys(entry.get("of", name) for name, entry in manifest["sources"].items()):
        mine = [e for name, e in manifest["sources"].items() if e.get("of", name) == source and e["budget_tokens"]]
        keys, sizes = _index(folder, mine)
        lengths.append(sizes)
        if not len(keys):
            continue
        for batch in documents(finished, source, Wanted(columns=("file", "record", "url"))):
            found = _keys(batch.column("file"), batch.column("record"))
            places = np.searchsorted(keys, found).clip(max=len(keys) - 1)
            urls = batch.column("url").to_pylist()
            for row in np.flatnonzero(keys[places] == found):
                tokens[domain(urls[row])] += int(sizes[places[row]])
    every, total = np.concatenate(lengths), max(1, tokens.total())
    quantiles = np.quantile(every, (0.1, 0.5, 0.9)).astype(int).tolist() if len(every) else [0, 0, 0]
    return Composition(quantiles, len(tokens), {name: count / total for name, count in tokens.most_common(LARGEST)})


def domain(url: str | None) -> str:
    """The host of a URL; "" where there is none."""
    try:
        return urlsplit(url or "").hostname or ""
    except ValueError:
        return ""


def _index(folder: Path, entries: Iterable[SourceEntry]) -> tuple[np.ndarray, np.ndarray]:
    """Of the documents of shards: what tells them (uint64, rising), and their tokens (int64)."""
    keys, sizes = [], []
    for entry in entries:
        for shard in entry["shards"]:
            for row in read_index(folder / shard["index"]):
                keys.append(_key(row.src, row.loc))
                sizes.append(row.end - row.start)
    order = np.argsort(np.array(keys, np.uint64), kind="stable")
    return np.array(keys, np.uint64)[order], np.array(sizes, np.int64)[order]


def _keys(files: pa.Array, records: pa.Array) -> np.ndarray:
    pairs = zip(files.to_pylist(), records.to_pylist(), strict=True)
    return np.array([_key(file, record) for file, record in pairs], np.uint64)


def _key(file: str, record: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{record} {file}".encode())


def explained(run: Path, source: str, column: str) -> Explained:
    """What the domain alone, and the length alone, say of the order of a source's documents by a measure. It holds 24 bytes a
    document."""
    values, domains, lengths = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0)]
    numbers: dict[str, int] = {}
    for batch in documents(open_finished(str(run)), source, Wanted(columns=("text", "url", column))):
        values.append(np.asarray(batch.column(column).cast(pa.float64()).fill_null(float("nan"))))
        urls = batch.column("url").to_pylist()
        domains.append(np.array([numbers.setdefault(domain(url), len(numbers)) for url in urls], np.int64))
        lengths.append(np.array([len(text) for text in batch.column("text").to_pylist()], float))
    score, site, size = (np.concatenate(parts) for parts in (values, domains, lengths))
    known = ~np.isnan(score)
    score, site, size = score[known], site[known], size[known]
    ranks = np.searchsorted(np.sort(score), score, side="left").astype(float)
    bins = np.searchsorted(np.quantile(size, np.arange(1, BINS) / BINS), size, side="right") if len(size) else site
    return Explained(len(score), _between(ranks, site), _between(ranks, bins))


def _between(values: np.ndarray, groups: np.ndarray) -> float | None:
    """Epsilon squared: the share of the variance that lies between groups, less what chance gives them; at least 0."""
    found, where = np.unique(groups, return_inverse=True)
    count, kinds = len(values), len(found)
    if count <= kinds or count < 2 or np.ptp(values) == 0:
        return None
    means = np.bincount(where, values) / np.bincount(where)
    within = float(np.square(values - means[where]).sum()) / (count - kinds)
    return max(0.0, 1 - within / float(np.var(values, ddof=1)))
