"""Compiled kernels: once for each Python, processor and source; what is edited is compiled again, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]

LOAD_ALL = """
from stages.kernels.warm import ensure_warm, is_warm, kernels

ensure_warm()
assert is_warm()
for kernel in kernels():
    kernel.load()
    assert kernel.compiled.stats.cache_misses == {}, kernel.__name__
print(len(kernels()))
"""

# A project of three modules of kernels, which take a second to compile.
SHARED = """
from stages.kernels.compile import helper
ADDED = {added}

@helper
def plus(x):
    return x + ADDED
"""
KERNEL = """
from stages.kernels.compile import kernel
from stages.kernels import shared

plus = shared.plus

@kernel("int64(int64)")
def {name}(x):
    return plus(x) * {factor}
"""
ALONE = """
from stages.kernels.compile import kernel


@kernel("int64(int64)")
def alone(x):
    return -x
"""
CALL = """
import json
from stages.kernels.warm import ensure_warm, is_warm, kernels

warm = is_warm()
ensure_warm()
found = {k.__name__: k(10) for k in kernels()}
compiled = sorted(k.__name__ for k in kernels() if k.compiled.stats.cache_misses)
print(json.dumps({"warm": warm, "found": found, "compiled here": compiled}))
"""


def test_every_kernel_is_compiled_ahead() -> None:
    """What a worker would have to compile for itself costs each of them half a minute and 300 MB."""
    done = subprocess.run([sys.executable, "-c", LOAD_ALL], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The real machinery over three small modules of kernels."""
    package = tmp_path / "stages"
    (package / "kernels").mkdir(parents=True)
    for name in (
        "__init__.py",
        "cache.py",
        "kernels/__init__.py",
        "kernels/compile.py",
        "kernels/stored.py",
        "kernels/warm.py",
    ):
        shutil.copy(ROOT / "stages" / name, package / name)
    (package / "steps.py").write_text("")
    (package / "kernels/shared.py").write_text(SHARED.format(added=1))
    (package / "kernels/one.py").write_text(KERNEL.format(name="one", factor=2))
    (package / "kernels/two.py").write_text(KERNEL.format(name="two", factor=3))
    (package / "kernels/alone.py").write_text(ALONE)
    return tmp_path


