"""The errors that a user is shown: one sentence that names what, where and, where there is one, the fix."""

from __future__ import annotations


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
