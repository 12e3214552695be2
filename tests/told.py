"""Answers as commands print them with --json."""

from __future__ import annotations

from typing import Any

import msgspec

from pipeline.run_folder.run_summary import RunSummary, SourceSummary


def as_json(answer: object) -> Any:
    """The JSON values of an answer."""
    return msgspec.json.decode(msgspec.json.encode(answer))


def first_source(summary: RunSummary) -> SourceSummary:
    """What a summary says of the recipe's first source."""
    return next(iter(summary.sources.values()))
