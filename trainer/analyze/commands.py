"""The command `analyze`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(commands: Any) -> None:
    """Add it to the trainer's command line."""
    analyze = commands.add_parser("analyze", help="what routers do: saturation, co-activation, specialisation, load")
    analyze.add_argument(
        "checkpoints", type=Path, nargs="+", help="checkpoints, or a training's folder (all that it keeps)"
    )
    analyze.add_argument("--data", type=Path, required=True, help="a run's folder, with held-out shards")
    analyze.add_argument("--out", type=Path, required=True, help="a folder for tables, pictures and index.html")
    analyze.add_argument(
        "--hf", action="store_true", help="the checkpoints are Hugging Face OlmoeForCausalLM folders, in order"
    )
    analyze.add_argument("--tokens", type=int, default=65_536, help="held-out tokens of each source (65536)")
    analyze.add_argument("--batch-tokens", type=int, default=8_192, help="tokens that are worked on at once (8192)")
    analyze.add_argument("--device", help="cpu or cuda (cuda if there is one)")
    analyze.set_defaults(run=_analyze)


def _analyze(options: argparse.Namespace) -> int:
    from trainer.analyze.page import write_page
    from trainer.analyze.pictures import draw_pictures
    from trainer.analyze.run import analyze
    from trainer.analyze.tables import write_tables

    found, last = analyze(
        options.checkpoints, options.data, options.tokens, options.batch_tokens, options.hf, options.device
    )
    tokenizer = last.tokenizer()
    options.out.mkdir(parents=True, exist_ok=True)
    files = write_tables(found, tokenizer, options.out)
    page = write_page(found, draw_pictures(found, options.out), tokenizer, options.out)
    print(f"{last.path.name}: {int(found.counts.tokens_S.sum()):,} held-out tokens, {len(found.names)} checkpoint(s)")
    for name, saturation in zip(found.names, found.saturation, strict=True):
        print(
            f"  {name}: saturation {saturation.all().mean():.1%} (k = {found.top_k}), {saturation.first().mean():.1%} (k = 1)"
        )
    print(f"wrote {page} and {len(files)} tables")
    return 0
