"""Memory of each process of a run, at the sample's size and with an input ten times as large.

    python -m benchmarks memory [--scales 1 10] [--crawl-scales 1 10] [--workers 2] [--limit N] [--json FILE]

Two recipes, each run at all sizes on Ray: configs/dclm_mix.yaml over all seven sources of the sample, and a crawl of
real pages with the splits of a large run (run.split_bytes 256 MiB), through extraction, filters, MinHash and tokens.
Peaks are the kernel's high-water marks of every process below the command: the driver, Ray's workers with their tasks,
the parsing processes, and Ray's own. The ledger's own record of the largest task stands beside them.

What is bounded has to fill before it stops growing: batches of 8 MiB, the tokenizer's cache of words, what a tokenizer
and a classifier are trained on. The sample's recipe sets the last two so that its own size fills them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.chains import FILTERS, default_tokenizer
from benchmarks.crawl import make_crawl
from benchmarks.tables import show_table, verdict

GOAL = 1.5e9  # bytes, any one process
GROWTH = 1.15  # peaks differ by so much between equal runs; more than that is growth
WORKER = "Ray worker with its tasks"
MIX = measure.ROOT / "configs" / "dclm_mix.yaml"


def main(arguments: list[str] | None = None) -> None:
    """Run, and print a table a recipe."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks memory", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scales", type=int, nargs="*", default=[1, 10], help="how many times the sample; none: left out"
    )
    parser.add_argument(
        "--crawl-scales", type=int, nargs="*", default=[1, 10], help="how many times the real pages; none: left out"
    )
    parser.add_argument("--limit", type=int, help="only so many pages of each WARC file of the crawl")
    parser.add_argument("--workers", type=int, default=2, help="Ray workers")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench", help="scratch folder"
    )
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    args.work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine("ray", "pyarrow", "numba")
    print(measure.show_machine(facts))
    found: dict[str, Any] = {"machine": facts}
    if args.scales:
        recipes = [_mixture(args.work, scale) for scale in args.scales]
        found["mixture"] = compare("configs/dclm_mix.yaml, the sample", recipes, args)
    if args.crawl_scales:
        recipes = [_crawl(args.work, scale, args.limit) for scale in args.crawl_scales]
        found["crawl"] = compare("a crawl, splits of 256 MiB", recipes, args)
    measure.write_json(args.json, found)


def compare(title: str, recipes: list[tuple[str, list[str]]], args: argparse.Namespace) -> dict[str, Any]:
    """Run all sizes, and print each kind of process with its largest peak at each; growth is the last over the first."""
    peaks: list[dict[str, int]] = []
    sizes: list[int] = []
    tasks: list[int] = []
    for name, command in recipes:
        with tempfile.TemporaryDirectory(dir=args.work, prefix="run-") as out:
            usage = measure.run([*command, "--out", out, "--json", "--workers", str(args.workers)], None)
        summary = json.loads(usage.output)
        sizes.append(sum(s["bytes_in"] for s in summary["sources"].values()))
        tasks.append(summary["peak_memory"])
        kinds: dict[str, int] = {}
        for process in usage.processes:
            kind = _kind(process.name)
            kinds[kind] = max(kinds.get(kind, 0), process.peak)
        # Seen from outside only every so often; the ledger has the mark of each task at its end.
        kinds[WORKER] = max(kinds.get(WORKER, 0), tasks[-1])
        peaks.append(kinds)
        print(f"{name}: {sizes[-1] / 1e6:,.1f} MB in {usage.seconds:.0f} s")
    small, large = peaks[0], peaks[-1]
    rows = [
        [
            kind,
            *[_mb(p.get(kind, 0)) for p in peaks],
            f"x{large.get(kind, 0) / small[kind]:.2f}" if kind in small else "",
        ]
        for kind in sorted({k for p in peaks for k in p}, key=lambda k: -large.get(k, 0))
    ]
    rows += [[], ["largest task, by the ledger", *[_mb(peak) for peak in tasks], f"x{tasks[-1] / tasks[0]:.2f}"]]
    ratio = sizes[-1] / sizes[0]
    headings = ["process", *[f"{size / 1e6:,.0f} MB" for size in sizes], f"x{ratio:.1f}"]
    show_table(f"{title}: peak memory, {args.workers} workers", headings, rows)
    most, growth = max(large.values()), max(large.values()) / max(small.values())
    print(f"largest process {_mb(most)}: {verdict(most / 1e9, GOAL / 1e9, at_most=True)} GB")
    print(f"with x{ratio:.1f} the input it takes x{growth:.2f} the memory, {verdict(growth, GROWTH, at_most=True)}\n")
    return {"bytes": sizes, "peaks": peaks, "tasks": tasks, "growth": growth}


def _kind(name: str) -> str:
    """Ray names a worker by the task that it runs at the time; here they are one kind."""
    if name.startswith("ray::"):
        return WORKER
    return {"python -m pipeline": "driver", "python -m stages.extract.child": "parsing process"}.get(name, name)


def _mb(size: int) -> str:
    return f"{size / 1e6:,.0f} MB" if size else ""


def _mixture(work: Path, scale: int) -> tuple[str, list[str]]:
    from benchmarks.scaled_sample import make_sample
    from pipeline.recipe.overrides import read_yaml

    folder = make_sample(work, scale)
    command = ["-m", "pipeline", "run", str(MIX), "--profile", "sample"]
    for source, settings in read_yaml(MIX)["profiles"]["sample"]["sources"].items():
        paths = [str(path).replace("sample:", f"{folder}/") for path in settings["read"]["paths"]]
        command += ["--set", f"sources.{source}.read.paths={json.dumps(paths)}"]
    return f"the sample x{scale}", command


def _crawl(work: Path, scale: int, limit: int | None) -> tuple[str, list[str]]:
    crawl = make_crawl(work, scale, limit)
    recipe = {
        "name": "bench",
        "sources": {
            "web": {
                "read": {"paths": list(crawl.files)},
                "steps": ["extract", *FILTERS, {"dedup": {"method": "minhash"}}],
            }
        },
        "tokenizer": {"path": str(default_tokenizer(work, []))},
        "mixture": {},
        "run": {"keep": "none"},
    }
    path = work / f"memory-{scale}.yaml"
    path.write_text(json.dumps(recipe))
    return crawl.describe(), ["-m", "pipeline", "run", str(path)]


if __name__ == "__main__":
    main()
