"""Who was removed for whom: the largest clusters of a run's dedups with samples, their sizes, and which source lost to which.

Read from the run's summary and from the removals (and the pieces that bff and substring cut out) that each dedup left beside
its parts. A piece is what was removed: a document, or a paragraph (of substring: any passage) of one that stays.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage
from pipeline.inspect import read_manifest
from pipeline.overrides import nearest
from stages.dedup.address import pack, read_rows, row_of
from stages.errors import UserError
from stages.kernels.hashing import partition_of_document

SUMMARY = "summary.json"
MEMBERS = 3  # removed documents that are shown of a cluster
SAMPLE_CHARS = 300
PASS_BYTES = 256 << 20  # of addresses that are counted at a time; more are counted in several passes over the files
BATCH_ROWS = 1 << 16


def clusters(run: str, name: str | None = None, top: int = 5) -> dict[str, Any]:
    """What the dedups of a finished run removed: {"run", "dedups": [...]}, of one dedup if named.

    Each has name, method, documents, removed, sizes ([size, clusters] pairs, the kept one counted), lost ([source,
    source of the kept document or None, documents, paragraphs]), and largest: `top` clusters with size, by_source
    (removed pieces), kept and removed (id, source, file, record and the beginning of the text, where it was not let
    go). Raises UserError where there is no finished run or no dedup of that name.
    """
    read_manifest(run)
    uri = storage.join(run, SUMMARY)
    dedups = orjson.loads(storage.read_bytes(uri))["dedup"]
    names = list(dedups)
    if name is not None and name not in names:
        of_source = [n for n in names if n.split("/")[0] == name]
        if len(of_source) != 1:
            raise UserError(f"--dedup {name}: the run has no such dedup{nearest(name, names)}")
        name = of_source[0]
    wanted = names if name is None else [name]
    return {"run": run, "dedups": [_describe(run, n, dedups[n], top) for n in wanted]}


def _describe(run: str, name: str, dedup: dict[str, Any], top: int) -> dict[str, Any]:
    if "read" not in dedup:
        raise UserError(f"{run}: its summary was written by an older version; run its recipe again")
    lost: Counter[tuple[str, str | None, str]] = Counter()
    for ordinal, kind, batch in _pieces(run, dedup, ["representative_source"]):
        for entry in batch.column("representative_source").value_counts():
            lost[dedup["read"][ordinal]["source"], entry["values"].as_py(), kind] += entry["counts"].as_py()
    if "sizes" in dedup:
        sizes, heads = dedup["sizes"], [(c["part"], c["row"], c["size"]) for c in dedup["largest"][:top]]
    else:
        sizes, heads = _count(run, dedup, top)
    pairs = sorted({(source, kept) for source, kept, _ in lost}, key=lambda p: (p[0], p[1] or ""))
    return {
        "name": name,
        "method": dedup["method"],
        "documents": dedup["documents"],
        "removed": dedup["removed"],
        "paragraphs": sum(n for (_, _, kind), n in lost.items() if kind == "paragraph"),
        "sizes": sizes,
        "lost": [[s, k, lost[s, k, "document"], lost[s, k, "paragraph"]] for s, k in pairs],
        "largest": _samples(run, dedup, heads),
    }


def _pieces(
    run: str, dedup: dict[str, Any], columns: list[str], ends: bool = False
) -> Iterator[tuple[str, str, pa.RecordBatch]]:
    """Removed pieces in batches, each with the ordinal of its part and what they are: document or paragraph."""
    for kind, files in (("document", dedup["removals"]), ("paragraph", dedup.get("cuts", {}))):
        more = ["start", "stop"] if ends and kind == "paragraph" else []
        for ordinal, path in files.items():
            if kind == "document" and not dedup["removed_of_part"][ordinal]:
                continue
            with storage.open_random(storage.join(run, path)) as file:
                for batch in pq.ParquetFile(file).iter_batches(BATCH_ROWS, columns=[*columns, *more]):
                    yield ordinal, kind, batch


def _heads(batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
    """Addresses of the representatives of a batch of pieces, of those that have one, and the mask of these."""
    named = batch.column("representative_row").is_valid().to_numpy(zero_copy_only=False)
    part = batch.column("representative_part").fill_null(0).to_numpy(zero_copy_only=False)
    row = batch.column("representative_row").fill_null(0).to_numpy(zero_copy_only=False)
    return ((part.astype(np.int64) << 32) | row)[named], named


def _count(run: str, dedup: dict[str, Any], top: int) -> tuple[list[list[int]], list[tuple[int, int, int]]]:
    """Sizes of clusters and the largest ones, (part, row, size), where the dedup itself did not count them.

    A part of the addresses at a time, chosen by a hash: memory stays within PASS_BYTES, about, however many there are.
    """
    pieces = dedup["removed"] + sum(report["paragraphs"] for report in dedup["reports"].values())
    passes = max(1, -(-pieces * 8 * 3 // PASS_BYTES))
    sizes: Counter[int] = Counter()
    largest: list[tuple[int, int, int]] = []
    for number in range(passes):
        found = [np.zeros(0, np.int64)]
        for _, _, batch in _pieces(run, dedup, ["representative_part", "representative_row"]):
            heads, _ = _heads(batch)
            if passes > 1:
                which = np.empty(len(heads), np.int32)
                partition_of_document(heads, passes, which)
                heads = heads[which == number]
            found.append(heads)
        heads, counts = np.unique(np.concatenate(found), return_counts=True)
        for size, clusters_of_it in zip(*np.unique(counts + 1, return_counts=True), strict=True):
            sizes[int(size)] += int(clusters_of_it)
        for i in np.argsort(-counts, kind="stable")[:top]:
            largest.append((int(heads[i] >> 32), int(row_of(heads[i : i + 1])[0]), int(counts[i]) + 1))
        largest = sorted(largest, key=lambda c: (-c[2], c[0], c[1]))[:top]
    return [[size, count] for size, count in sorted(sizes.items())], largest


def _samples(run: str, dedup: dict[str, Any], heads: list[tuple[int, int, int]]) -> list[dict[str, Any]]:
    """The clusters of some representatives (part, row, size), with the first of their removed pieces in order."""
    found = [
        {"size": size, "by_source": Counter(), "kept": {"part": part, "row": row}, "removed": []} for part, row, size in heads
    ]
    address = np.array([pack(part, np.array(row)) for part, row, _ in heads], np.int64)
    for ordinal, kind, batch in _pieces(run, dedup, ["row", "representative_part", "representative_row"], ends=True):
        heads_of, named = _heads(batch)
        rows = np.flatnonzero(named)
        for one, head in zip(found, address, strict=True):
            mine = rows[heads_of == head]
            one["by_source"][dedup["read"][ordinal]["source"]] += len(mine)
            for i in mine[: MEMBERS - len(one["removed"])]:
                piece = {"what": kind, "part": int(ordinal), "row": batch.column("row")[int(i)].as_py()}
                if kind == "paragraph":
                    piece["span"] = [batch.column(c)[int(i)].as_py() for c in ("start", "stop")]
                one["removed"].append(piece)
    _add_texts(run, dedup, [piece for one in found for piece in (one["kept"], *one["removed"])])
    for one in found:
        one["by_source"] = dict(sorted((+one["by_source"]).items()))
    return found


def _add_texts(run: str, dedup: dict[str, Any], pieces: list[dict[str, Any]]) -> None:
    """Put id, source, file, record and the beginning of the text to pieces that name a part and a row of it."""
    by_part: dict[int, list[dict[str, Any]]] = {}
    for piece in pieces:
        by_part.setdefault(piece.pop("part"), []).append(piece)
    for ordinal, mine in by_part.items():
        part = dedup["read"][str(ordinal)]
        rows = np.unique([piece["row"] for piece in mine])
        known: dict[int, dict[str, Any]] = {}
        if storage.exists(storage.join(run, part["path"])):
            with storage.open_random(storage.join(run, part["path"])) as file:
                for piece_rows, batch in read_rows(file, part["path"], ["id", "file", "record", "text"], rows):
                    known |= dict(zip(rows[piece_rows].tolist(), batch.to_pylist(), strict=True))
        for piece in mine:
            row = piece.pop("row")
            start, stop = piece.pop("span", (0, None))
            document = known.get(row) or {"id": None, "file": part["path"], "record": row + 1, "text": None}
            text = document["text"]
            if text is not None:
                text = text.encode()[start:stop].decode(errors="replace").strip("\n")
                text = text if len(text) <= SAMPLE_CHARS else text[:SAMPLE_CHARS] + "..."
            piece |= {**document, "source": part["source"], "text": text}
