"""What a person sees while a run goes on: the phase, tasks, rate, documents kept, time left. Quiet where no one looks."""

from __future__ import annotations

import shutil
import sys
import time

from pipeline.plan.node import Report
from pipeline.terminal import printable
from stages.units import show_bytes, show_count, show_seconds


class Progress:
    """One line, rewritten, on a terminal; one line a phase elsewhere when `verbose`; nothing when quiet."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.terminal = sys.stderr.isatty() and not quiet
        self.quiet = quiet
        self.lines = not self.terminal and not quiet
        self._phase = ""
        self._width = 0
        self._compiling = False

    def begin(self, phase: str, tasks: int, already: int, weight: int) -> None:
        """A phase starts: so many tasks, so many of them done before, so many bytes to go."""
        self._phase, self._tasks, self._already, self._weight = phase, tasks, already, weight
        self._done, self._bytes, self._kept, self._seen = 0, 0, 0, 0
        self._phase_began = time.monotonic()
        self._shown = 0.0
        if tasks > already:
            self.tick(force=True)

    def done(self, weight: int, report: Report) -> None:
        """A task ended."""
        self._done += 1
        self._bytes += weight
        if report.books:
            self._seen += report.books[0].into.docs
            self._kept += report.books[-1].out.docs
        self.tick()

    def tick(self, force: bool = False) -> None:
        """Show where things stand, at most five times a second."""
        now = time.monotonic()
        if not self.terminal or (not force and now - self._shown < 0.2):
            return
        self._shown = now
        self._write(self._status(now))

    def end(self, phase: str) -> None:
        """The phase is whole."""
        if self._tasks == self._already:
            return
        status = self._status(time.monotonic(), final=True)
        if self.terminal:
            self._write(status)
            sys.stderr.write("\n")
            self._width = 0
        elif self.lines:
            print(status, file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Something short that is going on outside a phase."""
        text = printable(text)
        if self.terminal:
            self._write(text)
        elif self.lines:
            print(text, file=sys.stderr, flush=True)

    def line(self, text: str) -> None:
        """Something that stays to be read."""
        text = printable(text)
        if self.terminal:
            sys.stderr.write(f"\r{text.ljust(self._width)}\n")
            self._width = 0
        else:
            self.note(text)

    def compiling(self, done: int, total: int) -> None:
        """Kernels are being compiled."""
        if self.terminal:
            self._write(f"compiling kernels (once a machine): {done} of {total}")
        elif self.lines and not self._compiling:
            print(f"compiling {total} kernels (once a machine)", file=sys.stderr, flush=True)
        self._compiling = True

    def _status(self, now: float, final: bool = False) -> str:
        elapsed = max(now - self._phase_began, 1e-3)
        parts = [f"{self._phase:<26} {self._already + self._done:>5}/{self._tasks} tasks"]
        if self._bytes:
            parts.append(f"{show_bytes(self._bytes / elapsed)}/s")
        if self._seen:
            parts.append(f"{show_count(self._kept)} of {show_count(self._seen)} documents kept")
        if final:
            parts.append(show_seconds(elapsed))
        elif self._bytes and self._weight > self._bytes:
            parts.append(f"{show_seconds(elapsed * (self._weight - self._bytes) / self._bytes)} left")
        return "  ".join(parts)

    def _write(self, text: str) -> None:
        text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps could not be rewritten
        padding = " " * max(0, self._width - len(text))
        self._width = len(text)
        sys.stderr.write(f"\r{text}{padding}")
        sys.stderr.flush()
