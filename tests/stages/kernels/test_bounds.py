"""No kernel reads or writes outside its arrays, whatever the texts are."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve()
TESTS = HERE.parents[2]
LIMIT = 1800  # seconds: the first run on a machine compiles all kernels with checks, which takes a minute of one core


def test_every_kernel_stays_within_its_arrays_on_hostile_texts() -> None:
    """In a process of its own: what this finds may end it. Numba's checks are on, and those of stages/kernels/bounds.py."""
    paths = [TESTS.parent, TESTS, TESTS / "stages" / "quality"]
    environment = os.environ | {
        "NUMBA_BOUNDSCHECK": "1",
        "NUMBA_OPT": "1",
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    command = [sys.executable, str(HERE.with_name("hostile.py"))]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "checked: True; not called: none; wrong: 0" in done.stdout
