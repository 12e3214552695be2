"""Beside tools other than datatrove, each in an environment of its own: ratios of processor time, in one run.

    python -m benchmarks peers [NAME ...] [--size MB] [--environments DIR] [--json FILE]

| name | the tool | what both do |
|---|---|---|
| polars | polars 2.1 | find the rows of Parquet files whose text stood before |
| dolma | Dolma 1.2.1 | the rules of Gopher and of C4; whole paragraphs that stood before |
| nemo | NeMo Curator 1.4, its filters for CPUs | the rules of Gopher, with and without repetition |
| litdata | litdata 0.2.76 | batches of tokens in shuffled order from files of this machine |
| memmap | NumPy's memory maps under PyTorch's DataLoader | the same |

The environments are made at the first call, in --environments; one that cannot be installed is told, with pip's last line, and
left out. Tools run on one core, with one thread. Not all do the same on the way: Dolma's deduper reads and writes
compressed JSON, where Headrace reads and writes Parquet.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from benchmarks import loader, measure
from benchmarks.dedup import SHARED, corpus, write_parts
from benchmarks.tables import show_table
from stages.dedup.phases import group_parts, phases, run_inline
from stages.document import rebatch
from stages.steps import STEPS
from trainer import shards
from trainer.host import reuse_memory

CHILD = Path(__file__).with_name("peers_child.py")
# What pip is asked for. Packages that this environment has are lent to those of LENT: litdata and NeMo ask for gigabytes else,
# and what Dolma asks for (s3fs of 2023, and botocore with it) keeps pip searching for hours.
PACKAGES: dict[str, list[str]] = {
    "polars": ["polars==2.1.0"],
    "dolma": ["--no-deps", "dolma==1.2.1", "anyascii", "blingfire==0.1.8", "necessary", "requirements-parser",
              "omegaconf", "antlr4-python3-runtime==4.9.3"],
    "nemo": ["--no-deps", "nemo-curator==1.4.0", "cosmos-xenna==0.2.0", "comment_parser", "absl-py", "jieba==0.42.1",
             "mecab-python3"],
    "litdata": ["--no-deps", "litdata==0.2.76", "obstore", "lightning-utilities"],
    "memmap": [],
}  # fmt: skip
LENT = ("dolma", "nemo", "litdata", "memmap")
LOADERS = ("litdata", "memmap")
LENGTH, SHARDS, SHARD_TOKENS = 4096, 4, 10_000_000


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser("python -m benchmarks peers", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PACKAGES)} (all)")
    parser.add_argument("--size", type=float, default=20, help="MB of text (20)")
    default = Path(tempfile.gettempdir()) / "headrace-bench" / "peers"
    parser.add_argument("--environments", type=Path, default=default, help=f"where the environments are kept ({default})")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    if wrong := [name for name in args.names if name not in PACKAGES]:
        parser.error(f"no such tool: {', '.join(wrong)}")
    facts = measure.machine("numba", "pyarrow", "torch")
    print(measure.show_machine(facts))
    if not SHARED.is_dir():
        print(f"no texts to measure with: {SHARED} is not there (set HEADRACE_SHARED_DATA)")
        return
    found: dict[str, Any] = {"machine": facts, "ratios": {}}
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        texts = corpus(int(args.size * 1e6), 0.3)
        prepare(texts, folder)
        size = sum(len(text.encode()) for text in texts) / 1e6
        for name in args.names or PACKAGES:
            if (python := environment(name, args.environments)) is None:
                continue
            for what, (theirs, ours, note) in COMPARISONS[name](python, folder, texts).items():
                amount, unit = (1e-6, "M tokens/s") if name in LOADERS else (size, "MB/s")
                found["ratios"][f"{name}: {what}"] = theirs / ours
                speeds = [f"{amount / seconds:,.1f} {unit}" for seconds in (theirs, ours)]
                rows.append([name, what, *speeds, f"x{theirs / ours:.1f}", note])
    show_table("processor time, one core", ["tool", "what", "the tool", "headrace", "ratio", ""], rows)
    measure.write_json(args.json, found)


def prepare(texts: list[str], folder: Path) -> None:
    """The inputs: Parquet parts, one compressed file of JSON lines, and token shards with a manifest."""
    (folder / "parts").mkdir()
    write_parts(texts, folder / "parts")
    with gzip.open(folder / "texts.jsonl.gz", "wb", 1) as file:
        for number, text in enumerate(texts):
            file.write(orjson.dumps({"id": str(number), "text": text, "source": "x"}) + b"\n")
    loader.write_run(folder, SHARDS, SHARD_TOKENS)
    batch = max(1, (1 << 21) // LENGTH)
    (folder / "loader.json").write_text(json.dumps({"length": LENGTH, "batch": batch}))


def environment(name: str, folder: Path) -> Path | None:
    """The Python of a tool's environment, made where it is not there; None, and a line that says why, where it cannot be."""
    home = folder / name
    python, made = home / "bin" / "python", home / "made.json"
    wanted = json.dumps([PACKAGES[name], sys.version])
    if made.exists() and made.read_text() == wanted:
        return python
    shutil.rmtree(home, ignore_errors=True)
    print(f"{name}: making its environment in {home}", flush=True)
    subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    if PACKAGES[name]:
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[name]]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip() or done.stdout.strip() or "pip said nothing").splitlines()[-1]
            print(f"{name}: left out, as it cannot be installed here: {last}")
            return None
    if name in LENT:
        (packages,) = home.glob("lib/python*/site-packages")
        (packages / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    made.write_text(wanted)
    return python


def child(python: Path, name: str, folder: Path) -> dict[str, Any] | None:
    """What a measurement of `peers_child` found; None, and a line that says why, where it failed."""
    one = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "POLARS_MAX_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | one
    done = subprocess.run([str(python), str(CHILD), name, str(folder)], env=environment, capture_output=True, text=True)
    if done.returncode:
        print(f"{name}: failed: {(done.stderr.strip() or 'it said nothing').splitlines()[-1]}")
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


Compared = dict[str, tuple[float, float, str]]
"""What -> (the tool's CPU seconds, ours, a note); of loaders the seconds of a token."""


def with_polars(python: Path, folder: Path, texts: list[str]) -> Compared:
    """Exact dedup of whole texts."""
    theirs = child(python, "polars_exact", folder)
    ours, removed = _dedup({"method": "exact", "normalize": "none"}, folder, "exact")
    return {"exact dedup": (theirs["seconds"], ours, f"removed {theirs['removed']:,} and {removed:,}")} if theirs else {}


def with_dolma(python: Path, folder: Path, texts: list[str]) -> Compared:
    """Filters, and dedup of paragraphs."""
    found: Compared = {}
    if filters := child(python, "dolma_filters", folder):
        rules = {"gopher_v2": ("Gopher's rules", ("gopher_quality", "repetition")), "c4_v2": ("C4's rules", ("c4_quality",))}
        for theirs, (what, steps) in rules.items():
            found[what] = (filters["seconds"][theirs], _steps(steps, texts), theirs)
    if paragraphs := child(python, "dolma_paragraphs", folder):
        ours, _ = _dedup({"method": "paragraphs", "name_holders": False}, folder, "paragraphs")
        found["whole paragraphs"] = (paragraphs["seconds"], ours, "from files to files")
    return found


def with_nemo(python: Path, folder: Path, texts: list[str]) -> Compared:
    """Filters."""
    theirs = child(python, "nemo_filters", folder)
    if not theirs:
        return {}
    steps = {"gopher": ("Gopher's rules", "gopher_quality"), "repetition": ("Gopher's repetition", "repetition")}
    return {what: (theirs["seconds"][kind], _steps((step,), texts), "") for kind, (what, step) in steps.items()}


def with_loader(name: str) -> Callable[[Path, Path, list[str]], Compared]:
    """An epoch of batches, each by its own shuffled order."""

    def compare(python: Path, folder: Path, texts: list[str]) -> Compared:
        theirs = child(python, f"{name}_loader", folder)
        if not theirs:
            return {}
        reuse_memory()  # as training does
        data = shards.open(folder, LENGTH)
        batch = json.loads((folder / "loader.json").read_text())["batch"]
        ours, tokens = _timed(lambda: sum(np.asarray(one).size for one in data.batches(batch)))
        return {"an epoch": (theirs["seconds"] / theirs["tokens"], ours / tokens, f"batches of {batch} x {LENGTH}")}

    return compare


COMPARISONS: dict[str, Callable[[Path, Path, list[str]], Compared]] = {
    "polars": with_polars,
    "dolma": with_dolma,
    "nemo": with_nemo,
    "litdata": with_loader("litdata"),
    "memmap": with_loader("memmap"),
}


def _dedup(spec: dict[str, Any], folder: Path, name: str) -> tuple[float, int]:
    """CPU seconds of a dedup, from parts to what goes, and the documents removed."""
    parts = [
        {"ordinal": number, "path": str(path), "source": "a", "documents": 0, "bytes": path.stat().st_size, "files": [path.stem]}
        for number, path in enumerate(sorted((folder / "parts").glob("*.parquet")))
    ]
    for number in range(2):  # the first time loads the kernels
        out = folder / f"{name}-{number}"
        out.mkdir()
        seconds, summary = _timed(lambda out=out: run_inline(phases(spec, group_parts(parts, 1 << 26), str(out))))
    return seconds, summary["removed"]


def _steps(names: tuple[str, ...], texts: list[str]) -> float:
    """CPU seconds that steps take to measure the texts."""
    batches = list(rebatch([pa.record_batch({"text": pa.array(texts, pa.large_string())})], 8 << 20))
    steps = [STEPS[name]() for name in names]
    for step in steps:
        step.prepare()
        step.edit(batches[0].slice(0, 1))
    return _timed(lambda: [step.edit(batch) for step in steps for batch in batches])[0]


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    began = time.process_time()
    found = call()
    return time.process_time() - began, found


if __name__ == "__main__":
    main()
