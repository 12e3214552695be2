"""How long a source's documents are: kept ones in bytes and tokens, by the index of their tokens; dropped ones in bytes."""

from __future__ import annotations

import msgspec
import numpy as np

from pipeline import storage
from pipeline.run_folder.finished import FinishedRun, SourceParts

EDGES = np.concatenate([[0.0], 2.0 ** (np.arange(0, 81) / 2)])  # empty documents apart, then two bins a doubling
BINS = len(EDGES) - 1


class Bins(msgspec.Struct, frozen=True):
    """Documents in bins of their lengths, edges[i] to below edges[i + 1]; of tokens, those that were kept alone."""

    edges: list[float]
    kept: list[int]
    dropped: list[int] | msgspec.UnsetType = msgspec.UNSET


class Lengths(msgspec.Struct, frozen=True):
    """Lengths of a source's documents in bytes and in tokens."""

    bytes: Bins
    tokens: Bins


def lengths_of(run: FinishedRun, source: SourceParts, ordinals: list[int]) -> tuple[Lengths, list[str]]:
    """Lengths of the documents of the parts named; and what is missing.

    A document dropped while it was a page yet to be extracted has no length as text, and is not counted.
    """
    counts = {name: np.zeros(BINS, np.int64) for name in ("bytes", "tokens", "dropped")}
    missing = []
    for ordinal in ordinals:
        if ordinal < len(source.tokens):
            report = source.tokens[ordinal]
            for file in report.files.values():
                if not storage.exists(storage.join(run.uri, file.index.path)):
                    missing.append(file.index.path)
                    continue
                for _, batch in run.rows(file.index.path, ["start", "end", "text_bytes"]):
                    tokens = np.asarray(batch.column("end")) - np.asarray(batch.column("start"))
                    counts["tokens"] += _binned(tokens)
                    counts["bytes"] += _binned(np.asarray(batch.column("text_bytes")))
            for _, batch in run.rows(report.dropped, ["bytes"]):
                counts["dropped"] += _binned(np.asarray(batch.column("bytes")))
        for stage, parts in enumerate(source.parts):
            if (path := parts[ordinal].dropped) is None:
                continue
            steps = source.plan[stage].steps
            pages = next((i + 1 for i, (_, step) in enumerate(steps) if step.takes_pages), 0)
            for _, batch in run.rows(path, ["bytes", "reached"]):
                text = (
                    np.asarray(batch.column("reached").fill_null(0)) > pages if pages else np.ones(batch.num_rows, bool)
                )
                counts["dropped"] += _binned(np.asarray(batch.column("bytes").fill_null(0))[text])
    found = Lengths(_trimmed(counts["bytes"], counts["dropped"]), _trimmed(counts["tokens"]))
    if not missing:
        return found, []
    return found, [f"Lengths of kept documents: {len(missing)} indexes of tokens are not there, such as {missing[0]}."]


def _binned(values: np.ndarray) -> np.ndarray:
    return np.bincount(np.clip(np.searchsorted(EDGES, values, "right") - 1, 0, BINS - 1), minlength=BINS)


def _trimmed(kept: np.ndarray, dropped: np.ndarray | None = None) -> Bins:
    """Without the empty bins at both ends."""
    used = np.flatnonzero(kept if dropped is None else kept + dropped)
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 0)
    bins = [values[first:last].tolist() for values in (kept, dropped) if values is not None]
    return Bins(EDGES[first : last + 1].tolist() if last else [], *bins)
