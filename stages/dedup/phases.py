"""The phases of any dedup, by its method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stages.dedup.clustered import clustered
from stages.dedup.filtered import filtered
from stages.dedup.spec import AnyDedup, Filtering, Substring, read_spec
from stages.dedup.substring import substring
from stages.dedup.tasks import Groups, Phases, Signed, group_parts, run_inline

__all__ = ["clustered", "filtered", "group_parts", "phases", "run_inline", "substring"]


def phases(
    spec: AnyDedup | Mapping[str, Any], groups: Groups, folder: str, signed: Sequence[Signed] = ()
) -> Phases:
    """`filtered` for bff and paragraphs, `substring`, `clustered` for all others: in `removals` they list those of each part.

    Where the summary has `parts`, these are to be read in place of the old ones, row for row. signed: the parts in other groups
    for the first phase, which reads all of a part's text and hangs on no other part; left out: `groups`.
    """
    settings = read_spec(spec)
    if isinstance(settings, Filtering):
        return filtered(settings, groups, folder, signed)
    return (substring if isinstance(settings, Substring) else clustered)(settings, groups, folder, signed)
