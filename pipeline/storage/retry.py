"""When to try again, and how long to wait first.

Opening fails fast (a few attempts: a wrong host name should be told within seconds); a transfer that has already
delivered bytes is patient (a run of days must live through a minute without network).
"""

from __future__ import annotations

import random
import time
from email.utils import parsedate_to_datetime

FIRST_DELAY = 0.2
"""Seconds before the second attempt; doubles with each further one."""
LONGEST_DELAY = 20.0
OPEN_ATTEMPTS = 5
"""Attempts to get a first answer."""
PATIENCE = 8
"""Attempts in a row without a single new byte before a transfer is given up."""
LONGEST_RETRY_AFTER = 120.0
"""Seconds that a server may ask us to wait (Retry-After)."""


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


def wait(attempt: int, at_least: float = 0.0) -> None:
    time.sleep(max(delay(attempt), at_least))
