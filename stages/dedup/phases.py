"""The phases of any dedup, by its method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stages.dedup.clustered import clustered
from stages.dedup.filtered import filtered
from stages.dedup.spec import AnyDedup, Bff, Substring, read_spec
from stages.dedup.substring import substring
from stages.dedup.tasks import Groups, Phases, group_parts, run_inline

__all__ = ["clustered", "filtered", "group_parts", "phases", "run_inline", "substring"]


def phases(spec: AnyDedup | Mapping[str, Any], groups: Groups, folder: str) -> Phases:
    """`filtered` for bff, `substring`, and `clustered` for all other methods: they list, in `removals`, those of each part.

    Where the summary has `parts`, these are to be read in place of the old ones, row for row.
    """
    settings = read_spec(spec)
    method = {Bff: filtered, Substring: substring}.get(type(settings), clustered)
    return method(settings, groups, folder)
