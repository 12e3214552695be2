"""The one folder for what is made or fetched once a machine: compiled kernels, folded models, the sample, fetched files."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """HEADRACE_CACHE if set, else headrace in XDG_CACHE_HOME, else in ~/.cache."""
    named = os.environ.get("HEADRACE_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "headrace"
