"""The errors that a user is shown: one sentence that names what, where and, where there is one, the fix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


class UserError(Exception):
    """Something the user can mend. The command line prints its text alone, without a traceback, and exits 2."""


class InputError(UserError):
    """A source file, or a record in it, that cannot be read."""

    def __init__(self, file: str, reason: str, record: int | None = None, offset: int | None = None) -> None:
        place = file
        if record is not None:
            place += f", record {record}"
        if offset is not None:
            place += f", byte {offset}"
        super().__init__(f"{place}: {reason}")
        self.file, self.reason, self.record, self.offset = file, reason, record, offset

    def __reduce__(self) -> tuple:
        return (InputError, (self.file, self.reason, self.record, self.offset))


@dataclass(frozen=True)
class DocumentFailure:
    """One document that a step could not take: its row in the batch, the cause in one line, and the traceback."""

    row: int
    error: str
    traceback: str = ""


class DocumentsFailed(Exception):
    """Raised by a step that could not take some documents of a batch, with the result for those that remain.

    result: what `edit` would have returned, for the rows `kept_rows` (int64, ascending) of the batch alone.
    """

    def __init__(self, failures: list[DocumentFailure], result: tuple[Any, Any], kept_rows: Any) -> None:
        super().__init__(f"{len(failures)} documents failed, the first: {failures[0].error}")
        self.failures, self.result, self.kept_rows = failures, result, kept_rows
