"""`python -m pipeline serve`: a page of this machine's browser that shows runs while they go on."""

from __future__ import annotations

import argparse
from typing import Any

from stages.errors import UserError


def add(commands: Any) -> None:
    parser = commands.add_parser(
        "serve",
        help="a page in the browser that shows runs while they go on",
        description="A page on this machine that shows running and finished runs: phases, rates, the funnel of each source, "
        "failures, and documents as they are dropped. Ctrl-C ends it; the runs go on.",
    )
    parser.add_argument("folders", nargs="*", metavar="DIR", help="runs' folders, or a folder of runs (default: runs)")
    parser.add_argument("--port", type=int, default=8264, help="where it listens; 0: any free one (8264)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="0.0.0.0 lets other machines see the runs and their texts (127.0.0.1: this one alone)"
    )
    parser.set_defaults(call=_call)


def _call(args: argparse.Namespace) -> int:
    from pathlib import Path

    from pipeline import storage
    from pipeline.live.server import make_server

    folders = args.folders or ["runs"]
    for folder in folders:
        if storage.is_local(folder) and not Path(folder).is_dir():
            raise UserError(f"{folder}: there is no such folder; name a run's, or one that holds runs")
    if not 0 <= args.port <= 65535:
        raise UserError(f"--port {args.port}: a number from 0 to 65535")
    with make_server(folders, args.host, args.port) as server:
        print(f"{', '.join(folders)}: http://{args.host}:{server.server_address[1]}/ (Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("ended; runs go on")
    return 0
