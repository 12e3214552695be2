"""`python -m pipeline plan`: what a recipe's run would take."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import Any

from pipeline.commands.arguments import add_recipe, tell
from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "plan",
        help="what a recipe's run would take",
        description="Tasks, bytes, memory, disk and core-hours of a recipe, phase by phase, and hours and money on a cluster. "
        "Core time is measured on this machine, never assumed: from a finished run (--rates), or by a small run of the recipe "
        "over the beginnings of a few of its own files (--measure, some tens of seconds). Without either, the recipe's own run "
        "under runs/ is taken.",
    )
    add_recipe(parser)
    parser.add_argument("--rates", metavar="DIR|FILE", help="a finished run, or a file that --save wrote")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="measure now, on one core: over its own files, or sample text where these cannot be read or with --offline",
    )
    parser.add_argument("--measure-bytes", metavar="BYTES", help="that --measure reads of all files together (default 32MiB)")
    parser.add_argument("--save", metavar="FILE", help="with --measure: write the rates to a .json file for --rates")
    parser.add_argument("--offline", action="store_true", help="list no files: take what the recipe expects")
    parser.add_argument("--nodes", type=int, default=1, help="of the cluster (default 1)")
    parser.add_argument("--cores", type=int, help="of a node (default: as many as here)")
    parser.add_argument("--memory", type=float, metavar="GiB", help="of a node (default: as much as here)")
    parser.add_argument("--price-per-hour", type=float, metavar="X", help="of a node, in any currency")
    parser.add_argument(
        "--bandwidth", type=float, metavar="MB/s", help="between a node and the storage (default: not counted)"
    )
    parser.add_argument(
        "--source-bandwidth", type=float, metavar="MB/s", help="of the whole cluster from the hub and from web servers"
    )
    parser.add_argument(
        "--request-prices",
        type=float,
        nargs=2,
        metavar=("READS", "WRITES"),
        help="of a million requests to the storage (S3: 0.4 5)",
    )
    parser.add_argument("--storage-price", type=float, metavar="X", help="of a TB in the storage for a month (S3: 23)")
    parser.add_argument("--tree", action="store_true", help="print the plan itself, its stages and tasks; needs no rates")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pipeline.forecast.inputs import list_sources
    from pipeline.forecast.plan import plan, tree
    from pipeline.forecast.show import show_plan, show_tree
    from pipeline.recipe.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.profile, args.set)
    cluster, listing = _cluster(args), None
    if args.measure:
        _check_measure(args)
        listing = list_sources(recipe, args.offline)
    rates = _measured(args, recipe, listing) if listing else _rates(args, recipe)
    if rates is None:
        tell(args, tree(recipe, args.offline), show_tree)
        return 0
    found = plan(recipe, rates, cluster, args.offline, listing)
    tell(args, found, show_tree if args.tree else show_plan)
    return 1 if found.problems else 0


def _rates(args: argparse.Namespace, recipe: Any) -> Any:
    """The rates that are asked for, else those of the recipe's own run; None for a tree where there is none."""
    from pipeline.forecast.rates import read_rates
    from pipeline.ledger import AnotherVersionError

    for name in ("save", "measure_bytes"):
        if getattr(args, name):
            raise UserError(f"--{name.replace('_', '-')} goes with --measure")
    if args.rates:
        return read_rates(args.rates)
    known = f"runs/{recipe.name}"
    if not Path(known, "manifest.json").exists():
        if args.tree:
            return None
        raise UserError(f"no rates: name a finished run with --rates, or measure with --measure ({known} is not there)")
    try:
        return read_rates(known)
    except AnotherVersionError as error:
        if args.tree:
            return None
        raise UserError(f"no rates in {known}: {error}, or measure with --measure") from None


def _check_measure(args: argparse.Namespace) -> None:
    if args.rates:
        raise UserError("--rates and --measure are both given: rates are read, or measured now")
    if args.save and not args.save.endswith(".json"):
        raise UserError(f"--save {args.save}: the file's name must end in .json")


def _measured(args: argparse.Namespace, recipe: Any, listing: Any) -> Any:
    """Rates that are measured now, and saved where that is asked for."""
    from pydantic import TypeAdapter, ValidationError

    from pipeline.forecast.calibrate import MEASURE_BYTES, calibrate
    from pipeline.progress import Progress
    from stages.units import Bytes

    try:
        size = TypeAdapter(Bytes).validate_python(args.measure_bytes or MEASURE_BYTES)
    except ValidationError:
        size = 0
    if size <= 0:
        raise UserError(f"--measure-bytes {args.measure_bytes}: give a size above 0, such as 64MB")
    rates = calibrate(recipe, listing, Progress(quiet=args.json), size)
    if args.save:
        rates.write(args.save)
    return rates


def _cluster(args: argparse.Namespace) -> Any:
    from pipeline.forecast.cluster import Cluster, this_machine

    here = this_machine()
    for name in ("nodes", "cores", "memory", "bandwidth", "source_bandwidth"):
        if (value := getattr(args, name)) is not None and value <= 0:
            raise UserError(f"--{name.replace('_', '-')} {value:g}: must be above 0")
    for name in ("price_per_hour", "storage_price", "request_prices"):
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [given]:
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"--{name.replace('_', '-')} {value:g}: must be 0 or above")
    return Cluster(
        args.nodes,
        args.cores or here.cores,
        int(args.memory * 2**30) if args.memory else here.memory,
        args.price_per_hour,
        args.bandwidth * 1e6 if args.bandwidth else None,
        args.source_bandwidth * 1e6 if args.source_bandwidth else None,
        tuple(args.request_prices) if args.request_prices else None,
        args.storage_price,
    )
