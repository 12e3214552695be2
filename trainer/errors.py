"""The error that a user of the trainer is shown."""

from __future__ import annotations


class TrainerError(Exception):
    """Something the user can mend: one sentence that names what and where. The command prints it alone and exits 2."""
