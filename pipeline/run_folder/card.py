"""A dataset card of a finished run: README.md as the Hugging Face hub reads it, made of the run's own record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from pipeline.recipe.recipe import Source
from pipeline.recipe.recipe_text import recipe_text
from pipeline.run_folder.finished import FinishedRun
from pipeline.run_folder.run_summary import SourceSummary, read_summary
from pipeline.storage.public import public
from stages.units import show_bytes, show_count

SIZES = (("n<1K", 10**3), ("1K<n<10K", 10**4), ("10K<n<100K", 10**5), ("100K<n<1M", 10**6), ("1M<n<10M", 10**7),
         ("10M<n<100M", 10**8), ("100M<n<1B", 10**9))  # fmt: skip
UNKNOWN = "not stated in the recipe"


def card(run: FinishedRun, files: str = "") -> str:
    """The card as Markdown. files: the suffix of the data files beside it, in a folder a source; "" where there are none."""
    summary = read_summary(run.uri).sources
    sources = run.recipe.sources
    parts = [
        f"---\n{yaml.safe_dump(_head(run, summary, files), sort_keys=False)}---",
        f"# {run.recipe.name}",
        f"Made by Headrace: {sum(s.documents_kept for s in summary.values()):,} of "
        f"{sum(s.documents_in for s in summary.values()):,} documents were kept, "
        f"{show_count(sum(s.tokens for s in summary.values()))} tokens in training and "
        f"{show_count(sum(s.held_out_tokens for s in summary.values()))} held out.",
        "## Sources",
        _table(
            ("source", "documents read", "kept", "text kept", "tokens", "licence"),
            [_row(name, s, sources[name]) for name, s in summary.items()],
        ),
        "## Filters",
        "Documents dropped, by the key of the recipe whose limit they did not meet.",
        _table(
            ("source", "reason", "documents", "share"),
            [
                (name, f"`{reason}`", f"{amount.documents:,}", f"{amount.documents / max(s.documents_in, 1):.2%}")
                for name, s in summary.items()
                for reason, amount in s.dropped.items()
            ],
        ),
        "## Provenance",
        *(_provenance(name, source) for name, source in sources.items()),
        _made_by(run),
        "## Recipe",
        f"```yaml\n{recipe_text(run.recipe)}```",
        "## Citation",
        "\n\n".join(f"{name}: {source.citation}" for name, source in sources.items() if source.citation)
        or f"The sources' citations are {UNKNOWN}.",
    ]
    return "\n\n".join(parts) + "\n"


def _head(run: FinishedRun, summary: Mapping[str, SourceSummary], files: str) -> dict[str, Any]:
    """What the hub reads: licences, size, and which files belong to which source."""
    licences = [source.license for source in run.recipe.sources.values()]
    stated = sorted({licence for licence in licences if licence})
    kept = sum(s.documents_kept for s in summary.values())
    head: dict[str, Any] = {
        "pretty_name": run.recipe.name,
        "license": stated[0] if len(stated) == 1 and None not in licences else "other",
        "task_categories": ["text-generation"],
        "size_categories": [next((name for name, below in SIZES if kept < below), "n>1B")],
    }
    if files:
        patterns = [{"config_name": name, "data_files": f"{name}/*{files}"} for name in summary]
        head["configs"] = [{"config_name": "default", "data_files": f"*/*{files}"}, *patterns]
    return head


def _row(name: str, s: SourceSummary, source: Source) -> tuple[str, ...]:
    counts = (f"{s.documents_in:,}", f"{s.documents_kept:,}", show_bytes(s.bytes_kept), show_count(s.tokens))
    return name, *counts, source.license or UNKNOWN


def _provenance(name: str, source: Source) -> str:
    return f"- {name}: read from {', '.join(f'`{path}`' for path in public(list(source.read.paths)))}"


def _made_by(run: FinishedRun) -> str:
    versions = run.manifest.get("made_by", {}).get("versions", {})
    listed = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Fingerprint of the run: `{run.manifest['fingerprint']}`. Versions: {listed}."


def _table(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
