"""What a task prints, warns of and logs, kept for the run's own record of it; it also goes where it went before."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any, TextIO

MOST = 64 << 10  # characters of a task: what more it says is not kept


class Said:
    """The first of what is said."""

    def __init__(self) -> None:
        self._kept, self._size, self._cut = StringIO(), 0, 0

    def add(self, text: str) -> None:
        """Take text in, as far as there is room."""
        room = min(len(text), MOST - self._size)
        self._kept.write(text[:room])
        self._size += room
        self._cut += len(text) - room

    @property
    def text(self) -> str:
        """What was said, and how much more there was."""
        return self._kept.getvalue() + (f"\n... and {self._cut:,} characters more\n" if self._cut else "")


class _Both:
    """A stream of which what is written is also kept."""

    def __init__(self, stream: TextIO, said: Said) -> None:
        self._stream, self._said = stream, said

    def write(self, text: str) -> int:
        self._said.add(text)
        return self._stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def listening() -> Iterator[Said]:
    """Keeps what Python code writes to the standard output and error of this process."""
    said = Said()
    out: Any = _Both(sys.stdout, said)
    err: Any = _Both(sys.stderr, said)
    with redirect_stdout(out), redirect_stderr(err):
        yield said
