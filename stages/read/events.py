"""What a reader reports besides documents: problems, documents left out by the settings, records that are none.

For every file: documents found = documents in batches + Dropped + the sum of Problem.documents.
"""

from __future__ import annotations

from dataclasses import dataclass

from stages.errors import InputError


@dataclass(frozen=True, slots=True)
class Problem:
    """A record, or a stretch of a file, that cannot be read. The reader goes on behind it where that is possible."""

    file: str
    reason: str
    record: int | None = None  # 1-based ordinal; null where the damage belongs to no single record
    offset: int | None = None  # byte in the file (JSON lines: in the decompressed file)
    documents: int = 0  # documents known to be lost: 1 for a bad record; 0 for damage between or behind records
    bytes: int = 0  # bytes of those documents, as far as they are known
    id: str | None = None
    url: str | None = None
    damage: bool = True  # of the file itself; False for a whole record that is no document

    def error(self) -> InputError:
        """The same as an exception, for a run that allows no failures."""
        return InputError(self.file, self.reason, self.record, self.offset)


@dataclass(frozen=True, slots=True)
class Dropped:
    """A document that is readable but not wanted; `reason` is the key of its `read` settings that drops it."""

    file: str
    reason: str
    record: int
    offset: int | None
    bytes: int
    id: str | None = None
    url: str | None = None


@dataclass(frozen=True, slots=True)
class Skipped:
    """Records of one kind in one file that are no documents (`request`, `warcinfo`, an empty line); sent at its end."""

    file: str
    kind: str
    records: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Repaired:
    """Documents of one file that were kept with something mended; sent at its end."""

    file: str
    what: str
    documents: int


Event = Problem | Dropped | Skipped | Repaired
