"""`python -m pipeline export`: a run's shards in the formats of other tools."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import add_workers, carried_out, tell


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "export",
        help="write shards for other tools",
        description="Write a finished run's shards for datatrove, for Megatron, as Parquet or as JSON lines; one file a shard. "
        "Documents keep their order and their end token. What is read is checked against the manifest's checksums.",
    )
    parser.add_argument("dir", help="folder of a run, an import or a mixture")
    parser.add_argument("--format", required=True, choices=("datatrove", "megatron", "parquet", "jsonl"))
    parser.add_argument("--out", required=True, help="folder, s3:// prefix or hf://datasets/ORG/NAME, empty or not there yet")
    parser.add_argument(
        "--source", action="append", default=[], metavar="S", help="one source; again for more (default: all)"
    )
    parser.add_argument("--split", choices=("train", "held_out"), default="train")
    parser.add_argument("--no-text", action="store_true", help="parquet, jsonl: leave out the decoded text")
    parser.add_argument("--tokens", action="store_true", help="jsonl: the tokens too")
    parser.add_argument("--compression", choices=("zst", "gz", "none"), default="zst", help="of jsonl (default: zst)")
    parser.add_argument(
        "--documents",
        action="store_true",
        help="parquet, jsonl: the documents as they were, not decoded from tokens, with url, date and metadata",
    )
    parser.add_argument(
        "--measures", nargs="+", default=[], metavar="M", help="with --documents: STEP.MEASURE ..., or all of them: all"
    )
    add_workers(parser)
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.convert.export import ExportOptions, export, show_export

    texts = {"documents": args.documents, "measures": tuple(args.measures)}
    tokens = (not args.no_text, args.tokens, args.compression)
    options = ExportOptions(args.format, args.source, args.split, *tokens, **texts, **carried_out(args))
    found = export(args.dir, args.out, options)
    tell(args, found, show_export)
    return 0
