"""An analysis as JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.analyze.measures import most_coactive
from trainer.analyze.run import Analysis

KINDS = ("input", "output")


def write_tables(found: Analysis, tokenizer: Any, out: Path) -> list[Path]:
    """Write the tables into `out`; returns the files. `tokenizer` (tokenizers.Tokenizer) gives token ids their text."""
    counts, experts = found.counts, found.counts.experts
    domain = {"k": counts.domain_specialisation(), "1": counts.domain_specialisation(first_only=True)}
    together = counts.coactivation()
    words = vocabulary(found, tokenizer)
    summary = {
        "checkpoints": [
            {"name": name, "tokens": seen, "saturation": s.all().tolist(), "saturation_first": s.first().tolist()}
            for name, seen, s in zip(found.names, found.tokens_seen, found.saturation, strict=True)
        ],
        "top_k": found.top_k,
        "experts": experts,
        "tokens": dict(zip(found.sources, counts.tokens_S.tolist(), strict=True)),
        "load": counts.load().tolist(),
        "domain_specialisation": {k: _by_source(found, values) for k, values in domain.items()},
        "uniform": {"k": found.top_k / experts, "1": 1 / experts},
        "coactivation": together.tolist(),
        "most_coactive": [most_coactive(matrix) for matrix in together],
        "vocabulary_specialisation": {kind: counts.vocabulary_specialisation(kind).tolist() for kind in KINDS},
        "vocabulary": words,
    }
    path = out / "analysis.json"
    path.write_text(json.dumps(_plain(summary), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    rows = {
        "saturation.csv": (("checkpoint", "tokens", "layer", "k", "saturation"), _saturation(found)),
        "load.csv": (("layer", "expert", "load"), _cells(counts.load())),
        "domain_specialisation.csv": (("source", "layer", "expert", "k", "share"), _domains(found, domain)),
        "coactivation.csv": (("layer", "expert", "other", "share"), _cells(together)),
        "vocabulary_specialisation.csv": (
            ("layer", "by", "mean_share"),
            [(layer, kind, v) for kind in KINDS for layer, v in enumerate(counts.vocabulary_specialisation(kind))],
        ),
        "vocabulary.csv": (("by", "layer", "expert", "token", "text", "share", "seen"), _words(words)),
    }
    return [path, *(_write_csv(out / name, *table) for name, table in rows.items())]


def vocabulary(found: Analysis, tokenizer: Any) -> list[dict[str, Any]]:
    """For each layer and expert, the tokens that are most its own."""
    return [
        {
            "by": kind,
            "layer": layer,
            "expert": expert,
            "tokens": [[i, tokenizer.decode([i]), share, seen] for i, share, seen in own],
        }
        for kind in KINDS
        for layer in range(found.counts.layers)
        for expert, own in enumerate(found.counts.tokens_of_expert(kind, layer))
    ]


def _by_source(found: Analysis, values_LSE: np.ndarray) -> dict[str, Any]:
    return {source: values_LSE[:, number].tolist() for number, source in enumerate(found.sources)}


def _saturation(found: Analysis) -> Iterable[Sequence[Any]]:
    for name, seen, saturation in zip(found.names, found.tokens_seen, found.saturation, strict=True):
        for k, values in ((found.top_k, saturation.all()), (1, saturation.first())):
            yield from ((name, seen, layer, k, value) for layer, value in enumerate(values))


def _domains(found: Analysis, domain: dict[str, np.ndarray]) -> Iterable[Sequence[Any]]:
    for k, values_LSE in ((found.top_k, domain["k"]), (1, domain["1"])):
        for (layer, source, expert), value in np.ndenumerate(values_LSE):
            yield found.sources[source], layer, expert, k, value


def _cells(values: np.ndarray) -> Iterable[Sequence[Any]]:
    return ((*place, value) for place, value in np.ndenumerate(values))


def _words(words: list[dict[str, Any]]) -> Iterable[Sequence[Any]]:
    for one in words:
        for token in one["tokens"]:
            yield one["by"], one["layer"], one["expert"], *token


def _write_csv(path: Path, headings: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headings)
        writer.writerows([f"{v:.6g}" if isinstance(v, float) else v for v in row] for row in rows)
    return path


def _plain(value: Any) -> Any:
    """NaN as null: JSON has none."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and value != value else value
