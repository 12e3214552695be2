"""`python -m pipeline search-mixture`: which shares of its sources train best, by small models."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pipeline.commands.arguments import add_training, add_workers, carried_out, count_of, say_lines, tell, training_of
from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "search-mixture",
        help="find the mixture of finished runs' sources that trains best, by small models",
        description="Train small models on mixtures drawn around the natural one, fit a law of the loss to them, and write "
        "the mixture that is best by it as a manifest, with its predicted loss and that of fresh models. No token is written. "
        "The same command goes on where it was broken off.",
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folders of runs, as of `mix`; a split source has several members")
    parser.add_argument("--weights", nargs="+", default=[], metavar="NAME=W", help="of evaluation files (all alike)")
    parser.add_argument("--for", dest="target", help="tokens that the mixture is for, by which repeats are bounded (--tokens)")
    parser.add_argument("--max-repeats", type=float, help="how often a source may be seen (what the runs' mixture allows: 4)")
    parser.add_argument("--proxies", type=int, help="mixtures that are tried, those of --reuse among them (4 a source)")
    parser.add_argument("--seeds", type=int, default=3, help="fresh models of the best and of the natural mixture (3)")
    parser.add_argument("--strength", nargs=2, type=float, default=(0.5, 20.0), metavar=("LOW", "HIGH"), help="of the Dirichlet "
                        "distribution: low ones give mixtures of few sources, high ones natural mixtures (0.5 20)")  # fmt: skip
    parser.add_argument(
        "--stay", type=float, default=0.05, help="bits per byte that a divergence of 1 from natural must gain (0.05)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    parser.add_argument("--reuse", nargs="+", type=Path, default=[], metavar="DIR", help="searches whose small models count too")
    parser.add_argument("--out", type=Path, required=True, help="folder of the search")
    add_training(parser)
    add_workers(parser)
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.program import check_experiments

    check_experiments(args.config)  # before what needs it is imported
    from pipeline.engine.place import Placement
    from pipeline.mixture_search.search import Search, search
    from pipeline.mixture_search.show import show_search

    training = training_of(args, first_seed=1)
    if args.proxies is not None and args.proxies < 2:
        raise UserError(f"--proxies {args.proxies}: at least 2 is needed")
    if not 0 < args.strength[0] <= args.strength[1]:
        raise UserError(
            f"--strength {args.strength[0]:g} {args.strength[1]:g}: two numbers above 0 are needed, the lower one first"
        )
    if args.stay < 0 or (args.max_repeats is not None and args.max_repeats <= 0):
        raise UserError("--stay is 0 or more, --max-repeats above 0")
    asked = Search(
        runs=tuple(args.runs),
        target=count_of("--for", args.target) if args.target else training.tokens,
        proxies=args.proxies,
        weights=_weights(args.weights),
        max_repeats=args.max_repeats,
        strength=tuple(args.strength),
        stay=args.stay,
        seed=args.seed,
        reuse=tuple(args.reuse),
        out=args.out,
        training=training,
    )
    found = search(asked, Placement(**carried_out(args)), say_lines(args))
    tell(args, found, show_search)
    if not args.json:
        print(f"wrote {args.out}/search.json, search.csv, search.png and the mixture {args.out}/best; no token was written")
        print(f"next: python -m trainer train olmoe_tiny --data {args.out}/best")
    return 0


def _weights(given: list[str]) -> dict[str, float]:
    found = {}
    for text in given:
        name, _, value = text.rpartition("=")
        try:
            found[name] = float(value)
        except ValueError:
            raise UserError(f"--weights {text}: write NAME=NUMBER, as in wiki=2") from None
        if not name or not 0 <= found[name] < float("inf"):
            raise UserError(f"--weights {text}: write NAME=NUMBER, a number of 0 or more")
    if given and not sum(found.values()):
        raise UserError("--weights: all are 0")
    return found
