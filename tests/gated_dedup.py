"""A dedup job that stops where a test wants it to: in each phase once, to be killed with its node, or to kill itself.

In place of `pipeline.jobs.dedup:run` (see `instead_of_the_job`). What happened is in files of the folder that
HEADRACE_TEST_GATE names: it is the same for all processes.
"""

from __future__ import annotations

import os
import re
import signal
import time
import zlib
from pathlib import Path
from typing import Any

import pipeline.plan.dedup as plan
from pipeline.jobs import dedup as job
from pipeline.task import Context

GATE = "HEADRACE_TEST_GATE"
WAIT = 150.0  # seconds, for a test that does not come


def instead_of_the_job(name: str, group_bytes: int = 1) -> None:
    """In the process that plans: run this module's `waiting` or `dying`, and one group of parts a part, so many tasks."""
    plan.FUNCTION = f"{__name__}:{name}"
    plan.GROUP_BYTES = group_bytes


def phase_of(spec: dict[str, Any]) -> str:
    """`source.function`, with the round of the components: near.large_star-01."""
    function = spec["function"].partition(":")[2]
    arguments = spec["arguments"]
    paths = [*spec["writes"], *(part["path"] for part in arguments.get("parts", ()))]
    source = next(match[1] for path in paths if (match := re.match(r"parts/(?:dedup/)?([\w-]+)/", path)))
    number = re.search(r"/(?:large|small)(-\d\d)-\d{5}$", spec["writes"][0]) if function.endswith("_star") else None
    return f"{source}.{function}{number[1] if number else ''}"


def waiting(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Say which node this is (by its raylet's process) and wait until the test opens the phase."""
    gate = Path(os.environ[GATE])
    phase = phase_of(spec)
    (gate / f"{phase}.at.{os.getppid()}").touch()
    until = time.monotonic() + WAIT
    while not (gate / f"{phase}.open").exists():
        if time.monotonic() > until:
            raise TimeoutError(f"nobody opened {phase}")
        time.sleep(0.01)
    return job.run(spec, context)


def dying(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """In each phase, kill this process once: its outputs half written, or all landed and not yet in the ledger."""
    phase = phase_of(spec)
    died = Path(os.environ[GATE]) / f"{phase}.died"
    if died.exists():
        return job.run(spec, context)
    died.touch()
    if zlib.crc32(phase.encode()) % 2:
        job.run({**spec, "arguments": {"names": list(spec["outputs"])}, "function": f"{__name__}:_torn"}, context)
    job.run(spec, context)
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("not killed")


def _torn(names: list[str], open_file: Any, **outputs: Any) -> None:
    for name in names:
        for path in outputs[name].values() if isinstance(outputs[name], dict) else [outputs[name]]:
            Path(path).write_bytes(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)
