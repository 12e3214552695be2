"""Keeping to what a server allows: its answers tell how many requests are left, and when all are there again.

RateLimit: "resolvers";r=12;t=57 and RateLimit-Policy: "fixed window";"resolvers";q=5000;w=300
(draft-ietf-httpapi-ratelimit-headers-09; the Hugging Face hub sends both).
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Mapping

LONGEST = 330.0
"""Seconds that are waited at most; windows of five minutes are usual."""
SCARCE = 0.05
"""The share of the allowance from which on its users, who do not know of one another, spread what is left."""

_LEFT = re.compile(r"r\s*=\s*(\d+)\s*;\s*t\s*=\s*(\d+)")
_ALLOWED = re.compile(r"q\s*=\s*(\d+)")
_free: dict[str, float] = {}  # by server: when it may be asked again
_guard = threading.Lock()


def note(server: str, headers: Mapping[str, str]) -> None:
    """Read what an answer says of the requests that are left: `await_turn` then waits where there are few or none."""
    found = _LEFT.search(headers.get("RateLimit", ""))
    if not found:
        return
    left, seconds = int(found[1]), int(found[2])
    allowed = _ALLOWED.search(headers.get("RateLimit-Policy", ""))
    if left == 0:
        pause = seconds + random.uniform(0.0, 1.0)
    elif allowed and left < SCARCE * int(allowed[1]):
        pause = random.uniform(0.0, seconds)
    else:
        return
    with _guard:
        _free[server] = max(_free.get(server, 0.0), time.monotonic() + min(pause, LONGEST))


def await_turn(server: str) -> None:
    """Wait until the server may be asked again."""
    if (pause := _free.get(server, 0.0) - time.monotonic()) > 0:
        time.sleep(pause)
