"""The command line: commands and flags, each thin. Errors that the user can mend are one sentence; exit status 2."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import orjson

from stages.errors import UserError

EPILOG = "Each command tells more with --help. Start with: python -m pipeline run configs/dclm_mix.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    parser = argparse.ArgumentParser(
        "python -m pipeline", description="From text where it lies to token shards.", epilog=EPILOG
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for add in (_add_run, _add_status, _add_inspect, _add_why, _add_sweep, _add_clusters, _add_train_classifier):
        add(commands)
    args = parser.parse_args(arguments)
    try:
        return args.call(args)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; what is done stays done, and the same command goes on from there", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 141


def _add_run(commands: Any) -> None:
    parser = commands.add_parser(
        "run", help="carry out a recipe", description="Carry out a recipe, or what is left of it."
    )
    parser.add_argument("recipe", help="YAML file")
    parser.add_argument("--profile", help="a profile of the recipe (default: its first)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change one key, a.b.c=value; again for more"
    )
    parser.add_argument(
        "--out", help="output folder or s3:// prefix (default: runs/NAME, runs/NAME-PROFILE for other profiles)"
    )
    parser.add_argument("--address", help="address of a running Ray cluster (default: this machine)")
    parser.add_argument("--workers", type=int, help="Ray workers on this machine (default: all cores)")
    parser.add_argument("--inline", action="store_true", help="no Ray: all tasks in this process, one after the other")
    parser.add_argument("--yes", action="store_true", help="start a run that is large for this machine")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no progress")
    parser.set_defaults(call=_run)


def _run(args: argparse.Namespace) -> int:
    from pipeline.progress import Progress
    from pipeline.recipe import load_recipe
    from pipeline.run import Options, run_recipe
    from pipeline.size import check_size
    from pipeline.summary import console, show

    if args.workers is not None and args.workers < 1:
        raise UserError(f"--workers {args.workers}: at least 1 is needed")
    recipe = load_recipe(args.recipe, args.profile, args.set)
    out = args.out or default_out(args.recipe, recipe.name, recipe.profile, args.profile)
    if not args.yes:
        check_size(recipe, args.address)
    progress = Progress(quiet=args.quiet or args.json)
    summary = run_recipe(recipe, Options(out, args.workers, args.address, args.inline, progress))
    if args.json:
        sys.stdout.write(orjson.dumps(summary.to_json(), option=orjson.OPT_INDENT_2).decode() + "\n")
        return 0
    if summary.unchanged:
        print(f"{out} is up to date with {args.recipe}: nothing to do")
        print(f"next: python -m trainer train configs/trainer/olmoe_tiny.yaml --data {out}")
        return 0
    show(summary.to_json(), console())
    print(f"wrote {out}/manifest.json")
    print(f"next: python -m trainer train configs/trainer/olmoe_tiny.yaml --data {out}")
    return 0


def default_out(path: str, name: str, profile: str | None, asked: str | None) -> str:
    """runs/NAME for a recipe's first profile, runs/NAME-PROFILE where another one is asked for."""
    from pipeline.overrides import read_yaml

    first = next(iter(read_yaml(path).get("profiles") or [None]), None)
    return f"runs/{name}" if profile in (None, first) else f"runs/{name}-{profile}"


def _add_status(commands: Any) -> None:
    parser = commands.add_parser(
        "status", help="how far a run is", description="How far a run is, from its ledger; also while it goes on."
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_status)


def _status(args: argparse.Namespace) -> int:
    from pipeline.inspect import show_status, status
    from pipeline.summary import console

    found = status(args.dir)
    if args.json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show_status(found, console())
    return 0


