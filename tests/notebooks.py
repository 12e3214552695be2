"""Runs a notebook's cells in a fresh Python process, without Jupyter; `python tests/notebooks.py NOTEBOOK` stores the outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RUNNER = """
import ast, contextlib, io, json, sys
cells, names, told = json.load(open(sys.argv[1])), {"__name__": "__main__"}, []
for cell in cells:
    tree = ast.parse(cell)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(tree, "cell", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names) if last else None
    told.append([out.getvalue(), None if value is None else repr(value)])
json.dump(told, open(sys.argv[2], "w"))
"""


def cells_of(path: Path) -> list[str]:
    """The sources of a notebook's code cells."""
    return ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def execute(path: Path, folder: Path) -> list[tuple[str, str | None]]:
    """What each code cell printed, and its last value (`repr`). Raises RuntimeError with the traceback of a cell that fails."""
    (folder / "cells.json").write_text(json.dumps(cells_of(path)))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-c", RUNNER, "cells.json", "told.json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{path}: {done.stderr}")
    return [(printed, value) for printed, value in json.loads((folder / "told.json").read_text())]


def outputs(printed: str, value: str | None, number: int) -> list[dict]:
    """Outputs of a cell as a notebook holds them."""
    found: list[dict] = []
    if printed:
        found.append({"output_type": "stream", "name": "stdout", "text": printed.splitlines(keepends=True)})
    if value is not None:
        data = {"text/plain": value.splitlines(keepends=True)}
        found.append({"output_type": "execute_result", "execution_count": number, "data": data, "metadata": {}})
    return found


def store(path: Path) -> None:
    """Execute a notebook and write what its cells gave into it."""
    book = json.loads(path.read_text())
    with tempfile.TemporaryDirectory() as folder:
        told = iter(execute(path, Path(folder)))
    for number, cell in enumerate((cell for cell in book["cells"] if cell["cell_type"] == "code"), 1):
        cell["execution_count"] = number
        cell["outputs"] = outputs(*next(told), number)
    path.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    store(Path(sys.argv[1]))
