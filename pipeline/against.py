"""`against` in a recipe's dedup: finished runs, by their folders, whose indexes its documents are compared with."""

from __future__ import annotations

from typing import Any

from pipeline import storage
from pipeline.storage.uri import located
from stages.dedup.index import DOCS, KEYS, index_name
from stages.dedup.spec import AnyDedup, Filtering
from stages.errors import UserError

MANIFEST = "manifest.json"


def with_indexes(settings: Any, folder: str | None) -> Any:
    """The settings of a dedup with the index files of the runs that it names in their place (of bff: with the saved filter as
    `load`). A run that is not there, or keeps no such index, stays as it is named: `check_against` tells it."""
    runs = [located(uri, folder) for uri in getattr(settings, "against", ())]
    if not runs:
        return settings
    if isinstance(settings, Filtering):
        found = _files(runs[0], "filter-*.bloom")
        one = len(runs) == len(found) == 1
        return settings.model_copy(update={"load": found[0], "against": ()} if one else {"against": tuple(runs)})
    files: list[str] = []
    for run in runs:
        found = _files(run, f"{index_name(settings)}-*")
        files += [uri for uri in found if uri.endswith((KEYS, DOCS))] or [run]
    return settings.model_copy(update={"against": tuple(files)})


def _files(run: str, name: str) -> list[str]:
    if run.endswith((KEYS, DOCS)) or not storage.exists(storage.join(run, MANIFEST)):
        return []
    return sorted(entry.uri for entry in storage.list_files(f"{run.rstrip('/')}/parts/dedup/*/*/{name}"))


def check_against(key: str, settings: AnyDedup) -> None:
    """Raise UserError, with the recipe's key, for a run that keeps no index that the dedup could be compared with."""
    for uri in getattr(settings, "against", ()):
        if uri.endswith((KEYS, DOCS)):
            continue
        where = storage.redact(uri)
        if not storage.exists(storage.join(uri, MANIFEST)):
            raise UserError(f"{key}.against: {where} holds no finished run")
        if isinstance(settings, Filtering):
            raise UserError(
                f"{key}.against: {settings.method} begins with the one filter of one run, kept by `save: true` and `shards: 1`; "
                f"{where} has "
                f"{len(_files(uri, 'filter-*.bloom'))}, and {len(settings.against)} runs are named (the filter of a run that was "
                "compared with another holds both)"
            )
        raise UserError(
            f"{key}.against: {where} keeps no index of a dedup by {settings.method} with these settings; run its recipe again "
            "with `save: true` in that dedup, and the same settings"
        )
