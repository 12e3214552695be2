"""What a person sees while a run goes on: the phase, tasks, rate, documents kept, time left. Quiet where no one looks."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from pipeline.plan.node import Report
from pipeline.terminal import printable
from stages.units import show_bytes, show_count, show_seconds

LINE_SECONDS = 30.0  # between lines, where no terminal shows one that is rewritten


@dataclass(frozen=True)
class Ahead:
    """A phase of a run before it begins: its title, and about how much core time it takes beside the others."""

    title: str
    core_seconds: float


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run is. number, phases: of the phase, and about how many there are; 0 where that is not known.

    tasks, done: of the phase, those that were done before included. bytes, done_bytes: of input of the tasks that were not.
    seconds, elapsed: since the phase and the run began. left, run_left: seconds that they may still take; None: nothing tells.
    titles: of the run's phases, as far as they were foreseen.
    """

    phase: str
    number: int
    phases: int
    tasks: int
    done: int
    tried_again: int = 0
    failed: int = 0
    bytes: int = 0
    done_bytes: int = 0
    seconds: float = 0.0
    left: float | None = None
    run_left: float | None = None
    at: float = 0.0  # seconds since 1970
    elapsed: float = 0.0
    titles: list[str] = []

    def time_left(self) -> str:
        """What the phase and the run may still take; "" where nothing tells."""
        if self.left is None:
            return ""
        run = "" if self.run_left is None else f", about {show_seconds(self.run_left)} of the run"
        return f"{show_seconds(self.left)} left{run}"

    def place(self) -> str:
        """Which phase it is, and how many of its tasks are done."""
        number = f"phase {self.number} of {self.phases}: " if self.phases else ""
        return f"{number}{self.phase} {self.done}/{self.tasks} tasks"

    def rate(self) -> str:
        """Input that the phase has taken in a second; "" where none was counted."""
        return f"{show_bytes(self.done_bytes / max(self.seconds, 1e-3))}/s" if self.done_bytes else ""

    def words(self) -> list[str]:
        """The same for people in one line, which a narrow terminal may cut: from what matters most on."""
        parts = [part for part in (self.time_left(), self.place(), self.rate()) if part]
        if self.failed:
            parts.append(f"{self.failed} failed")
        if self.tried_again:
            parts.append(f"{self.tried_again} tried again")
        return parts


class Progress:
    """One line, rewritten, on a terminal; elsewhere a line a phase and one every 30 s; nothing when quiet.

    ahead: gives the phases of the run, asked once, when something is to be told. tell: takes where the run stands, often.
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.terminal = sys.stderr.isatty() and not quiet
        self.quiet = quiet
        self.lines = not self.terminal and not quiet
        self.ahead: Callable[[], list[Ahead]] = list
        self.tell: Callable[[Callable[[], Standing]], None] = lambda standing: None
        self._began = time.monotonic()
        self._phases: list[Ahead] | None = None
        self._titles: list[str] = []  # of the phases that began
        self._worked = 0.0  # core time of phases that ended, as `ahead` has it, and the time that they took
        self._spent = 0.0
        self._width = 0
        self._compiling = False

    def begin(self, phase: str, tasks: int, already: int, weight: int) -> None:
        """A phase starts: so many tasks, so many of them done before, so many bytes to go."""
        self._titles.append(phase)
        self._tasks, self._already, self._weight = tasks, already, weight
        self._done, self._bytes, self._kept, self._seen = 0, 0, 0, 0
        self._failed, self._again = 0, 0
        self._phase_began = self._shown = time.monotonic()
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

    def failed(self, again: bool) -> None:
        """A task failed; again: it will be tried once more."""
        self._again += again
        self._failed += not again
        self.tick()

    def tick(self, force: bool = False) -> None:
        """Show where things stand, at most five times a second; a line every 30 s where there is no terminal."""
        self.tell(self.standing)
        now = time.monotonic()
        if self.terminal and (force or now - self._shown > 0.2):
            self._shown = now
            self._write(self._status())
        elif self.lines and now - self._shown > LINE_SECONDS:
            self._shown = now
            print(self._status(), file=sys.stderr, flush=True)

    def end(self, phase: str) -> None:
        """The phase is whole."""
        if self._tasks == self._already:
            return
        if self.terminal:
            self._write(self._status(final=True))
            sys.stderr.write("\n")
            self._width = 0
        elif self.lines:
            print(self._status(final=True), file=sys.stderr, flush=True)
        if self._phases:
            self._worked += self._expected() * self._share_to_do()
        self._spent += time.monotonic() - self._phase_began

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

    def standing_now(self) -> Standing | None:
        """Where the run stands now; None where no phase has begun."""
        return self.standing() if self._titles else None

    def standing(self) -> Standing:
        """Where the run stands now."""
        if self._phases is None:
            self._phases = self.ahead()
        seconds = time.monotonic() - self._phase_began
        part = self._part()
        left = seconds * (1 - part) / part if part else None
        return Standing(
            phase=self._titles[-1],
            number=self._number() + 1,
            phases=len(self._phases),
            tasks=self._tasks,
            done=self._already + self._done,
            tried_again=self._again,
            failed=self._failed,
            bytes=self._weight,
            done_bytes=self._bytes,
            seconds=seconds,
            left=left,
            run_left=self._run_left(seconds, part, left),
            at=time.time(),
            elapsed=time.monotonic() - self._began,
            titles=[phase.title for phase in self._phases],
        )

    def _part(self) -> float:
        """The part of the phase's work that is done, of what was to be done when it began."""
        if self._weight:
            return min(1.0, self._bytes / self._weight)
        return self._done / max(1, self._tasks - self._already)

    def _share_to_do(self) -> float:
        return (self._tasks - self._already) / max(1, self._tasks)

    def _number(self) -> int:
        """The place of the phase among those of the run; rounds that were not foreseen have that of the phase before.

        Sources side by side may need other numbers of rounds, so one part of a title in common will do.
        """
        place, phases = -1, [{*phase.title.split(", ")} for phase in self._phases or []]
        for title in self._titles:
            later = (i for i in range(place + 1, len(phases)) if not phases[i].isdisjoint(title.split(", ")))
            place = next(later, place)
        return max(place, 0)

    def _expected(self) -> float:
        return (self._phases or [])[self._number()].core_seconds

    def _run_left(self, seconds: float, part: float, left: float | None) -> float | None:
        """By the phases' core time, and how fast that went until now."""
        worked, spent = self._worked, self._spent + seconds
        if not self._phases or left is None:
            return None
        worked += self._expected() * self._share_to_do() * part
        if worked <= 0:
            return None
        ahead = sum(phase.core_seconds for phase in self._phases[self._number() + 1 :])
        return left + ahead * spent / worked

    def _status(self, final: bool = False) -> str:
        standing = self.standing()
        if final:
            standing = msgspec.structs.replace(standing, left=None)
        parts = standing.words()
        if self._seen:
            place = bool(standing.time_left()) + 1 + bool(standing.rate())
            parts.insert(place, f"{show_count(self._kept)} of {show_count(self._seen)} documents kept")
        if final:
            parts.append(show_seconds(standing.seconds))
        return "  ".join(parts)

    def _write(self, text: str) -> None:
        text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps could not be rewritten
        padding = " " * max(0, self._width - len(text))
        self._width = len(text)
        sys.stderr.write(f"\r{text}{padding}")
        sys.stderr.flush()
