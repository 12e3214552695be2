"""The peak is that since the reset, freed memory goes back to the system, and what a process starts is counted with it."""

import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.memory import cpu_time, peak, release, reset_peak

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


def test_mapped_files_which_all_processes_share_are_not_counted(tmp_path: Path):
    path = tmp_path / "model"
    path.write_bytes(bytes(SIZE))
    reset_peak()
    before = peak()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert not np.frombuffer(mapped, np.uint8).any()
        assert peak() < before + 0.2 * SIZE


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


def test_what_a_process_starts_is_counted_with_it_while_it_runs_and_once_it_has_ended():
    work = f"""
import sys, time
for line in sys.stdin:
    held, until = bytearray({SIZE}), time.process_time() + 0.5
    while time.process_time() < until:
        pass
    del held
    print(flush=True)
"""
    with subprocess.Popen([sys.executable, "-c", work], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None and child.stdout is not None

        def ask() -> None:
            child.stdin.write(b"\n")
            child.stdin.flush()
            child.stdout.readline()

        reset_peak()
        before, held = cpu_time(), peak()
        ask()
        while_it_runs = cpu_time() - before
        assert while_it_runs >= 0.45
        assert peak() >= held + 0.9 * SIZE
        reset_peak()
        assert peak() < held + 0.5 * SIZE
        child.stdin.close()
        child.wait()
        assert cpu_time() - before >= while_it_runs - 0.05