def _add_inspect(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect", help="what a finished run holds", description="What a finished run holds: sources, shards, tokens."
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--show", type=int, metavar="N", help="decode the first N documents of each source")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    from pipeline.inspect import inspect, show_inspect
    from pipeline.summary import console

    found = inspect(args.dir, args.show or 0)
    if args.json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show_inspect(found, console())
    return 0 if not found["problems"] else 1


def _add_why(commands: Any) -> None:
    parser = commands.add_parser(
        "why",
        help="why a document was kept or dropped",
        description="A document's way through a finished run: each step's measures beside its limits, what decided, "
        "the edits as diffs (made again from the source file, where it is still there), and where its tokens lie.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("document", help="its id, its URL, or FILE:RECORD (the file's whole name, or its last part)")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_why)


def _why(args: argparse.Namespace) -> int:
    from pipeline.summary import console
    from pipeline.why import why
    from pipeline.why_show import show_why

    found = why(args.dir, args.document)
    if args.json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show_why(found, console())
    return 0


def _add_clusters(commands: Any) -> None:
    parser = commands.add_parser(
        "clusters",
        help="who was removed for whom",
        description="A finished run's dedups: sizes of clusters, the largest with samples, which source lost to which.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--dedup", metavar="NAME", help="one dedup, or the source whose only one it is (default: all)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="show the N largest clusters (default: 5, at most 20)")
    parser.add_argument("--svg", metavar="FILE", help="write a picture of the sizes")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_clusters)


def _clusters(args: argparse.Namespace) -> int:
    from pipeline.clusters import clusters
    from pipeline.clusters_show import show_clusters, write_svg
    from pipeline.summary import console

    if not 0 <= args.top <= 20:
        raise UserError(f"--top {args.top}: from 0 to 20")
    found = clusters(args.dir, args.dedup, args.top)
    if args.svg:
        write_svg(found, args.svg)
    if args.json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show_clusters(found, console())
    return 0


def _add_sweep(commands: Any) -> None:
    parser = commands.add_parser(
        "sweep",
        help="what another limit would keep",
        description="Documents, bytes and tokens that pass under each limit on a measure, from the measures on record: no "
        "kernel runs. Counted are the documents that reached the step; what an earlier step dropped is not. "
        "A document passes where this limit and the step's other limits let it through. Of those that pass, `kept` ended in "
        "a shard in this run, `lost later` were taken by later steps or dedup, and `new` were dropped by this step: they "
        "would reach the next steps, and what becomes of them there shows when the recipe runs with the new limit. Tokens "
        "are bytes over the source's bytes a token.",
    )
    parser.add_argument("dir", help="a run's folder")
    parser.add_argument("--measure", required=True, metavar="STEP.MEASURE", help="such as gopher_quality.words")
    parser.add_argument("--source", help="one source (default: all that have the step)")
    parser.add_argument("--side", choices=("min", "max"), help="needed where the recipe sets both or neither")
    parser.add_argument(
        "--values", nargs="+", type=float, metavar="LIMIT", help="limits to count (default: at the measure's quantiles)"
    )
    parser.add_argument("--png", metavar="FILE", help="draw a picture (.png, .svg, .pdf); needs headrace[plots]")
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_sweep)


def _sweep(args: argparse.Namespace) -> int:
    from pipeline.summary import console
    from pipeline.sweep import sweep
    from pipeline.sweep_show import draw_sweep, show_sweep

    found = sweep(args.dir, args.measure, args.source, args.side, args.values)
    if args.png:
        draw_sweep(found, args.png)
    if args.json:
        sys.stdout.write(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show_sweep(found, console())
        if args.png:
            print(f"wrote {args.png}")
    return 0


def _add_train_classifier(commands: Any) -> None:
    parser = commands.add_parser(
        "train-classifier",
        help="train a quality classifier",
        description="Train a fastText classifier of good against ordinary text, with the settings of DCLM but for --set.",
    )
    parser.add_argument("--positive", nargs="+", required=True, metavar="PATH", help="files of good text, patterns too")
    parser.add_argument("--negative", nargs="+", required=True, metavar="PATH", help="files of ordinary text")
    parser.add_argument("--out", required=True, help="model file to write (.bin); its card is written beside it")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting: bucket, dim, lr, epoch, ...")
    parser.add_argument("--evaluate", metavar="FILE", help='JSON lines of {"text", "label": 0 or 1} to judge the model on')
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(call=_train_classifier)


def _train_classifier(args: argparse.Namespace) -> int:
    from pipeline.summary import console
    from pipeline.train_classifier import show, train

    card = train(args.positive, args.negative, args.out, args.set, args.evaluate)
    if args.json:
        sys.stdout.write(orjson.dumps(card, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        show(card, args.out, console())
    return 0
