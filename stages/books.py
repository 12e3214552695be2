"""The books: for each step, documents and bytes in = out + dropped by reason + failed (+ bytes edited away).

Bytes are UTF-8 bytes of text; of HTML before extraction. An edit changes bytes, not documents: what it took away
from the documents that remain is `edited` (negative where it added).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Amount:
    """So many documents, and the bytes in them."""

    docs: int = 0
    bytes: int = 0

    def add(self, docs: int, bytes: int) -> None:
        self.docs += int(docs)
        self.bytes += int(bytes)

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.docs + other.docs, self.bytes + other.bytes)


@dataclass
class StepBooks:
    """What one step did to what it was given."""

    step: str
    into: Amount = field(default_factory=Amount)
    out: Amount = field(default_factory=Amount)
    failed: Amount = field(default_factory=Amount)
    dropped: dict[str, Amount] = field(default_factory=dict)
    edited: int = 0
    seconds: float = 0.0

    def balance(self) -> Amount:
        """in - (out + dropped + failed + edited): zero documents and zero bytes when nothing was lost."""
        gone = self.out + self.failed
        for amount in self.dropped.values():
            gone = gone + amount
        return Amount(self.into.docs - gone.docs, self.into.bytes - gone.bytes - self.edited)

    def drop(self, reason: str, docs: int, bytes: int) -> None:
        """Enter documents that were dropped for a reason."""
        self.dropped.setdefault(reason, Amount()).add(docs, bytes)

    def add(self, other: StepBooks) -> None:
        """Add another task's books of the same step."""
        self.into, self.out, self.failed = self.into + other.into, self.out + other.out, self.failed + other.failed
        for reason, amount in other.dropped.items():
            self.drop(reason, amount.docs, amount.bytes)
        self.edited += other.edited
        self.seconds += other.seconds


def add_up(chain: dict[Any, StepBooks], place: tuple[Any, ...], books: Iterable[StepBooks]) -> None:
    """Add a task's books to those of other tasks at the same place of the run; keys are the place and the step's position."""
    for position, step in enumerate(books):
        chain.setdefault((*place, position), StepBooks(step.step)).add(step)


def imbalances(books: Iterable[StepBooks]) -> list[str]:
    """One sentence for each step whose books do not balance, or whose input is not the output of the step before."""
    found: list[str] = []
    previous: StepBooks | None = None
    for step in books:
        lost = step.balance()
        if lost != Amount():
            found.append(f"{step.step}: {lost.docs} documents and {lost.bytes} bytes unaccounted for")
        if previous is not None and previous.out != step.into:
            found.append(
                f"{previous.step} gave {previous.out.docs} documents ({previous.out.bytes} bytes), "
                f"{step.step} took {step.into.docs} ({step.into.bytes} bytes)"
            )
        previous = step
    return found
