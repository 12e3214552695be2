"""`python -m pipeline import`: a corpus that was tokenized elsewhere."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import add_workers, carried_out, shard_bytes, source_name, tell


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "import",
        help="take in a corpus that was tokenized elsewhere",
        description="Make a folder with manifest, shards and a held-out split of token files that another tool wrote, so that "
        "they can be trained on, and join a mixture (`mix`). Tokens are taken as they are; a document that does not end in the "
        "end token is given it.",
    )
    parser.add_argument("src", nargs="+", help="files, folders or globs, local or s3://, hf://datasets/...")
    parser.add_argument("--format", required=True, choices=("olmo", "datatrove", "megatron", "parquet", "jsonl"))
    parser.add_argument("--source", required=True, metavar="NAME", help="what the corpus is called in a mixture")
    parser.add_argument("--tokenizer", required=True, help="the tokenizer.json that made the tokens, or hf://ORG/NAME")
    parser.add_argument("--out", required=True, help="output folder or s3:// prefix")
    parser.add_argument("--eos-token", help="the end token (default: the usual name that the vocabulary has)")
    parser.add_argument("--pad-token", help="the padding token (default: likewise, else the end token)")
    parser.add_argument("--no-append-eos", action="store_true", help="add no end token where one is missing")
    parser.add_argument(
        "--dtype", choices=("uint16", "uint32"), help="olmo, datatrove: of the raw tokens, if not by vocabulary"
    )
    parser.add_argument("--tokens-field", metavar="F", help="parquet, jsonl: default `tokens`, else `input_ids`")
    parser.add_argument("--id-field", default="id", metavar="F", help="parquet, jsonl: default `id`")
    parser.add_argument(
        "--held-out", type=float, default=0.005, help="share of documents held out, by hash of the text (0.005)"
    )
    parser.add_argument("--held-out-as", metavar="RUN", help="hold out the documents that this run holds out, or would")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out split and the mixture")
    parser.add_argument("--shard-bytes", default="1GiB", help="size of a shard (default: 1GiB)")
    add_workers(parser)
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.convert.import_tokens import ImportOptions, import_tokens, show_import

    source, size = source_name(args), shard_bytes(args)
    options = ImportOptions(
        args.format,
        source,
        args.tokenizer,
        args.eos_token,
        args.pad_token,
        not args.no_append_eos,
        args.dtype,
        args.tokens_field,
        args.id_field,
        args.held_out,
        args.held_out_as,
        args.seed,
        size,
        **carried_out(args),
    )
    found = import_tokens(args.src, args.out, options)
    tell(args, found, show_import)
    return 0
