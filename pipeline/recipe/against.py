"""`against` in a recipe's dedup: finished runs, by their folders, whose indexes its documents are compared with."""

from __future__ import annotations

from typing import Any

from pipeline import storage
from pipeline.storage.uri import located
from stages.dedup.bloom import filter_kind
from stages.dedup.index import DOCS, KEYS, index_name
from stages.dedup.spec import AnyDedup, Filtering, Substring
from stages.errors import UserError

MANIFEST = "manifest.json"
FILTER = ".bloom"
FILES = (KEYS, DOCS, FILTER)


def with_indexes(settings: Any, folder: str | None) -> Any:
    """The settings of a dedup with the index files of the runs that it names in their place (of bff and paragraphs: saved
    filters). A run that is not there, or keeps no such index, stays as it is named: `check_against` tells it."""
    runs = [located(uri, folder) for uri in getattr(settings, "against", ())]
    if not runs:
        return settings
    files = [uri for run in runs for uri in (_files(run, settings) or [run])]
    return settings.model_copy(update={"against": tuple(files)})


def _files(run: str, settings: Any) -> list[str]:
    if run.endswith(FILES) or not storage.exists(storage.join(run, MANIFEST)):
        return []
    name = f"filter-*{FILTER}" if isinstance(settings, Filtering) else f"{index_name(settings)}-*"
    found = sorted(entry.uri for entry in storage.list_files(f"{run.rstrip('/')}/parts/dedup/*/*/{name}"))
    if isinstance(settings, Filtering):
        return [uri for uri in found if _kind(uri) == (settings.words, settings.seed)]
    return [uri for uri in found if uri.endswith((KEYS, DOCS))]


def _kind(uri: str) -> tuple[int, int]:
    with storage.open_random(uri) as file:
        return filter_kind(file, uri)


def check_against(key: str, settings: AnyDedup) -> None:
    """Raise UserError, with the recipe's key, for a run that keeps no index that the dedup could be compared with."""
    if isinstance(settings, Substring):
        return
    for uri in settings.against:
        if uri.endswith(FILES):
            continue
        where = storage.redact(uri)
        if not storage.exists(storage.join(uri, MANIFEST)):
            raise UserError(f"{key}.against: {where} holds no finished run")
        raise UserError(
            f"{key}.against: {where} keeps no index of a dedup by {settings.method} with these settings; run its recipe again "
            "with `save: true` in that dedup, and the same settings"
        )
