"""Fixtures that every test file may use."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stages.cache import cache_root

sys.path.append(str(Path(__file__).resolve().parent))
pytest_plugins = ["s3_server"]

# A test with a cache of its own needs no kernels of its own: to compile a recipe's takes a minute. Those of kernels say so.
os.environ.setdefault("HEADRACE_KERNEL_CACHE", str(cache_root() / "kernels"))

SHARED = Path(os.environ.get("HEADRACE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


# Files of few tests that take long. They begin: else a process would be left alone with one of them at the end.
FIRST = (
    "test_pages.py",
    "test_dedup_kill.py",
    "test_bounds.py",
    "test_ray_start.py",
    "test_adapt_training.py",
    "test_change.py",
    "test_run.py",
    "test_keys.py",
    "test_cluster_size.py",
    "test_processes.py",
    "test_against.py",
    "test_compile.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long first; all else in the order of their names."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: places.get(item.path.name, len(FIRST)))


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
