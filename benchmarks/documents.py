"""Many small documents: a corpus of millions of them through tokenize, mix and inspect, with the memory of each process.

    python -m benchmarks documents [--documents 1e6 1e7] [--workers 2] [--json FILE]

What a document costs beside its bytes shows where documents are many and short: here some 110 bytes of text each,
drawn from a set of sentences, in two sources. What grows with their number, and not with a size in the recipe, is a
fault. A page of text for each of ten million documents would be fifteen times as many bytes, and no more rows.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.chains import default_tokenizer
from benchmarks.tables import show_table, verdict

GROWTH = 1.15  # of a process's peak, from the least to the most documents
FILE_DOCUMENTS = 500_000
SOURCES = {"first": 0.7, "second": 0.3}
WORDS = ["the", "of", "and", "to", "have", "with", "that", "be", "water", "wheel", "mill", "river", "turns", "stone"]


def write_corpus(folder: Path, documents: int) -> dict[str, list[str]]:
    """JSON lines of so many documents, the same ones every time; the files of each source."""
    rng = random.Random(0)
    words = WORDS + ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(3, 9))) for _ in range(4000)]
    sentences = [" ".join(rng.choices(words, k=rng.randint(6, 12))) + "." for _ in range(2000)]
    files: dict[str, list[str]] = {}
    for source, share in SOURCES.items():
        files[source] = []
        total = int(documents * share)
        for first in range(0, total, FILE_DOCUMENTS):
            path = folder / f"{source}-{first // FILE_DOCUMENTS:03d}.jsonl"
            files[source].append(str(path))
            with path.open("w") as out:
                for number in range(first, min(total, first + FILE_DOCUMENTS)):
                    # No two texts are the same, and the words are few: the tokenizer's cache of them is no matter here.
                    mark = f"{source} {number % 1000} {number // 1000 % 1000} {number // 1_000_000}"
                    text = f"{sentences[number % 1999]} {sentences[number * 7 % 2000]} {mark}"
                    out.write(f'{{"id": "{source}-{number}", "text": "{text}"}}\n')
    return files


def recipe(files: dict[str, list[str]], tokenizer: Path) -> dict[str, Any]:
    """Documents to tokens, and nothing else; a million of them fill several shards, so that all that can be busy is."""
    return {
        "name": "documents",
        "sources": {
            source: {"read": {"paths": paths, "url_field": None, "metadata": False}} for source, paths in files.items()
        },
        "tokenizer": {"path": str(tokenizer)},
        "shards": {"bytes": "8MiB", "held_out": 0.001},
        "mixture": {"epochs": 1.5},
        "run": {"keep": "none", "split_bytes": "64MiB"},
    }


def pass_through(work: Path, documents: int, workers: int) -> dict[str, Any]:
    """Run the three commands; peak memory by command and kind of process, and seconds by command."""
    folder = Path(tempfile.mkdtemp(dir=work, prefix="documents-"))
    try:
        path = folder / "recipe.json"
        path.write_text(json.dumps(recipe(write_corpus(folder, documents), default_tokenizer(work, WORDS))))
        out, mixed = str(folder / "run"), str(folder / "mixed")
        commands = {
            "run": [
                "run",
                str(path),
                "--out",
                out,
                "--json",
                *(["--workers", str(workers)] if workers else ["--inline"]),
            ],
            "mix": ["mix", out, "--out", mixed, "--set", "epochs=1.26"],
            "inspect": ["inspect", mixed, "--json"],
        }
        found: dict[str, Any] = {"documents": documents, "seconds": {}, "peaks": {}}
        for name, command in commands.items():
            usage = measure.run(["-m", "pipeline", *command], None)
            found["seconds"][name] = usage.seconds
            for process in usage.processes:
                kind = f"{name}: {'a worker with its tasks' if process.name.startswith('ray::') else process.name}"
                if process.name.startswith(("ray::", "python -m pipeline")):
                    found["peaks"][kind] = max(found["peaks"].get(kind, 0), process.peak)
        held = json.loads(usage.output)
        found["problems"] = held["problems"]
        found["tokens"] = sum(s["tokens"] + s["held_out"]["tokens"] for s in held["sources"].values())
        counted = sum(s["documents"] + s["held_out"]["documents"] for s in held["sources"].values())
        if counted != sum(int(documents * share) for share in SOURCES.values()) or held["problems"]:
            raise SystemExit(f"{counted:,} documents came out of {documents:,}; problems: {held['problems'][:3]}")
        return found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str] | None = None) -> None:
    """Run at each number of documents, and print a row a process."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks documents", description=__doc__.splitlines()[0])
    parser.add_argument("--documents", type=float, nargs="+", default=[1e5, 1e6], help="(default: 1e5 1e6)")
    parser.add_argument("--workers", type=int, default=2, help="Ray workers; 0: all in one process (default 2)")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench", help="scratch folder"
    )
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    args.work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine("ray", "pyarrow", "fastokens")
    print(measure.show_machine(facts))
    runs = []
    for number in args.documents:
        runs.append(pass_through(args.work, int(number), args.workers))
        seconds = ", ".join(f"{name} {value:.0f} s" for name, value in runs[-1]["seconds"].items())
        print(f"{int(number):,} documents, {runs[-1]['tokens'] / 1e6:,.0f}M tokens: {seconds}", flush=True)
    kinds = sorted({kind for run in runs for kind in run["peaks"]}, key=lambda kind: -runs[-1]["peaks"].get(kind, 0))
    rows = [
        [kind, *(f"{run['peaks'].get(kind, 0) / 1e6:,.0f} MB" for run in runs), f"x{growth(runs, kind):.2f}"]
        for kind in kinds
    ]
    show_table("peak memory", ["command: process", *(f"{run['documents']:,}" for run in runs), "growth"], rows)
    worst = max(growth(runs, kind) for kind in kinds)
    times = runs[-1]["documents"] / runs[0]["documents"]
    print(f"x{times:.0f} the documents take x{worst:.2f} the memory: {verdict(worst, GROWTH, at_most=True)}")
    measure.write_json(args.json, {"machine": facts, "runs": runs})


def growth(runs: list[dict[str, Any]], kind: str) -> float:
    """A process's peak at the most documents over that at the least."""
    return runs[-1]["peaks"].get(kind, 0) / max(runs[0]["peaks"].get(kind, 0), 1)


if __name__ == "__main__":
    main()
