"""How a run is carried out: recipe, plan, engine, ledger, storage, progress, command line. Knows no text.

From Python (docs/python.md): `run(recipe)` carries out a recipe, `open_run(folder)` opens what one left. Both give a `Run`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.api import Run, open_run, run

__all__ = ["Run", "open_run", "run"]


def __getattr__(name: str) -> Any:
    """The three names are imported when they are first asked for: `import pipeline` alone costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline import api

    return getattr(api, name)
