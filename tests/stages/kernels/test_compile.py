"""Compiled kernels are loaded without Numba's tables of how to compile, and nothing is missing then."""

from __future__ import annotations

import subprocess
import sys

import pytest

from stages.kernels.compile import LOADS_DIRECTLY

LOAD_ALL = """
from numba.core.cpu import CPUContext
from stages.kernels.compile import ensure_warm, kernels

ensure_warm()

def refuse(self):
    raise AssertionError("a compiled kernel was not loaded as such")

CPUContext.refresh = refuse
for kernel in kernels():
    kernel.load()
    assert len(kernel.compiled.overloads) == 1, kernel.__name__
print(len(kernels()))
"""


@pytest.mark.skipif(not LOADS_DIRECTLY, reason="kernels are loaded Numba's own way with this version of it")
def test_every_kernel_loads_without_the_compiler() -> None:
    """A symbol that only the compiler registers would end the process; so would a Numba that loads in another way."""
    done = subprocess.run([sys.executable, "-c", LOAD_ALL], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40
