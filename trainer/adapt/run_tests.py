"""Programs that a model wrote, run against tests: in a process of their own, with limits, and without a network.

What they may use: TIME_S seconds, MEMORY_BYTES of memory, files of FILE_BYTES in a folder that is removed. The process
refuses itself new sockets by a seccomp filter before any of the program runs; where the system has none (it is not
Linux on x86-64 or ARM64), nothing is run. This keeps accidents in, not an attacker who knows the system: run what you
do not trust in a container.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from trainer.errors import TrainerError

TIME_S = 10
MEMORY_BYTES = 1 << 30
FILE_BYTES = 1 << 20
UNABLE = 97  # exit status of a process that could not be closed off

# Run in the new process before the program: limits, then the filter, then the program as __main__.
GUARD = """
import ctypes, platform, resource, struct, sys

def limit(what, most):
    resource.setrlimit(what, (most, most))

limit(resource.RLIMIT_CPU, {time_s})
limit(resource.RLIMIT_AS, {memory})
limit(resource.RLIMIT_FSIZE, {file})
limit(resource.RLIMIT_CORE, 0)
# (audit architecture, socket, socketpair, io_uring_setup, what a number of another calling convention begins at)
systems = {{"x86_64": (0xC000003E, 41, 53, 425, 0x40000000), "aarch64": (0xC00000B7, 198, 199, 425, 0xFFFFFFFF)}}
if sys.platform != "linux" or platform.machine() not in systems:
    sys.exit({unable})
architecture, *refused, other = systems[platform.machine()]
LOAD, EQUAL, LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
ALLOW, REFUSE = 0x7FFF0000, 0x00050000 | 13
rules = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, REFUSE), (LOAD, 0, 0, 0)]
tests = [(LEAST, other)] + [(EQUAL, number) for number in refused]
for place, (test, value) in enumerate(tests):
    rules.append((test, len(tests) - place, 0, value))
rules += [(RETURN, 0, 0, ALLOW), (RETURN, 0, 0, REFUSE)]
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *rule) for rule in rules))

class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("rules", ctypes.c_void_p)]

libc = ctypes.CDLL(None, use_errno=True)
program = Program(len(rules), ctypes.addressof(code))
NO_NEW_PRIVILEGES, SECCOMP, FILTER = 38, 22, 2
if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) or libc.prctl(SECCOMP, FILTER, ctypes.byref(program), 0, 0):
    sys.exit({unable})
with open(sys.argv[1], encoding="utf-8") as file:
    source = file.read()
exec(compile(source, "answer.py", "exec"), {{"__name__": "__main__"}})
"""


def passes(code: str, tests: list[str], time_s: int = TIME_S, memory_bytes: int = MEMORY_BYTES) -> bool:
    """Whether the code, with the tests after it, ends well within the limits.

    Raises TrainerError where a process cannot be closed off from the network.
    """
    # The last line tells that all of it ran: a program that ends early with status 0 has passed nothing.
    with tempfile.TemporaryDirectory(prefix="headrace-tests-") as folder:
        path, done = Path(folder) / "answer.py", Path(folder) / "done"
        mark = f"open({str(done)!r}, 'w').close()"
        path.write_text("\n".join([code, *tests, mark]) + "\n", encoding="utf-8", errors="replace")
        guard = GUARD.format(time_s=time_s, memory=memory_bytes, file=FILE_BYTES, unable=UNABLE)
        status = _run([sys.executable, "-I", "-S", "-c", guard, str(path)], folder, time_s)
        if status == UNABLE and not done.exists():
            raise TrainerError(
                "tests of written programs are run without a network, and this system has no way to refuse it "
                "(seccomp); score these answers on Linux, on x86-64 or ARM64"
            )
        return status == 0 and done.exists()


def _run(command: list[str], folder: str, time_s: int) -> int | None:
    """The exit status of a command in a session of its own, which is killed whole; None if it took too long."""
    quiet = subprocess.DEVNULL
    environment = {"PATH": os.defpath, "HOME": folder, "LANG": "C.UTF-8", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdin=quiet, stdout=quiet, stderr=quiet, start_new_session=True
    ) as process:
        try:
            return process.wait(timeout=time_s + 2)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
