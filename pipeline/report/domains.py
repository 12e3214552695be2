"""Where a source's kept documents come from: the domains with the most tokens, of the parts named."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import Struct

from pipeline import storage
from pipeline.questions.measured import document_keys
from pipeline.run_folder.finished import FinishedRun, SourceParts

SHOWN = 20
MOST = 200_000  # domains that are counted at a time: beyond, those with the fewest tokens are put together
_HOST = r"^[A-Za-z][A-Za-z0-9+.-]*://(?:[^/?#@]*@)?(?:www\.)?(?P<host>[^/:?#]+)"


class Domain(Struct, frozen=True):
    """A host's name without `www.`, with its documents and their tokens, held-out ones included."""

    domain: str
    documents: int
    tokens: int


class OtherDomains(Struct, frozen=True):
    """So many domains that are not listed, and what they hold."""

    domains: int
    documents: int
    tokens: int


class Domains(Struct, frozen=True):
    """Domains by their tokens, and the documents without a URL (0 or 1 domain)."""

    domains: list[Domain]
    others: OtherDomains
    without: OtherDomains


def domains_of(run: FinishedRun, source: SourceParts, ordinals: list[int]) -> Domains:
    """The domains of a source's kept documents in the parts named; those whose part was let go are not counted."""
    found: defaultdict[str | None, np.ndarray] = defaultdict(lambda: np.zeros(2, np.int64))
    rest = np.zeros(3, np.int64)  # domains, documents, tokens
    for ordinal in ordinals:
        path = source.parts[-1][ordinal].kept if source.parts else None
        if path is None or ordinal >= len(source.tokens) or "url" not in run.columns(path):
            continue
        keys, tokens = _tokens(run, source, ordinal)
        for _, batch in run.rows(path, ["url", "file", "record"]):
            place = pc.index_in(document_keys(batch), value_set=keys)
            hosts = pc.utf8_lower(pc.struct_field(pc.extract_regex(batch.column("url"), _HOST), "host"))
            kept = place.is_valid()
            coded = hosts.filter(kept).dictionary_encode("encode")
            counts = tokens[np.asarray(place.drop_null())]
            codes = np.asarray(coded.indices)
            sums = np.bincount(codes, counts, len(coded.dictionary)).astype(np.int64)
            for host, documents, total in zip(coded.dictionary.to_pylist(), np.bincount(codes), sums, strict=True):
                found[host] += (documents, total)
        if len(found) > MOST:
            rest += _cut(found, MOST // 2)
    without = found.pop(None, np.zeros(2, np.int64))
    rest += _cut(found, SHOWN)
    ranked = sorted(found.items(), key=lambda item: (-item[1][1], str(item[0])))
    listed = [Domain(str(host), int(n[0]), int(n[1])) for host, n in ranked]
    others, nameless = OtherDomains(*rest.tolist()), OtherDomains(int(without[0] > 0), *without.tolist())
    return Domains(listed, others, nameless)


def _tokens(run: FinishedRun, source: SourceParts, ordinal: int) -> tuple[pa.Array, np.ndarray]:
    """FILE:RECORD and tokens (int64) of each document of a part that was tokenized."""
    keys, counts = [pa.array([], pa.large_string())], [np.zeros(0, np.int64)]
    for file in source.tokens[ordinal].files.values():
        if storage.exists(storage.join(run.uri, file.index.path)):
            for _, rows in run.rows(file.index.path, ["start", "end", "src", "loc"]):
                places = pa.RecordBatch.from_pydict({"file": rows.column("src"), "record": rows.column("loc")})
                keys.append(document_keys(places))
                counts.append(np.asarray(rows.column("end")) - np.asarray(rows.column("start")))
    return pa.concat_arrays(keys), np.concatenate(counts)


def _cut(found: defaultdict[str | None, np.ndarray], most: int) -> np.ndarray:
    """Take all domains but those with the most tokens out; how many went, with their documents and tokens."""
    ranked = sorted((host for host in found if host is not None), key=lambda host: (-found[host][1], host))
    gone = [found.pop(host) for host in ranked[most:]]
    return np.array([len(gone), *np.sum(gone, axis=0)], np.int64) if gone else np.zeros(3, np.int64)
