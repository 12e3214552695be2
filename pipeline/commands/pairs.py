"""`python -m pipeline pairs`: prompts with answers as shards for fine-tuning."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import shard_bytes, source_name


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "pairs",
        help="prompts with answers as shards, for fine-tuning",
        description="Read prompts with answers (JSON lines or Parquet), put them into chat form, and write them as shards with "
        "a mask of the answers. Every record that gives no pair is counted, and listed in dropped.jsonl.gz with the rule.",
    )
    parser.add_argument("files", nargs="+", help="files, folders or globs")
    parser.add_argument("--tokenizer", required=True, help="a tokenizer.json, or hf://ORG/NAME")
    parser.add_argument("--out", required=True, help="the folder to make")
    parser.add_argument("--source", default="pairs", metavar="NAME", help="what the pairs are called (pairs)")
    parser.add_argument(
        "--kind",
        choices=("auto", "answers", "messages", "preferences", "labels"),
        default="auto",
        help="prompt and answer; a list of messages; chosen and rejected; an answer with a label (auto: as the first record)",
    )
    for name in ("id", "prompt", "answer", "messages", "chosen", "rejected", "label"):
        parser.add_argument(f"--{name}-field", default=name, metavar="F", help=f"default: {name}")
    parser.add_argument("--context-field", metavar="F", help="a text to stand before the prompt, such as a story")
    parser.add_argument("--chat-template", default="olmoe", help="olmoe (default), plain, or a file in Jinja")
    parser.add_argument(
        "--answers", choices=("all", "last"), default="all", help="of a conversation: which are learned"
    )
    parser.add_argument(
        "--wrong-answers", action="store_true", help="make preferences of answers: rejected is another prompt's answer"
    )
    parser.add_argument("--max-tokens", type=int, default=4096, help="of one sequence (4096)")
    parser.add_argument(
        "--too-long",
        choices=("cut_answer", "cut_prompt", "drop"),
        default="cut_answer",
        help="longer sequences: cut the end (default), cut the start of the prompt, or drop the pair",
    )
    parser.add_argument("--dedup", choices=("exact", "minhash", "none"), default="exact", help="of prompt with answer")
    parser.add_argument(
        "--decontaminate",
        action="append",
        default=[],
        metavar="FILE",
        help="drop pairs with n-grams of this evaluation set",
    )
    parser.add_argument(
        "--decontaminate-field", action="append", default=[], metavar="F", help="where its text stands; again for more"
    )
    parser.add_argument("--ngram", type=int, default=13, help="words of such an n-gram (13)")
    parser.add_argument("--held-out", type=float, default=0.02, help="share of the prompts held out, by hash (0.02)")
    parser.add_argument("--seed", type=int, default=0, help="of the held-out split and the order")
    parser.add_argument("--shard-bytes", default="64MiB", help="size of a shard (64MiB)")
    parser.add_argument("--eos-token", help="the end token (default: the usual name that the vocabulary has)")
    parser.add_argument("--pad-token", help="the padding token (default: likewise, else the end token)")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.pairs.make import make_pairs
    from pipeline.pairs.options import Fields, PairOptions
    from pipeline.pairs.show import show_pairs
    from pipeline.tables import console
    from pipeline.terminal import print_json, printable_all

    source, size = source_name(args), shard_bytes(args)
    named = ("id", "context", "prompt", "answer", "messages", "chosen", "rejected", "label")
    fields = tuple(args.decontaminate_field) or PairOptions.decontaminate_fields
    options = PairOptions(
        tokenizer=args.tokenizer,
        source=source,
        kind=args.kind,
        fields=Fields(**{name: getattr(args, f"{name}_field") for name in named}),
        chat_template=args.chat_template,
        answers=args.answers,
        wrong_answers=args.wrong_answers,
        max_tokens=args.max_tokens,
        too_long=args.too_long,
        dedup=args.dedup,
        decontaminate=tuple(args.decontaminate),
        ngram=args.ngram,
        held_out=args.held_out,
        seed=args.seed,
        shard_bytes=size,
        eos_token=args.eos_token,
        pad_token=args.pad_token,
        decontaminate_fields=fields,
    )
    found = make_pairs(args.files, args.out, options)
    if args.json:
        print_json(found)
    else:
        show_pairs(printable_all(found), console())
    return 0
