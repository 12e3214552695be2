"""`python tests/kill_at.py COUNT ARGUMENTS...`: the pipeline's command, killed where it is about to touch its COUNT-th file.

Files that are opened for writing, renamed, removed, and folders that are made or removed are counted, below the folder
after `--out`. A moment in a run is told by what the run has done so far, and so depends on no machine's speed. With
COUNT 0 it runs to its end and prints how many there were.
"""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "shutil.rmtree"}


class Count:
    """Counts what changes below a folder, and kills this process at the last count that it is to reach."""

    def __init__(self, folder: str, last: int) -> None:
        self.folder, self.last, self.done = f"{folder}/", last, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            changes = isinstance(flags, int) and bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        else:
            path, changes = arguments[0] if arguments else None, event in CHANGES
        if changes and isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(self.folder):
            self.done += 1
            if self.done == self.last:
                os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    last, arguments = int(sys.argv[1]), sys.argv[2:]
    count = Count(arguments[arguments.index("--out") + 1], last)
    sys.addaudithook(count)
    from pipeline.cli import main

    status = main(arguments)
    print(count.done)
    sys.exit(status)
