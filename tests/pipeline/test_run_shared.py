"""Whole runs on the real data that lies beside the checkout: web pages, text of all kinds, damaged WARC files."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from told import first_source

from pipeline.carry_out import Options, run_recipe
from pipeline.engine.engine import TooManyFailures
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from pipeline.run_folder.run_summary import RunSummary

DCLM_STEPS = [
    "extract", "remove_urls", "limit_newlines", "language", "gopher_quality", "repetition", "refinedweb_lines",
    {"dedup": {"method": "minhash"}},
]  # fmt: skip


def run(data: dict, out: Path) -> RunSummary:
    return run_recipe(build_recipe(data), Options(str(out), inline=True, progress=Progress(quiet=True)))


def test_the_real_files_go_through_a_recipe(shared_data: Path, tmp_path: Path) -> None:
    texts = sorted(p for p in shared_data.glob("*.jsonl.zst") if p.name != "quality-labels.jsonl.zst")
    assert len(texts) == 9
    data = {
        "name": "real",
        "sources": {
            "web": {
                "read": {"paths": [f"{shared_data}/web-a.warc.gz", f"{shared_data}/web-b.warc.gz"]},
                "steps": DCLM_STEPS,
            },
            **{
                path.name.split(".")[0]: {"read": {"paths": [str(path)]}, "steps": [{"dedup": {"method": "exact"}}]}
                for path in texts
            },
        },
        "dedup": [{"dedup": {"method": "exact"}}],
        "tokenizer": {"path": f"{shared_data}/tokenizers/gpt-neox-olmo-dolma-v1_5.json"},
        "shards": {"bytes": "4MB", "held_out": 0.01},
        "mixture": {},
    }
    summary = run(data, tmp_path / "out")
    sources = summary.sources
    assert sources["web"].documents_in == 495
    assert sources["web"].failed.documents == 0
    kept = {name: s.documents_kept / s.documents_in for name, s in sources.items()}
    assert 0.1 < kept["web"] < 0.5  # most pages are not English, or not prose
    assert {
        n: round(s, 2) for n, s in kept.items() if s < 0.8 and n not in ("web", "code")
    } == {}  # code holds many copies
    assert sum(s.tokens for s in summary.sources.values()) > 5_000_000


def test_no_damaged_file_ends_a_run_that_allows_failures(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "warc-edge").iterdir())
    assert len(files) == 17
    good = shared_data / "c4.jsonl.zst"
    data = {
        "name": "edge",
        "sources": {
            "edge": {"read": {"paths": [str(f) for f in files], "format": "warc"}, "steps": ["extract"]},
            "c4": {"read": {"paths": [str(good)]}},
        },
        "tokenizer": {"train": {"vocab_size": 500}},
        "mixture": {},
    }
    with pytest.raises(TooManyFailures, match=r"source files could not be read to their end.*warc-edge/.*byte \d+"):
        run(data, tmp_path / "out")
    summary = run(data | {"run": {"failures": {"files": 17, "documents": 1.0}}}, tmp_path / "out")
    edge = first_source(summary)
    assert edge.documents_kept > 5
    rows = [r for p in (tmp_path / "out").glob("parts/edge/0/*.failed.parquet") for r in pq.read_table(p).to_pylist()]
    named = {Path(r["file"]).name for r in rows}
    assert {"chatnoir-eu-clipped.warc.gz", "webrecorder-example-trunc.warc"} <= named
    assert all(r["error"] and r["step"] == "read" for r in rows)
