"""What is measured of a command: CPU time and memory of it and of all that it starts."""

import os

import pytest

from benchmarks import measure

CHILD = "import time; data = bytearray(200_000_000); data[::4096] = b'1' * len(data[::4096]); time.sleep(0.5)"
PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {CHILD!r}]); print('done')"


def test_memory_of_a_child_is_seen_and_kept_apart():
    usage = measure.run(["-c", PARENT], None)
    assert usage.output == "done\n"
    assert len(usage.processes) >= 2  # the parent and its child; a busy machine may show one of them before its exec
    assert usage.peak > 200_000_000 > 2 * min(process.peak for process in usage.processes)
    assert usage.cpu_seconds > 0


def test_a_command_runs_on_the_cores_it_is_given():
    core = min(os.sched_getaffinity(0))
    assert measure.run(["-c", "import os; print(os.sched_getaffinity(0))"], {core}).output == f"{{{core}}}\n"


def test_a_command_that_fails_ends_the_benchmark_with_what_it_said():
    with pytest.raises(SystemExit, match="no such thing"):
        measure.run(["-c", "raise ValueError('no such thing')"], None)


def test_a_median_is_a_value_that_was_measured():
    assert measure.middle([3.0, 1.0, 2.0, 9.0]) == 2.0
