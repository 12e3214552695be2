"""Fixtures that every test file may use."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from stages.cache import cache_root

sys.path.append(str(Path(__file__).resolve().parent))
pytest_plugins = ["s3_server"]

# The tests start hundreds of processes: each would compile our sources again, and each worker the tests.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# A test with a cache of its own needs no kernels of its own: to compile a recipe's takes a minute. Those of kernels say so.
os.environ.setdefault("HEADRACE_KERNEL_CACHE", str(cache_root() / "kernels"))

# What tests write lies in memory where there is room, and else on disk: half of what many of them wait for is a disk that
# makes sure of each file. TMPDIR or --basetemp names another place.
MEMORY, ROOM = Path("/dev/shm"), 6 << 30
FOLDER = "headrace-"

SHARED = Path(os.environ.get("HEADRACE_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


# Files of few tests that take long. They begin: else a process would be left alone with one of them at the end.
FIRST = (
    "test_pages.py",
    "test_dedup_kill.py",
    "test_bounds.py",
    "test_ray_start.py",
    "test_adapt_training.py",
    "test_change.py",
    "test_first_hour.py",
    "test_ablate.py",
    "test_run.py",
    "test_keys.py",
    "test_cluster_size.py",
    "test_processes.py",
    "test_against.py",
    "test_compile.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """Choose where temporary files lie, for this process and those that it starts, workers of pytest-xdist among them."""
    if "TMPDIR" in os.environ or config.option.basetemp or not MEMORY.is_dir():
        return
    for left in MEMORY.glob(f"{FOLDER}[0-9]*"):  # by a process that was killed, or whose tests failed
        with suppress(ValueError, ProcessLookupError, PermissionError):
            os.kill(int(left.name.removeprefix(FOLDER)), 0)
            continue
        shutil.rmtree(left, ignore_errors=True)
    if shutil.disk_usage(MEMORY).free >= ROOM:
        folder = MEMORY / f"{FOLDER}{os.getpid()}"
        folder.mkdir()
        os.environ["TMPDIR"] = tempfile.tempdir = str(folder)


def pytest_sessionfinish(exitstatus: int) -> None:
    """Give the memory back; where a test failed, what it wrote stays until the next session."""
    folder = MEMORY / f"{FOLDER}{os.getpid()}"
    if os.environ.get("TMPDIR") == str(folder) and exitstatus == pytest.ExitCode.OK:
        shutil.rmtree(folder, ignore_errors=True)


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
