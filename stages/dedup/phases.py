"""The phases of any dedup, by its method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.dedup.clustered import clustered
from stages.dedup.filtered import filtered
from stages.dedup.spec import Bff, read_spec
from stages.dedup.tasks import Phases, group_parts, run_inline

__all__ = ["clustered", "filtered", "group_parts", "phases", "run_inline"]


def phases(spec: Mapping[str, Any], groups: Sequence[Sequence[Mapping[str, Any]]], folder: str) -> Phases:
    """`filtered` for bff, `clustered` for all other methods: both list, in `removals`, the removals of each part.

    Where the summary has `parts`, these are to be read in place of the old ones, row for row.
    """
    return (filtered if isinstance(read_spec(dict(spec)), Bff) else clustered)(spec, groups, folder)