def call(project: Path, python: str = sys.executable, **environment: str) -> dict[str, Any]:
    """In a process of its own: was the cache warm, what do the kernels give, which were compiled in that process."""
    variables = {"PYTHONPATH": str(project), "HEADRACE_KERNEL_CACHE": str(project / "cache"), **environment}
    done = subprocess.run(
        [python, "-c", CALL], cwd=project, env=os.environ | variables, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def compiled(project: Path) -> dict[str, int]:
    """Which kernels lie in the cache, and when each was written."""
    return {str(path): path.stat().st_mtime_ns for path in (project / "cache").rglob("*.nbc")}


def test_an_edited_kernel_is_compiled_again_and_no_other(project: Path) -> None:
    values = {"one": 22, "two": 33, "alone": -10}
    assert call(project) == {"warm": False, "found": values, "compiled here": []}
    first = compiled(project)
    assert len(first) == 3
    assert call(project) == {"warm": True, "found": values, "compiled here": []}
    (project / "stages/kernels/one.py").write_text(KERNEL.format(name="one", factor=5))
    assert call(project) == {"warm": False, "found": values | {"one": 55}, "compiled here": []}
    second = compiled(project)
    assert [name for name in second.keys() - first.keys() if "/stages.kernels.one-" not in name] == []
    assert first.items() <= second.items()
    # What a helper does is part of all kernels that call it.
    (project / "stages/kernels/shared.py").write_text(SHARED.format(added=2))
    assert call(project)["found"] == {"one": 60, "two": 36, "alone": -10}
    third = compiled(project)
    assert len(third.keys() - second.keys()) == 2 and second.items() <= third.items()


def test_sources_of_another_age_or_place_are_the_same_sources(
    project: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    call(project)
    before = compiled(project)
    os.utime(project / "stages/kernels/one.py", (1, 1))
    other = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(project / "stages", other / "stages")
    for place in (project, other):
        assert call(place, HEADRACE_KERNEL_CACHE=str(project / "cache"))["warm"]
    assert compiled(project) == before


def test_each_processor_has_its_own(project: Path) -> None:
    """A home that several kinds of machines share; and the compiler's settings, of which bounds checks are one."""
    call(project)
    for variables in ({"NUMBA_CPU_NAME": "generic"}, {"NUMBA_CPU_FEATURES": "+sse2"}, {"NUMBA_BOUNDSCHECK": "1"}):
        assert not call(project, **variables)["warm"]
        assert call(project, **variables) == {
            "warm": True,
            "found": {"one": 22, "two": 33, "alone": -10},
            "compiled here": [],
        }
    assert call(project)["warm"]
    assert len(compiled(project)) == 12


def test_each_python_has_its_own(project: Path) -> None:
    """Where another one compiled first, nothing is compiled in the processes that work."""
    others = [python for python in other_pythons() if can_import_numba(python)]
    if not others:
        pytest.skip("no second Python with Numba on this machine")
    call(project)
    found = call(project, others[0])
    assert (found["warm"], found["compiled here"]) == (False, [])
    assert call(project, others[0])["warm"] and call(project)["warm"]
    assert len(compiled(project)) == 6


def other_pythons() -> list[str]:
    """HEADRACE_SECOND_PYTHON, or what the path has."""
    named = os.environ.get("HEADRACE_SECOND_PYTHON")
    mine = f"python3.{sys.version_info.minor}"
    names = [named] if named else [f"python3.{minor}" for minor in (11, 12, 13, 14) if f"python3.{minor}" != mine]
    return [path for name in names if (path := shutil.which(name))]


def can_import_numba(python: str) -> bool:
    return subprocess.run([python, "-c", "import numba"], capture_output=True, timeout=120).returncode == 0


def test_a_users_setting_of_numba_does_not_take_the_compiler_away(project: Path) -> None:
    """NUMBA_DISABLE_JIT is set for other code that is looked into; kernels run compiled all the same."""
    found = call(project, NUMBA_DISABLE_JIT="1")
    assert found == {"warm": False, "found": {"one": 22, "two": 33, "alone": -10}, "compiled here": []}
    assert call(project)["warm"]


def test_kernels_of_a_users_module_follow_its_own_imports(project: Path) -> None:
    """A filter outside the project: its file, and the files beside it that it imports, decide which code is loaded."""
    (project / "mine.py").write_text(
        ALONE.replace("-x", "x + ADDED").replace("alone", "mine") + "\n\nfrom table import ADDED\n"
    )
    code = "import mine; print(mine.mine(1), bool(mine.mine.compiled.stats.cache_hits))"
    seen = []
    for added in (1, 1, 7):
        (project / "table.py").write_text(f"ADDED = {added}\n")
        shutil.rmtree(project / "__pycache__", ignore_errors=True)
        variables = {"PYTHONPATH": str(project), "HEADRACE_KERNEL_CACHE": str(project / "cache"), "PYTHONPYCACHEPREFIX": ""}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=project,
            env=os.environ | variables,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        seen.append(done.stdout.split())
    assert seen == [["2", "False"], ["2", "True"], ["8", "False"]]


def test_a_kernel_without_a_file_is_compiled_where_it_is_called(project: Path) -> None:
    """As in a notebook."""
    code = (
        "from stages.kernels.compile import kernel\n"
        "def twice(x):\n    return 2 * x\n"
        "print(kernel('int64(int64)')(twice)(21))"
    )
    variables = {"PYTHONPATH": str(project), "HEADRACE_KERNEL_CACHE": str(project / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | variables, capture_output=True, text=True, timeout=120
    )
    assert done.stdout == "42\n", done.stderr
