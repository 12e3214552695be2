"""When to try again, and how long to wait first.

Opening fails fast (a few attempts: a wrong host name should be told within seconds); a transfer that has already
delivered bytes is patient (a run of days must live through a minute without network).
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

FIRST_DELAY = 0.2
"""Seconds before the second attempt; doubles with each further one."""
LONGEST_DELAY = 20.0
OPEN_ATTEMPTS = 5
"""Attempts to get a first answer."""
PATIENCE = 8
"""Attempts in a row without a single new byte before a transfer is given up."""
LONGEST_RETRY_AFTER = 330.0
"""Seconds that a server may ask us to wait (Retry-After, RateLimit); windows of five minutes are usual."""
SCARCE = 0.05
"""The share of a server's allowance from which on its users, who do not know of one another, spread what is left."""

_LIMIT = re.compile(r"r\s*=\s*(\d+)\s*;\s*t\s*=\s*(\d+)")
_POLICY = re.compile(r"q\s*=\s*(\d+)")
_free: dict[str, float] = {}  # by server: when it may be asked again
_guard = threading.Lock()


def delay(attempt: int) -> float:
    """Seconds to wait after failed attempt number `attempt` (1, 2, ...): exponential, with jitter."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def retry_after(header: str | None) -> float:
    """Seconds that a Retry-After header asks for (a number or an HTTP date), at most LONGEST_RETRY_AFTER; 0 if none."""
    if not header:
        return 0.0
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except (TypeError, ValueError):
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER)


def rate_limit(headers: Mapping[str, str]) -> tuple[int, int, int] | None:
    """What a server still allows, from its RateLimit and RateLimit-Policy headers (draft-ietf-httpapi-ratelimit-headers-09):
    requests left, seconds until all are there again, and all of them (0: not told)."""
    found = _LIMIT.search(headers.get("RateLimit", ""))
    if not found:
        return None
    policy = _POLICY.search(headers.get("RateLimit-Policy", ""))
    return int(found[1]), int(found[2]), int(policy[1]) if policy else 0


def asked_pause(headers: Mapping[str, str]) -> float:
    """Seconds that a refusal asks for: by Retry-After, or until its RateLimit is refilled; 0 where it does not tell."""
    limit = rate_limit(headers)
    refilled = float(limit[1]) if limit and not limit[0] else 0.0
    return max(retry_after(headers.get("Retry-After")), min(refilled, LONGEST_RETRY_AFTER))


def pace(server: str, headers: Mapping[str, str]) -> None:
    """Note what an answer says of the requests that are left: `await_turn` then waits where there are few or none."""
    limit = rate_limit(headers)
    if limit is None:
        return
    left, seconds, allowed = limit
    if left == 0:
        pause = seconds + random.uniform(0.0, 1.0)
    elif left < SCARCE * allowed:
        pause = random.uniform(0.0, seconds)
    else:
        return
    with _guard:
        _free[server] = max(_free.get(server, 0.0), time.monotonic() + min(pause, LONGEST_RETRY_AFTER))


def await_turn(server: str) -> None:
    """Wait until the server may be asked again."""
    if (pause := _free.get(server, 0.0) - time.monotonic()) > 0:
        time.sleep(pause)


def wait(attempt: int, at_least: float = 0.0) -> None:
    time.sleep(max(delay(attempt), at_least))
