"""Filters, one core: the steps' kernels in MB/s of text, beside datatrove's filters of the same name on the same texts.

    python -m benchmarks kernels [--limit PAGES] [--peer 1.0] [--repeats 3] [--json FILE]

The texts are the main text of the crawl's pages. Ours take them as one Arrow column, batch by batch, and compute every
measure of every document; datatrove takes them one by one and stops at the first rule that a document fails. Times are
of the processor, so that other work beside does not count; kernels are compiled and models loaded before.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks import measure
from benchmarks.chains import extracted_text, read_texts
from benchmarks.crawl import make_crawl
from benchmarks.tables import show_table
from stages.document import DOCUMENT, rebatch
from stages.step import Step
from stages.steps import STEPS

BATCH_BYTES = 8 << 20
# Step -> datatrove's filter and its arguments, for those that have a counterpart; the other steps stand alone.
PEERS: dict[str, tuple[str, dict[str, Any]]] = {
    "repetition": ("GopherRepetitionFilter", {}),  # DCLM's definitions, beside datatrove's own
    "gopher_quality": ("GopherQualityFilter", {}),
    "repetition_datatrove": ("GopherRepetitionFilter", {}),
    "gopher_quality_datatrove": ("GopherQualityFilter", {}),
    "c4_quality": ("C4QualityFilter", {"filter_no_terminal_punct": False}),
    "fineweb_quality": ("FineWebQualityFilter", {}),
}
ALONE = ("refinedweb_lines", "remove_urls", "limit_newlines", "starcoder")
DCLM_SET = ("remove_urls", "limit_newlines", "gopher_quality", "repetition", "refinedweb_lines")  # one after another
SETTINGS: dict[str, dict[str, Any]] = {"c4_quality": {"terminal_punctuation": False}}


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks kernels", description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, help="only so many pages of each WARC file")
    parser.add_argument("--peer", type=float, default=1.0, help="MB of text for datatrove; 0 leaves it out")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of ours; medians are shown")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench", help="scratch folder"
    )
    parser.add_argument("--core", type=int, help="number of the core to use")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    facts = measure.machine("datatrove", "spacy", "numba")
    print(measure.show_machine(facts))
    source = extracted_text(make_crawl(args.work, 1, args.limit), args.work)
    texts = read_texts(source)
    batches = list(rebatch([as_batch(texts)], BATCH_BYTES))
    peer_texts = texts[: next((n for n, size in enumerate(_running(texts)) if size > args.peer * 1e6), len(texts))]
    peer_bytes = sum(len(text.encode()) for text in peer_texts)
    print(f"{source.documents:,} texts, {source.bytes / 1e6:.1f} MB; for datatrove the first {peer_bytes / 1e6:.1f} MB")
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, measure.one_core(args.core))
    found: dict[str, Any] = {"machine": facts, "bytes": source.bytes, "steps": {}}
    rows = []
    for name in (*PEERS, *ALONE):
        ours = rate_of_step(STEPS[name](**SETTINGS.get(name, {})), batches, source.bytes, args.repeats)
        found["steps"][name] = {"mb_per_s": ours}
        row = [name, f"{ours:,.1f} MB/s", "", "", ""]
        if name in PEERS and args.peer:
            peer = rate_of_peer(*PEERS[name], peer_texts, peer_bytes)
            found["steps"][name] |= {"peer": PEERS[name][0], "peer_mb_per_s": peer, "ratio": ours / peer}
            row[2:] = [PEERS[name][0], f"{peer:.2f} MB/s", f"x{ours / peer:,.0f}"]
        rows.append(row)
    seconds = sum(source.bytes / 1e6 / found["steps"][name]["mb_per_s"] for name in DCLM_SET)
    found["dclm_set_mb_per_s"] = source.bytes / 1e6 / seconds
    rows.append(["DCLM's heuristics and edits, all", f"{found['dclm_set_mb_per_s']:,.1f} MB/s", "", "", ""])
    os.sched_setaffinity(0, allowed)
    show_table("filters, one core", ["step", "headrace", "datatrove", "", "ratio"], rows)
    measure.write_json(args.json, found)


def as_batch(texts: list[str]) -> pa.RecordBatch:
    """Texts as a batch of documents."""
    rows = len(texts)
    columns: dict[str, Any] = {
        "id": [f"d{n}" for n in range(rows)],
        "text": texts,
        "file": ["texts"] * rows,
        "record": range(1, rows + 1),
    }
    return pa.RecordBatch.from_arrays(
        [pa.array(columns.get(f.name, [None] * rows), f.type) for f in DOCUMENT], schema=DOCUMENT
    )


def rate_of_step(step: Step, batches: list[pa.RecordBatch], size: int, repeats: int) -> float:
    """MB/s of one step over all batches; the first call, which loads its kernels, is not counted."""
    step.prepare()
    step.edit(batches[0])
    return size / 1e6 / measure.middle([_cpu(lambda: [step.edit(batch) for batch in batches]) for _ in range(repeats)])


def rate_of_peer(name: str, settings: dict[str, Any], texts: list[str], size: int) -> float:
    """MB/s of one of datatrove's filters over the texts; its word tokenizer is loaded before."""
    from datatrove.data import Document
    from datatrove.pipeline import filters

    peer = getattr(filters, name)(**settings)
    peer.filter(Document(text=texts[0], id="first"))
    documents = [Document(text=text, id=str(number)) for number, text in enumerate(texts)]
    return size / 1e6 / _cpu(lambda: [peer.filter(document) for document in documents])


def _cpu(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _running(texts: list[str]) -> list[int]:
    """Bytes of the first one, two, three ... texts."""
    sizes, total = [], 0
    for text in texts:
        total += len(text.encode())
        sizes.append(total)
    return sizes


if __name__ == "__main__":
    main()
