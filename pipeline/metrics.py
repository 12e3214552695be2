"""How far a run is, for Prometheus: `run --metrics-port PORT` answers at /metrics while the run goes on.

prometheus_client serves it (`pip install "headrace[metrics]"`). What each node and each of Ray's processes takes, Ray itself
tells Prometheus.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pipeline.progress import Standing
from stages.errors import UserError

# Of `Standing`: name, help. Labels: the phase's title.
OF_PHASE = {
    "tasks": "Tasks of the phase, those that were done before included",
    "done": "Tasks of the phase that are done",
    "failed": "Tasks of the phase that failed for good",
    "tried_again": "Attempts at tasks of the phase that failed and were tried again",
    "bytes": "Bytes of input of the tasks that were not done when the phase began",
    "done_bytes": "Bytes of input of the tasks that were done since then",
    "seconds": "Seconds since the phase began",
    "left": "Seconds that the phase may still take",
}
OF_RUN = {
    "number": "The phase's place in the run, from 1",
    "phases": "About how many phases the run has",
    "run_left": "Seconds that the run may still take",
}


class _Collector:
    """Asks where the run stands when it is scraped."""

    def __init__(self, standing: Callable[[], Standing | None]) -> None:
        self.standing = standing

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import GaugeMetricFamily

        standing = self.standing()
        if standing is None:  # no phase has begun
            return
        for names, of, labels in ((OF_PHASE, "phase", {"phase": standing.phase}), (OF_RUN, "run", {})):
            for name, words in names.items():
                if (value := getattr(standing, name)) is not None:
                    found = GaugeMetricFamily(f"headrace_{of}_{name.removeprefix('run_')}", words, labels=list(labels))
                    found.add_metric(list(labels.values()), float(value))
                    yield found


@contextmanager
def served(port: int | None, standing: Callable[[], Standing | None]) -> Iterator[None]:
    """Answer at http://HOST:PORT/metrics meanwhile. Raises UserError where that cannot be; None: nothing is served."""
    if port is None:
        yield
        return
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise UserError(
            '--metrics-port needs prometheus_client, which is not installed: pip install "headrace[metrics]"'
        ) from None
    registry = CollectorRegistry()
    registry.register(_Collector(standing))  # type: ignore[arg-type]  what collects need be no subclass
    try:
        server, thread = start_http_server(port, registry=registry)
    except (OSError, OverflowError) as error:
        reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
        raise UserError(f"--metrics-port {port}: nothing can be served there ({reason}); name another port") from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
