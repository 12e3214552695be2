"""Imports point one way: pipeline -> stages; stages know no Ray; the trainer knows the shard format alone."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pyarrow as pa
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARD_FORMAT = "stages.tokens.shard_format"


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found
    return found


@pytest.mark.parametrize("path", modules("stages"), ids=str)
def test_stages_know_neither_ray_nor_pipeline_nor_trainer(path: Path) -> None:
    assert not [name for name in imports(path) if name.split(".")[0] in ("ray", "pipeline", "trainer")]


@pytest.mark.parametrize("path", modules("trainer"), ids=str)
def test_the_trainer_knows_the_shard_format_alone(path: Path) -> None:
    names = [name for name in imports(path) if name.split(".")[0] in ("stages", "pipeline", "ray")]
    assert all(name == SHARD_FORMAT or name.startswith(SHARD_FORMAT + ".") or name == "stages.tokens" for name in names), names


@pytest.mark.parametrize("path", modules("trainer/loader"), ids=str)
def test_the_loader_needs_numpy_alone(path: Path) -> None:
    roots = {name.split(".")[0] for name in imports(path)} - {"__future__", "stages", "trainer"}
    assert roots - sys.stdlib_module_names <= {"numpy"}
    inside = {"trainer.errors", "trainer.host", "trainer.loader"}
    assert all(".".join(name.split(".")[:2]) in inside for name in imports(path) if name.split(".")[0] == "trainer")


def test_one_file_imports_ray_and_the_pipeline_needs_no_torch() -> None:
    for path in modules("pipeline"):
        roots = {name.split(".")[0] for name in imports(path)}
        assert "torch" not in roots, path
        # A step is traced through the trainer's own order, which is NumPy alone; nothing else here knows the trainer.
        assert "trainer" not in roots or path.name == "trace_step.py", path
        assert "ray" not in roots or path.name == "ray_driver.py", path


def test_the_shard_format_needs_numpy_alone() -> None:
    names = [*imports(ROOT / "stages/tokens/shard_format.py"), *imports(ROOT / "stages/tokens/manifest_shape.py")]
    assert {name for name in names if name.startswith("stages") and name.count(".") == 2} == {"stages.tokens.manifest_shape"}
    assert {name.split(".")[0] for name in names} - {"__future__", "stages"} - sys.stdlib_module_names == {"numpy"}


def test_the_filter_in_the_architecture_page_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's example is run as it stands, kernel and all."""
    page = (ROOT / "docs/architecture.md").read_text()
    code = next(block for block in re.findall(r"```python\n(.*?)```", page, re.S) if "class Vowels" in block)
    assert len(code.splitlines()) < 60
    (tmp_path / "vowels_example.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    step = import_module("vowels_example").Vowels(share=[0.1, 0.5])
    docs = pa.record_batch({"text": pa.array(["banana", "xyz", ""], pa.large_string())})
    measures = step.measure(docs)
    assert list(measures["share"][:2]) == [0.5, 0.0]
    assert list(step.decide(measures)) == [-1, 0, -1]
    assert step.reasons() == ["share.min", "share.max"]
