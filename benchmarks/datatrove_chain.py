"""The FineWeb-style chain in datatrove, as one program: `python -m benchmarks.datatrove_chain SPEC.json`.

After datatrove's examples/fineweb.py: read, extract, Gopher repetition and quality, C4, FineWeb; MinHash in its four
stages; then tokens. Left out, on both sides of the comparison: URL and language filters, PII, what was dropped written
aside. One task, one worker, so all runs in this process but for the page extractor, which datatrove gives its own.

SPEC: {"files": [WARC] or "texts": JSON lines file, "work": folder, "tokenizer": file, "eos": token, "extractor":
"trafilatura" or "resiliparse", "result": file for the figures}.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.settings import RESILIPARSE

PAGE_SECONDS = 10.0  # datatrove's limit of 1 s by the wall clock drops pages at random where the machine is busy


def main(spec: dict[str, Any]) -> None:
    """Run the chain and write what each part took."""
    began = float(os.environ["BENCH_BEGAN"])  # time.time() before this process was started
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.extractors.base import BaseExtractor
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers import JsonlWriter

    class Resiliparse(BaseExtractor):
        """Main text by Resiliparse, in datatrove's own sandbox, with the options of this pipeline's `extract` step."""

        name = "Resiliparse"

        def __init__(self, timeout: float) -> None:
            super().__init__(timeout)

        def extract(self, text: str) -> str:
            from resiliparse.extract.html2text import extract_plain_text

            return extract_plain_text(text, **RESILIPARSE)

    try:
        import magic  # noqa: F401
    except ImportError as error:
        raise SystemExit(f"datatrove's WARC reader needs libmagic (apt-get install libmagic1): {error}") from None
    started = time.time() - began
    work = Path(spec["work"])
    config = MinhashConfig()
    places = {name: str(work / name) for name in ("filtered", "signatures", "buckets", "remove", "tokens")}
    if "texts" in spec:
        intake: list[Any] = [JsonlReader(str(Path(spec["texts"]).parent), glob_pattern=Path(spec["texts"]).name)]
    else:
        listing = work / "files.txt"
        listing.write_text("".join(f"{Path(file).name}\n" for file in spec["files"]))
        folder = str(Path(spec["files"][0]).parent)
        if spec["extractor"] == "resiliparse":
            import resiliparse.extract.html2text  # noqa: F401 - here, so that the forked extractor has it

            extractor: BaseExtractor = Resiliparse(PAGE_SECONDS)
        else:
            import trafilatura  # noqa: F401

            extractor = Trafilatura(favour_precision=True, timeout=PAGE_SECONDS)
        intake = [WarcReader(folder, paths_file=str(listing)), extractor]
    filters = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        FineWebQualityFilter(),
    ]
    tokenizer = DocumentTokenizer(places["tokens"], spec["tokenizer"], eos_token=spec["eos"], shuffle_documents=False)
    stages = {
        "filter": ([*intake, *filters, JsonlWriter(places["filtered"])], 1),
        "minhash 1": ([JsonlReader(places["filtered"]), MinhashDedupSignature(places["signatures"], config)], 1),
        "minhash 2": (
            [MinhashDedupBuckets(places["signatures"], places["buckets"], config=config)],
            config.num_buckets,
        ),
        "minhash 3": ([MinhashDedupCluster(places["buckets"], places["remove"], config=config)], 1),
        "minhash 4, tokens": ([JsonlReader(places["filtered"]), MinhashDedupFilter(places["remove"]), tokenizer], 1),
    }
    found: dict[str, Any] = {"startup": started, "stages": {}}
    for name, (pipeline, tasks) in stages.items():
        clock = time.perf_counter()
        stats = LocalPipelineExecutor(pipeline, tasks=tasks, workers=1, logging_dir=str(work / "logs" / name)).run()
        steps = [
            {"name": s.name, "seconds": s.time_stats.total, "counts": {k: v.total for k, v in s.stats.items()}}
            for s in stats.stats
        ]
        found["stages"][name] = {"seconds": time.perf_counter() - clock, "steps": steps}
        if name == "filter" and not any(Path(places["filtered"]).glob("*")):
            raise SystemExit(f"datatrove kept none of the documents, and cannot go on: {steps}")
    Path(spec["result"]).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
