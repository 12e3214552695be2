"""From WARC to tokens, against datatrove: FineWeb's chain and its equal here, on the same files, one core each.

    python -m benchmarks fineweb [--scale 10] [--repeats N] [--limit PAGES] [--tokenizer FILE] [--json FILE]

Every run is a process of its own, pinned with all its children to one core, one after the other; times are the wall
clock's from start to end, start-up included. CPU seconds stand beside them, for where the machine is not idle.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.chains import (
    DIFFERENCES,
    PHASES,
    Input,
    Result,
    default_tokenizer,
    extracted_text,
    read_texts,
    run_datatrove,
    run_headrace,
)
from benchmarks.crawl import make_crawl
from benchmarks.tables import show_table, verdict

PACKAGES = ("datatrove", "trafilatura", "spacy", "Resiliparse", "FastWARC", "tokenizers", "numba", "pyarrow", "ray")
GOAL_BYTES = 700e6  # of HTML: what the goals are meant for
AS_SHIPPED, SAME_EXTRACTOR, TEXT_TO_TOKENS = 12.0, 6.0, 60.0
COMPILE = "from stages.kernels.warm import ensure_warm; ensure_warm()"


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks fineweb", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--scale", type=int, default=1, help="how many times the real pages (10 for the goals; default 1)"
    )
    parser.add_argument("--limit", type=int, help="only so many pages of each WARC file")
    parser.add_argument("--repeats", type=int, default=1, help="rounds over all runs; medians are shown")
    parser.add_argument(
        "--tokenizer", type=Path, help="tokenizer.json (default: OLMoE's of ../shared/data, else trained)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench", help="scratch folder"
    )
    parser.add_argument("--core", type=int, help="number of the core to use")
    parser.add_argument(
        "--only", nargs="*", choices=("html", "text"), default=("html", "text"), help="which comparison"
    )
    parser.add_argument("--no-ray", action="store_true", help="leave out the run on Ray")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    args.work.mkdir(parents=True, exist_ok=True)
    facts = measure.machine(*PACKAGES)
    print(measure.show_machine(facts))
    crawl = make_crawl(args.work, args.scale, args.limit)
    text = extracted_text(crawl, args.work)
    print(
        f"{crawl.describe()} ({crawl.warc_bytes / 1e6:.1f} MB); {text.bytes / 1e6:.1f} MB of text in {text.documents:,}"
    )
    tokenizer = args.tokenizer or default_tokenizer(args.work, read_texts(text))
    cores = measure.one_core(args.core)
    # As pip does with what it installs, the other side among it; else a changed checkout is compiled at each start where
    # PYTHONDONTWRITEBYTECODE is set.
    measure.run(["-m", "compileall", "-q", "pipeline", "stages", "benchmarks"], None)
    compiled = measure.run(["-c", COMPILE], None).seconds
    print(f"kernels compiled or loaded in {compiled:.1f} s, once a machine and not counted below\n{DIFFERENCES}\n")
    html = Input(crawl.files, crawl.pages, crawl.html_bytes)
    found: dict[str, Any] = {"machine": facts, "tokenizer": tokenizer.name, "scale": args.scale}
    found |= {"html_bytes": html.bytes, "text_bytes": text.bytes, "pages": html.documents, "ratios": {}}

    def headrace(source: Input, ray: bool = False) -> Callable[[], Result]:
        return lambda: _in_folder(args.work, lambda work: run_headrace(source, work, tokenizer, cores, ray=ray))

    def datatrove(source: Input, extractor: str) -> Callable[[], Result]:
        return lambda: _in_folder(
            args.work, lambda work: run_datatrove(source, work, tokenizer, cores, extractor=extractor)
        )

    if "html" in args.only:
        runs = [datatrove(html, "trafilatura"), datatrove(html, "resiliparse"), headrace(html)]
        shipped, same, ours, *on_ray = rounds(args.repeats, runs + ([] if args.no_ray else [headrace(html, ray=True)]))
        results = [shipped, same, ours, *on_ray]
        show(f"HTML to tokens, {html.bytes / 1e6:.0f} MB of HTML", results, html.bytes)
        note = "" if html.bytes >= GOAL_BYTES else f"; the goal is meant for {GOAL_BYTES / 1e6:.0f} MB (--scale 10)"
        for name, peer, goal in (("as it ships", shipped, AS_SHIPPED), ("same extractor", same, SAME_EXTRACTOR)):
            for place, result in [("", ours), *((", on Ray", result) for result in on_ray)]:
                title = f"HTML to tokens, datatrove {name}{place}"
                found["ratios"][name + place] = ratio(title, peer, result, goal, note)
        found["html"] = [r.to_json() for r in results]
    if "text" in args.only:
        results = rounds(args.repeats, [datatrove(text, "none"), headrace(text)])
        show(f"extracted text to tokens, {text.bytes / 1e6:.1f} MB of text", results, text.bytes)
        found["ratios"]["text to tokens"] = ratio("text to tokens", *results, TEXT_TO_TOKENS, "")
        found["text"] = [r.to_json() for r in results]
    measure.write_json(args.json, found)


def _in_folder(parent: Path, call: Callable[[Path], Result]) -> Result:
    with tempfile.TemporaryDirectory(dir=parent, prefix="run-") as folder:
        return call(Path(folder))


def rounds(repeats: int, runs: list[Callable[[], Result]]) -> list[Result]:
    """Each run once a round; of every side the run with the median time."""
    taken: list[list[Result]] = [[] for _ in runs]
    for _ in range(repeats):
        for results, call in zip(taken, runs, strict=True):
            results.append(call())
    return [sorted(results, key=lambda r: r.seconds)[(len(results) - 1) // 2] for results in taken]


def show(title: str, results: list[Result], size: int) -> None:
    """Seconds and MB/s of each phase, totals, memory, and how many documents each step left."""
    rows: list[list[str]] = []
    for phase in PHASES:
        if any(r.phases[phase] for r in results):
            rate = size if phase != "start-up" else 0
            rows.append([phase, *[f"{r.phases[phase]:8.2f} s {_rate(rate, r.phases[phase]):>12}" for r in results]])
    rows.append([])
    rows.append(["in all", *[f"{r.seconds:8.2f} s {_rate(size, r.seconds):>12}" for r in results]])
    rows.append(["CPU", *[f"{r.usage.cpu_seconds:8.2f} s {_rate(size, r.usage.cpu_seconds):>12}" for r in results]])
    rows.append(["largest process", *[f"{r.usage.peak / 1e6:,.0f} MB" for r in results]])
    rows.append(["tokens", *[f"{r.tokens:,}" for r in results]])
    show_table(f"{title}, one core", ["", *[r.side for r in results]], rows)
    for result in results:
        print(
            f"documents, {result.side}: " + ", ".join(f"{name} {count:,}" for name, count in result.documents.items())
        )
    print()


def _rate(size: int, seconds: float) -> str:
    return f"{size / seconds / 1e6:,.2f} MB/s" if size and seconds > 0.005 else ""


def ratio(name: str, peer: Result, ours: Result, goal: float, note: str) -> dict[str, float]:
    """Print how many times faster we are; with start-up, which the goal is about, and without, and by CPU time."""
    with_startup = peer.seconds / ours.seconds
    without = (peer.seconds - peer.phases["start-up"]) / (ours.seconds - ours.phases["start-up"])
    by_cpu = peer.usage.cpu_seconds / ours.usage.cpu_seconds
    print(f"{name}: x{with_startup:.1f}, {verdict(with_startup, goal)}{note}")
    print(f"    without start-up x{without:.1f}; by CPU time, start-up included, x{by_cpu:.1f}")
    return {"ratio": with_startup, "without_startup": without, "by_cpu": by_cpu, "goal": goal}


if __name__ == "__main__":
    main()
