"""Fixtures that every test file may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent))
pytest_plugins = ["s3_server"]

SHARED = Path(os.environ.get("HEADRACE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data that lies beside the checkout; tests that need it are skipped where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"real data not found at {SHARED} (set HEADRACE_SHARED_DATA)")
    return SHARED


@pytest.fixture(autouse=True)
def _no_ray_here() -> Iterator[None]:
    """Tests fork, and a process that Ray was loaded into cannot do that safely: its children may crash."""
    yield
    assert "ray._raylet" not in sys.modules, "Ray was loaded into the process of the tests"
