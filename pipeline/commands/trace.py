"""`python -m pipeline trace`: from a token, or a training step, back to the documents."""

from __future__ import annotations

import argparse
from typing import Any

from pipeline.commands.arguments import tell
from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "trace",
        help="from a token, or a training step, back to the documents",
        description="SHARD:OFFSET tells which document a token belongs to, from which source file and record that was read, "
        "and the text around the token. --step tells which instances training reads at a step, and the documents in them.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("place", nargs="?", metavar="SHARD:OFFSET", help="such as dclm/00000:1234; tokens count from 0")
    parser.add_argument("--context", type=int, default=48, metavar="N", help="tokens of text on each side (default 48)")
    parser.add_argument("--step", type=int, metavar="S", help="a training step, counted from 1 as the trainer does")
    parser.add_argument(
        "--config", metavar="YAML", help="the trainer's configuration: sequence length, batch, seed, packing"
    )
    parser.add_argument("--sequence-length", type=int, metavar="N", help="tokens of an instance, in place of --config")
    parser.add_argument("--batch", type=int, metavar="N", help="instances of a batch, in place of --config")
    parser.add_argument("--seed", type=int, help="of the order (default: the configuration's, else the mixture's)")
    parser.add_argument(
        "--packing", choices=("concatenate", "best_fit"), help="(default: the configuration's, else the first)"
    )
    parser.add_argument("--top", type=int, default=8, metavar="N", help="instances to show; 0: all (default 8)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.questions.trace import show_trace, trace
    from pipeline.questions.trace_step import show_step, trace_step

    if (args.place is None) == (args.step is None):
        raise UserError("name a token as SHARD:OFFSET, or a training step with --step")
    if args.context < 0 or args.top < 0:
        raise UserError("--context and --top are numbers from 0 on")
    if args.place is not None:
        tell(args, trace(args.dir, args.place, args.context), show_trace)
    else:
        tell(args, trace_step(args.dir, args.step, _batches(args), args.top), show_step)
    return 0


def _batches(args: argparse.Namespace) -> Any:
    from dataclasses import replace

    from pipeline.questions.trace_step import Batches, from_config

    if args.config:
        batches = from_config(args.config)
    elif args.sequence_length and args.batch:
        batches = Batches(args.sequence_length, args.batch)
    else:
        raise UserError("--step needs --config TRAINER.yaml, or --sequence-length and --batch")
    flags = {"sequence_length": args.sequence_length, "batch": args.batch, "seed": args.seed, "packing": args.packing}
    return replace(batches, **{name: value for name, value in flags.items() if value is not None})
