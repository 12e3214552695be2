"""A dedup call that stops where a test wants it to: in each phase once, to be killed with its node, or to kill itself.

In place of `pipeline.jobs.dedup.DedupCall` (see `instead_of_the_job`). What happened is in files of the folder that
HEADRACE_TEST_GATE names: it is the same for all processes.
"""

from __future__ import annotations

import os
import signal
import time
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pipeline.plan.dedup as plan
from pipeline.jobs.context import Context
from pipeline.jobs.dedup_call import CallReport, DedupCall

GATE = "HEADRACE_TEST_GATE"
WAIT = 150.0  # seconds, for a test that does not come


def instead_of_the_job(job: type[DedupCall], group_bytes: int = 1) -> None:
    """In the process that plans: run this module's `Waiting` or `Dying`, and one group of parts a part, so many tasks."""
    plan.DedupCall = job  # type: ignore[misc]
    plan.GROUP_BYTES = group_bytes


def phase_of(context: Context) -> str:
    """`source.phase`: near.large-01."""
    return f"{context.ref.source}.{context.ref.stage.partition(' ')[2]}"


@dataclass(frozen=True)
class Waiting(DedupCall):
    """Says which node this is (by its raylet's process) and waits until the test opens the phase."""

    def run(self, context: Context) -> CallReport:
        gate = Path(os.environ[GATE])
        phase = phase_of(context)
        (gate / f"{phase}.at.{os.getppid()}").touch()
        until = time.monotonic() + WAIT
        while not (gate / f"{phase}.open").exists():
            if time.monotonic() > until:
                raise TimeoutError(f"nobody opened {phase}")
            time.sleep(0.01)
        return super().run(context)


@dataclass(frozen=True)
class Dying(DedupCall):
    """In each phase, kills this process once: its outputs half written, or all landed and not yet in the ledger."""

    def run(self, context: Context) -> CallReport:
        phase = phase_of(context)
        died = Path(os.environ[GATE]) / f"{phase}.died"
        if died.exists():
            return super().run(context)
        died.touch()
        if zlib.crc32(phase.encode()) % 2:
            names = {"names": list(self.outputs)}
            DedupCall(f"{__name__}:_torn", names, {}, self.outputs, {}).run(context)
        super().run(context)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("not killed")


def _torn(names: list[str], open_file: Any, **outputs: Any) -> None:
    for name in names:
        for path in outputs[name].values() if isinstance(outputs[name], dict) else [outputs[name]]:
            Path(path).write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)
