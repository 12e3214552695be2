"""Batches read by threads before they are wanted."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from trainer.loader.files import THREADS

AHEAD = 4  # batches read before they are wanted


def read_ahead(calls: Iterable[Callable[[], Any]], ahead: int, threads: int = THREADS) -> Iterator[Any]:
    """The results of the calls, in order. Up to `ahead` of them are made by `threads` before they are wanted.

    An error of a call is raised when its turn has come; no call is begun after that, or when the iterator is closed.
    """
    waiting: deque[Future[Any]] = deque()
    left = iter(calls)
    pool = ThreadPoolExecutor(max(1, min(threads, ahead)), "headrace-data")
    try:
        for call in itertools.islice(left, ahead):
            waiting.append(pool.submit(call))
        while waiting:
            result = waiting.popleft().result()
            for call in itertools.islice(left, 1):
                waiting.append(pool.submit(call))
            yield result
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
