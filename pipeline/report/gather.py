"""All figures of the page about a finished run, as plain JSON values: `python -m pipeline report DIR --json`.

What comes from the ledger, the manifest and the dedups is of the whole run. Measures, lengths and samples are read from the
parts, of each source at most so many, evenly chosen; "parts" of a source says how many of how many.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import orjson

from pipeline import storage
from pipeline.finished import FinishedRun, SourceParts, open_finished
from pipeline.questions.clusters import SUMMARY, clusters
from pipeline.recipe_text import recipe_text
from pipeline.report.books import source_books, totals
from pipeline.report.distributions import measures_of
from pipeline.report.domains import domains_of
from pipeline.report.lengths import lengths_of
from pipeline.report.samples import samples_of
from pipeline.report.work import failures, speed

PARTS = 64  # of a source that are read for measures, lengths and samples, unless more are asked for
EACH = 2  # documents shown for a reason
CHARS = 1200  # of a text
CLUSTERS = 3  # of a dedup that are shown
SHARDS = 48  # of a source that are listed one by one; more are listed in as many runs of neighbours


def gather(run: str, parts: int = PARTS, each: int = EACH, chars: int = CHARS) -> dict[str, Any]:
    """The figures of a finished run. parts: read of each source, 0 for all.

    Raises UserError where there is no finished run, or it was made by an older version.
    """
    finished = open_finished(run)
    summary = orjson.loads(storage.read_bytes(storage.join(run, SUMMARY)))
    ordinals = {name: _chosen(source, parts) for name, source in finished.sources.items()}
    sources = {
        name: _source(finished, source, ordinals[name], each, chars) for name, source in finished.sources.items()
    }
    manifest = finished.manifest
    return {
        "run": storage.redact(run),
        "name": manifest["name"],
        "profile": manifest["profile"],
        "fingerprint": manifest["fingerprint"],
        "recipe_hash": manifest["recipe_hash"],
        "seed": manifest["seed"],
        "dtype": manifest["dtype"],
        "tokenizer": manifest["tokenizer"],
        "keep": finished.recipe.run.keep,
        "recipe": recipe_text(finished.recipe),
        "balances": not any(source["problems"] for source in sources.values()),
        "totals": totals(finished, sources),
        "sources": sources,
        "dedups": _dedups(run, summary),
        "mixture": _mixture(finished),
        "speed": speed(finished, sources) | {"last_run_seconds": summary["seconds"]},
        "failures": failures(finished, ordinals),
        "notes": summary["notes"],
    }


def _chosen(source: SourceParts, parts: int) -> list[int]:
    """Ordinals of the parts that are read: all, or so many, evenly over the source."""
    there = len(source.parts[0]) if source.parts else 0
    if not parts or there <= parts:
        return list(range(there))
    return np.unique(np.linspace(0, there - 1, parts).round().astype(int)).tolist()


def _source(run: FinishedRun, source: SourceParts, ordinals: list[int], each: int, chars: int) -> dict[str, Any]:
    measures, no_measures = measures_of(run, source, ordinals)
    lengths, no_lengths = lengths_of(run, source, ordinals)
    samples, no_samples = samples_of(run, source, ordinals, each, chars)
    return {
        **source_books(run, source),
        "parts": {"read": len(ordinals), "of": len(source.parts[0]) if source.parts else 0},
        "measures": measures,
        "lengths": lengths,
        "samples": samples,
        "domains": domains_of(run, source, ordinals),
        "missing": [*no_measures, *no_lengths, *no_samples],
    }


def _dedups(run: str, summary: dict[str, Any]) -> list[dict[str, Any]]:
    dedups = clusters(run, None, CLUSTERS).dedups if summary["dedup"] else []
    found = msgspec.json.decode(msgspec.json.encode(dedups))
    for dedup in found:
        for piece in (p for cluster in dedup["largest"] for p in (cluster["kept"], *cluster["removed"])):
            piece["file"] = storage.redact(piece["file"])
    return found


def _mixture(run: FinishedRun) -> dict[str, Any]:
    manifest = run.manifest
    total = manifest["mixture"]["tokens"]
    sources = []
    for name in manifest["mixture"]["sources"]:
        entry = manifest["sources"][name]
        sources.append(
            {
                "source": name,
                "available": entry["tokens"],
                "held_out": entry["held_out"]["tokens"],
                "budget": entry["budget_tokens"],
                "share": entry["budget_tokens"] / total if total else 0.0,
                "repeats": entry["budget_tokens"] / entry["tokens"] if entry["tokens"] else 0.0,
                "max_repeats": entry["max_repeats"],
                "documents": entry["documents"],
                "text_bytes": entry["text_bytes"],
                "shards": _shards(entry["shards"]),
            }
        )
    return {"tokens": total, "seed": manifest["mixture"]["seed"], "sources": sources}


def _shards(shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Tokens of each shard, or the mean of so many neighbours where there are many; the count, the least and the greatest."""
    tokens = np.array([shard["tokens"] for shard in shards], np.int64)
    runs = np.array_split(tokens, min(len(tokens), SHARDS)) if len(tokens) else []
    return {
        "count": len(tokens),
        "least": int(tokens.min()) if len(tokens) else 0,
        "most": int(tokens.max()) if len(tokens) else 0,
        "tokens": [round(float(run.mean())) for run in runs],
    }
