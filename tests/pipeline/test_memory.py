"""The peak is that since the reset, and freed memory goes back to the system."""

import numpy as np
import pyarrow as pa

from pipeline.memory import peak, release, reset_peak

SIZE = 200_000_000


def test_the_peak_is_that_since_the_reset():
    reset_peak()
    before = peak()
    held = np.ones(SIZE, np.uint8)
    assert peak() >= before + 0.9 * SIZE
    del held
    release()
    assert peak() >= before + 0.9 * SIZE  # the mark stays
    reset_peak()
    assert peak() < before + 0.5 * SIZE


def test_memory_freed_by_arrow_goes_back():
    release()
    reset_peak()
    before = peak()
    held = [pa.allocate_buffer(1_000_000) for _ in range(200)]
    for buffer in held:
        memoryview(buffer).cast("B")[:] = bytes(1_000_000)
    assert peak() >= before + 0.9 * SIZE
    del held, buffer
    release()
    reset_peak()
    assert peak() < before + 0.5 * SIZE
