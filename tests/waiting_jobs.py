"""Jobs that wait for one another, or for a test, by files of a folder: how a cluster carries them out can be seen there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.jobs.context import Context
from pipeline.plan.node import Job, Report
from stages.marks import HowMuch, Setting

WAIT = 200.0  # seconds, for what does not come


def until(what: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT
    while not what():
        if time.monotonic() > end:
            raise TimeoutError("it did not come")
        time.sleep(0.01)


@dataclass(frozen=True)
class _Test(Job):
    def modules(self) -> tuple[str, ...]:
        return ("pipeline.jobs.context",)  # in place of this one, which lies in no package


@dataclass(frozen=True)
class Together(_Test):
    """Ends once `count` tasks run at the same time. Leaves a file NUMBER.RAYLET."""

    number: Setting[int]
    folder: HowMuch[str] = ""
    count: HowMuch[int] = 1

    def run(self, context: Context) -> Report:
        Path(self.folder, f"{self.number}.{os.getppid()}").touch()
        until(lambda: len(list(Path(self.folder).iterdir())) >= self.count)
        with context.output(f"parts/{self.number}") as path:
            path.write_text(f"{self.number}")
        return Report()


@dataclass(frozen=True)
class Lasting(_Test):
    """Leaves when it began and ended; begins, where they run together, and so ends, with the other one."""

    number: Setting[int]
    folder: HowMuch[str] = ""
    together: HowMuch[bool] = False

    def run(self, context: Context) -> Report:
        began = time.monotonic()
        Path(self.folder, f"{self.number}.begun").touch()
        until(lambda: not self.together or len(list(Path(self.folder).glob("*.begun"))) == 2)
        time.sleep(0.3)
        Path(self.folder, f"{self.number}.span").write_text(f"{began} {time.monotonic()}")
        with context.output(f"parts/{self.number}") as path:
            path.write_text(f"{self.number}")
        return Report()


@dataclass(frozen=True)
class Late(_Test):
    """The first to run the `late` one writes half of its output, and does not go on; says so, and whether it was ended."""

    number: Setting[int]
    folder: HowMuch[str] = ""
    late: HowMuch[bool] = False

    def run(self, context: Context) -> Report:
        mark = Path(self.folder, f"{self.number}.begun")
        first = self.late and not mark.exists()
        mark.touch()
        try:
            with context.output(f"parts/{self.number}") as path:
                (context.scratch / "half").write_text("half")
                path.write_text("half")
                if first:
                    until(lambda: False)
                path.write_text(f"{self.number}")
        except BaseException as error:
            Path(self.folder, f"{self.number}.ended").write_text(type(error).__name__)
            raise
        return Report()
