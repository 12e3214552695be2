"""Keeps the parsing process: hands it pages, sees on which it hangs or dies, and starts it again behind that one."""

from __future__ import annotations

import contextlib
import json
import marshal
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from stages.errors import DocumentFailure, UserError

START_SECONDS = 120.0  # for the process to import the engine
WALL_FACTOR = 6.0  # a page may take this many times its CPU seconds, on a busy machine or asleep
STDERR_BYTES = 1 << 20
# What pages take is freed with each, and is not to be given back and taken anew from the system (mallopt(3), of glibc).
_KEEP_FREED = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
_HEADER = struct.Struct("<qqq")


@dataclass
class Texts:
    """What became of some pages, in their order."""

    texts: list[bytes] = field(default_factory=list)  # UTF-8; empty for a page that failed
    replaced: list[int] = field(default_factory=list)  # characters of each page put for bytes that mean nothing
    failures: list[DocumentFailure] = field(default_factory=list)  # `row` is the page's position

    def add(self, text: bytes, replaced: int) -> None:
        self.texts.append(text)
        self.replaced.append(replaced)

    def fail(self, error: str, trace: str) -> None:
        self.failures.append(DocumentFailure(len(self.texts), error, trace))
        self.add(b"", 0)


@dataclass(frozen=True)
class Settings:
    """What a parsing process is started with."""

    engine: str  # "resiliparse" or "module:function"
    charset: str  # "declared" or "as_dclm"
    options: tuple[tuple[str, Any], ...]  # keyword arguments of Resiliparse's extract_plain_text
    page_seconds: float  # CPU time for one page
    memory_bytes: int | None  # address space of the process


class Supervisor:
    """One parsing process at a time. Not safe for use by several threads at once."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.process: subprocess.Popen | None = None
        self.code: str | None = None
        self.commands = self.results = self.pages = -1
        self.size = 0  # of the shared memory
        self.errors: IO[bytes] | None = None
        self.buffer = bytearray()

    def extract(self, data: np.ndarray, spans: list[tuple[int, int, str | None]]) -> Texts:
        """The texts of the pages data[start:stop]. Raises UserError where the process cannot even start."""
        done = Texts()
        if not spans:
            return done
        base, end = spans[0][0], spans[-1][1]
        entries = [(start - base, stop - base, charset) for start, stop, charset in spans]
        while len(done.texts) < len(spans):
            self.start()
            self._send(data[base:end], entries[len(done.texts) :])
            try:
                while len(done.texts) < len(spans):
                    status, replaced, answer = self._receive(self.settings.page_seconds * WALL_FACTOR)
                    if status:
                        done.fail(*marshal.loads(answer))
                    else:
                        done.add(answer, replaced)
            except TimeoutError:
                self._kill()
                seconds = self.settings.page_seconds * WALL_FACTOR
                done.fail(f"PageTimeout: the page took more than {seconds:g} seconds", self._stderr())
            except EOFError:
                done.fail(*self._cause_of_death())
        self._trim_stderr()
        return done

    def start(self, code: str | None = None) -> None:
        """Start the process if none is running, or one that runs other code of the user's. code: a hash of that, if known."""
        if self.process is not None:
            if self.process.poll() is None and code in (None, self.code):
                return
            self.close()
        self.code = code or self.code
        command_end, self.commands = os.pipe()
        self.results, result_end = os.pipe()
        self.pages = os.memfd_create("pages") if hasattr(os, "memfd_create") else _unnamed_file()
        self.size = 0
        self.buffer.clear()
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        numbers = (command_end, result_end, self.pages)
        settings = json.dumps(asdict(self.settings) | {"options": dict(self.settings.options)})
        path = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "stages.extract.child", *map(str, numbers), settings],
                pass_fds=numbers,
                stdin=subprocess.DEVNULL,
                stdout=self.errors,
                stderr=self.errors,
                env={**_KEEP_FREED, **os.environ, "PYTHONPATH": path},
            )
        finally:
            os.close(command_end)
            os.close(result_end)
        try:
            self._receive(START_SECONDS)
        except (EOFError, TimeoutError):
            self._kill()
            tail = self._stderr().strip().rsplit("\n", 1)[-1]
            self.close()
            raise UserError(f"the extraction engine {self.settings.engine!r} does not start: {tail}") from None

    def close(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self._kill()
            self.process = None
        for number in (self.commands, self.results, self.pages):
            if number >= 0:
                os.close(number)
        self.commands = self.results = self.pages = -1
        if self.errors is not None:
            self.errors.close()
            self.errors = None

    def _send(self, data: np.ndarray, entries: list[tuple[int, int, str | None]]) -> None:
        if len(data) > self.size:
            self.size = max(len(data), 2 * self.size)
            os.ftruncate(self.pages, self.size)
        view, at = memoryview(data), 0
        while at < len(view):
            at += os.pwrite(self.pages, view[at:], at)
        command = marshal.dumps((self.size, entries))
        view = memoryview(struct.pack("<q", len(command)) + command)
        with contextlib.suppress(BrokenPipeError):  # the process has died: _receive says so
            while view:
                view = view[os.write(self.commands, view) :]

    def _receive(self, seconds: float) -> tuple[int, int, bytes]:
        """The next result: status, replaced characters, answer. Raises TimeoutError, or EOFError where the process has ended."""
        deadline = time.monotonic() + seconds
        need = _HEADER.size
        status = replaced = -1
        while True:
            if len(self.buffer) >= need:
                if status >= 0:
                    answer = bytes(self.buffer[_HEADER.size : need])
                    del self.buffer[:need]
                    return status, replaced, answer
                status, replaced, length = _HEADER.unpack_from(self.buffer)
                need += length
                continue
            left = deadline - time.monotonic()
            poll = select.poll()
            poll.register(self.results, select.POLLIN)
            if left <= 0 or not poll.poll(left * 1000):
                raise TimeoutError
            part = os.read(self.results, 1 << 20)
            if not part:
                raise EOFError
            self.buffer += part

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def _cause_of_death(self) -> tuple[str, str]:
        """The cause in one line, and what the process last wrote to stderr."""
        code = self.process.wait() if self.process is not None else 0
        if code == -signal.SIGPROF:
            error = f"PageTimeout: the page took more than {self.settings.page_seconds:g} seconds of CPU time"
        else:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
            error = f"ParserCrash: the parser's process ended with {how} on this page"
        return error, self._stderr()

    def _stderr(self) -> str:
        if self.errors is None:
            return ""
        size = os.fstat(self.errors.fileno()).st_size
        return os.pread(self.errors.fileno(), 4096, max(0, size - 4096)).decode("utf-8", "replace")

    def _trim_stderr(self) -> None:
        if self.errors is not None and os.fstat(self.errors.fileno()).st_size > STDERR_BYTES:
            os.ftruncate(self.errors.fileno(), 0)
            os.lseek(self.errors.fileno(), 0, os.SEEK_SET)


def _unnamed_file() -> int:
    file, name = tempfile.mkstemp()
    Path(name).unlink()
    return file
