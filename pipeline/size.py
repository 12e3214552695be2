"""Is a run large for this machine? Then it says what it would need, and asks for `--yes`, before anything is read.

And how much memory the machine has.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from pipeline.recipe import Recipe
from stages.errors import UserError
from stages.units import show_bytes, show_count, show_seconds

# Text through a DCLM-like source on one core, everything included, as the benchmarks measure it.
BYTES_PER_CORE_SECOND = 10e6
# Disk at the fullest moment, as a share of the text: compressed parts, shuffle files and shards together.
DISK_PER_BYTE = 0.9
LARGE_CORE_HOURS = 24


def check_size(recipe: Recipe, address: str | None) -> None:
    """Raise UserError, with the numbers, for a run that this machine would be busy with for over a day."""
    if recipe.expected is None or address is not None:
        return
    text, cores = recipe.expected.text_bytes, os.cpu_count() or 1
    core_seconds = text / BYTES_PER_CORE_SECOND
    if core_seconds / 3600 < LARGE_CORE_HOURS:
        return
    free = shutil.disk_usage(".").free
    raise UserError(
        f"{recipe.name}, profile {recipe.profile}, is a run of {show_bytes(text)} of text "
        f"({show_count(recipe.expected.documents)} documents): about {show_count(core_seconds / 3600)} core-hours, which is "
        f"{show_seconds(core_seconds / cores)} on the {cores} cores here, and {show_bytes(text * DISK_PER_BYTE)} of disk, of "
        f"which {show_bytes(free)} are free here; run it on a cluster with --address and --out s3://..., or start it here "
        "with --yes; python -m pipeline plan tells what it takes, phase by phase"
    )


def machine_memory() -> int:
    """Bytes of memory that processes here may take: the machine's, or what its control group allows."""
    limit = Path("/sys/fs/cgroup/memory.max")
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    text = limit.read_text().strip() if limit.exists() else "max"
    return min(total, int(text)) if text.isdigit() else total
