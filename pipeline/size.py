"""Is a run large for this machine? Then it says what it would need, and asks for `--yes`, before anything is read.

And how much memory the machine has.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.recipe.recipe import Recipe
from stages.errors import UserError
from stages.units import show_bytes, show_count

LARGE_TEXT = 800 * 10**9  # bytes; a day or so of a few cores


def check_size(recipe: Recipe, address: str | None) -> None:
    """Raise UserError for a run over more text than this machine gets through in about a day. What it takes, `plan` tells."""
    if recipe.expected is None or address is not None or recipe.expected.text_bytes < LARGE_TEXT:
        return
    text, cores, free = recipe.expected.text_bytes, os.cpu_count() or 1, shutil.disk_usage(".").free
    profile = f" --profile {recipe.profile}" if recipe.profile else ""
    raise UserError(
        f"{recipe.name}, profile {recipe.profile}, is a run of {show_bytes(text)} of text "
        f"({show_count(recipe.expected.documents)} documents), and here are {cores} cores and {show_bytes(free)} of free disk: "
        "run it on a cluster with --address and --out s3://..., or start it here with --yes; "
        f"python -m pipeline plan {recipe.file or 'RECIPE'}{profile} --measure tells what it takes, phase by phase"
    )


def machine_memory() -> int:
    """Bytes of memory that processes here may take: the machine's, or what its control group allows."""
    limit = Path("/sys/fs/cgroup/memory.max")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(text)) if text.isdigit() else total
