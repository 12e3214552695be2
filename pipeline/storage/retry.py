"""When to try again, and how long to wait first.

Opening fails fast (a few attempts: a wrong host name should be told within seconds); a transfer that has already
delivered bytes is patient (a run of days must live through a minute without network).
"""

from __future__ import annotations

import random
import re
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
LONGEST_ASKED = 300.0
"""Seconds that one answer may ask us to wait (the hub counts requests in windows of five minutes)."""
ASKED_IN_ALL = 600.0
"""Seconds that a request waits in all because it is asked to, before such an answer counts as a failed attempt."""

_WINDOW = re.compile(r";\s*t=(\d+(?:\.\d+)?)")


def delay(attempt: int) -> float:
    """Seconds to wait after failed attempt number `attempt` (1, 2, ...): exponential, with jitter."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2 ** (attempt - 1)) * random.uniform(0.5, 1.0)


def asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds that an answer asks us to wait, at most LONGEST_ASKED; 0 if it does not say.

    That is Retry-After, a number or an HTTP date (RFC 9110, 10.2.3), else what is left of the window in RateLimit
    (`"resolvers";r=0;t=57`: draft-ietf-httpapi-ratelimit-headers).
    """
    return min(max(_retry_after(headers.get("Retry-After", "")), 0.0) or _window(headers.get("RateLimit", "")), LONGEST_ASKED)


def _retry_after(header: str) -> float:
    try:
        return float(header)
    except ValueError:
        pass
    try:
        return parsedate_to_datetime(header).timestamp() - time.time()
    except (TypeError, ValueError, IndexError):
        return 0.0


def _window(header: str) -> float:
    """The longest t of those limits of which nothing is left."""
    spent = [part for part in header.split(",") if re.search(r";\s*r=0\b", part)]
    return max((float(found[1]) for part in spent if (found := _WINDOW.search(part))), default=0.0)


def wait(attempt: int, asked: float = 0.0) -> None:
    """Wait as long as an answer asked, and the delay of the attempt on top: not all are to come back at the same moment."""
    time.sleep(asked + delay(attempt) + (random.uniform(0.0, 0.1) * asked))
