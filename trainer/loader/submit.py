"""Many reads in one system call: Linux's asynchronous I/O (io_submit), which for cached files reads at once.

A batch is some hundred reads of a few KiB. One call each costs, beside the copy, a trip through the interpreter and two
hand-overs of its lock, for which the threads that read side by side wait for one another. Where the kernel does not
offer this (not Linux, another processor, forbidden in a container, all contexts taken), the caller reads one by one.
"""

from __future__ import annotations

import ctypes
import platform
import sys

import numpy as np

READS = 256  # of one call
SYSTEM_CALLS = {
    "x86_64": (206, 207, 208, 209),
    "aarch64": (0, 1, 4, 2),
}  # io_setup, io_destroy, io_getevents, io_submit
PREAD = 0

# linux/aio_abi.h: struct iocb and struct io_event, on little-endian machines.
CONTROL = np.dtype(
    [
        ("data", "<u8"),
        ("key", "<u4"),
        ("flags", "<i4"),
        ("opcode", "<u2"),
        ("priority", "<i2"),
        ("descriptor", "<u4"),
        ("address", "<u8"),
        ("bytes", "<u8"),
        ("offset", "<i8"),
        ("reserved", "<u8"),
        ("more_flags", "<u4"),
        ("event_descriptor", "<u4"),
    ]
)
EVENT = np.dtype([("data", "<u8"), ("control", "<u8"), ("result", "<i8"), ("result2", "<i8")])


class Submitter:
    """A context for up to READS reads at a time, used by one thread at a time. `works` tells whether there is one."""

    def __init__(self) -> None:
        self.works = False
        numbers = SYSTEM_CALLS.get(platform.machine()) if sys.platform == "linux" else None
        if numbers is None:
            return
        self._setup, self._destroy, self._events, self._submit = numbers
        self._call = ctypes.CDLL(None).syscall
        self._quick = ctypes.PyDLL(None).syscall  # the same, holding the interpreter's lock
        self._call.restype = self._quick.restype = ctypes.c_long
        self._context = ctypes.c_ulong(0)
        self.works = self._call(self._setup, READS, ctypes.byref(self._context)) == 0
        self._controls, self._done = np.zeros(READS, CONTROL), np.zeros(READS, EVENT)
        self._controls["opcode"], self._controls["data"] = PREAD, np.arange(READS)
        self._pointers = (self._controls.ctypes.data + CONTROL.itemsize * np.arange(READS)).astype(np.uintp)
        self._events_at, self._pointers_at = ctypes.c_void_p(self._done.ctypes.data), self._pointers.ctypes.data

    def read(
        self, descriptors: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, addresses: np.ndarray
    ) -> np.ndarray | None:
        """Read each of up to READS pieces to its address; returns the bytes of each, or -errno (int64).

        None where the kernel stops taking them; then they must be read in another way, and `works` is False from now on.
        """
        count, taken, seen = len(descriptors), 0, 0
        controls, got = self._controls[:count], np.zeros(count, np.int64)
        controls["descriptor"], controls["offset"] = descriptors, offsets
        controls["bytes"], controls["address"] = sizes, addresses
        while seen < count:
            if taken < count:
                pointers = ctypes.c_void_p(self._pointers_at + taken * self._pointers.itemsize)
                more = self._call(self._submit, self._context, ctypes.c_long(count - taken), pointers)
                taken += max(0, more)
                if taken == seen:  # refused, and nothing is under way that could make room
                    self.works = False
                    return None
            # Cached reads are done by now: what is there is fetched without waiting, for which no lock need be given up.
            waiting = ctypes.c_long(taken - seen)
            found = self._quick(self._events, self._context, ctypes.c_long(0), waiting, self._events_at, None)
            if found <= 0:
                found = max(0, self._call(self._events, self._context, waiting, waiting, self._events_at, None))
            done = self._done[:found]
            got[done["data"].view(np.int64)] = done["result"]
            seen += found  # a signal may end the wait early
        return got

    def __del__(self) -> None:
        if self.works:
            self._call(self._destroy, self._context)
