"""Trains one fastText model, in a process of its own: `python -m stages.quality.fit` reads its arguments from stdin.

A process of its own, because fastText leaves most of its input matrix as the memory was when training runs in one
thread (it initialises a tenth for each of ten threads): in a fresh process whose large blocks come straight from the
system that memory is zero, and equal input gives an equal model, byte for byte. It also gives back what it used.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from stages.errors import InputError, UserError
from stages.quality.fasttext_file import read_model_file

PROBE_BYTES = 1 << 20


def fit(text: Path, model: Path, arguments: dict) -> None:
    """Train on a file of labelled lines and write the model file. `arguments` are those of fasttext.train_supervised.

    Raises UserError where fastText fails, with what it said, and OSError where the disk has no room for the model.
    """
    root = str(Path(__file__).resolve().parents[2])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in (root, os.environ.get("PYTHONPATH")) if p),
        "MALLOC_MMAP_THRESHOLD_": "65536",  # glibc: blocks of 64 kB or more are fresh, zeroed pages
        "MALLOC_PERTURB_": "255",  # glibc: smaller ones are filled with the complement of this, zero
    }
    request = json.dumps({"text": str(text), "model": str(model), "arguments": arguments})
    done = subprocess.run(
        [sys.executable, "-P", "-m", "stages.quality.fit"], input=request, env=environment, capture_output=True, text=True
    )
    if done.returncode != 0 or not model.is_file():
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise UserError(f"fastText could not train on {text}: {said[-1]}")
    _check_whole(model)


def _check_whole(model: Path) -> None:
    """fastText does not notice that its file could not be written to the end: raise what the disk says of it, an OSError."""
    try:
        read_model_file(model)
        return
    except InputError:
        pass
    try:
        with model.open("ab") as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(model)) from None
    raise UserError(f"fastText did not write {model} to its end, and the disk says of no fault: run again")


def main() -> None:
    """Train as asked on stdin (JSON: text, model, arguments)."""
    import fasttext

    request = json.load(sys.stdin)
    model = fasttext.train_supervised(input=request["text"], **request["arguments"])
    model.save_model(request["model"])


if __name__ == "__main__":
    main()
