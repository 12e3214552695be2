"""What fails in a stage: documents and source files, of which the recipe allows some, and tasks, of which it allows none."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from pipeline.engine.attempts import Failed
from pipeline.plan.node import Node, Report
from pipeline.storage import StorageError
from stages.errors import UserError

ENOUGH_TO_JUDGE = 0.1  # share of a stage from which on it is told how many documents it will have in all
MANY = 20  # tasks that fail, and the share of those that ended, from which on no further one of the stage is begun
SHARE = 0.1
SHOWN = 30  # failed tasks that an error names


class TooManyFailures(UserError):
    """More documents or files failed than the recipe allows."""


class TasksFailed(UserError):
    """Tasks of a stage failed; all others that were begun are done."""


@dataclass(frozen=True)
class Allowed:
    """How much may fail: a share of the documents of a stage, and source files that cannot be read to their end."""

    documents: float = 0.0
    files: int = 0


@dataclass
class Failures:
    """Documents and files that failed in a stage so far, and the first causes."""

    seen: int = 0
    documents: int = 0
    files: int = 0
    cause: str = "no cause on record"
    file_cause: str = "no cause on record"

    def add(self, report: Report) -> None:
        """Count a finished task's report in."""
        if report.first_failure and not self.documents:
            self.cause = report.first_failure
        if report.first_failure and not self.files and report.failed_files:
            self.file_cause = report.first_failure
        self.documents += report.failed_documents
        self.files += report.failed_files
        self.seen += report.books[0].into.docs if report.books else 0

    def wrong(self, title: str, allowed: Allowed, done: int, total: int) -> TooManyFailures | None:
        """The error at the end of a stage, and on the way once so much failed that the end cannot be better."""
        expected = self.seen * total / max(done, 1)  # documents of the whole stage, by those seen
        too_many = done >= ENOUGH_TO_JUDGE * total and self.documents > allowed.documents * expected
        share = f"{self.documents} of {self.seen} documents failed, over the share of {allowed.documents:g} that "
        share += "run.failures.documents allows"
        if self.files > allowed.files:
            needed = f"run.failures.files={self.files}"
            if too_many:
                needed += f" run.failures.documents={math.ceil(100 * self.documents / self.seen) / 100:g}"
            return TooManyFailures(
                f"{self.files} source files could not be read to their end, and run.failures.files allows {allowed.files}"
                f"{f', and {share}' if too_many else ''}; the first: {self.file_cause}; mend or replace it, "
                f"or leave out what cannot be read: --set {needed}"
            )
        return TooManyFailures(f"{title}: {share}; the first: {self.cause}") if too_many else None


@dataclass
class FailedTasks:
    """Tasks of a stage that failed, each with its last attempt; those that are to be tried again are among them."""

    found: dict[str, tuple[Node, Failed]] = field(default_factory=dict)
    done: int = 0

    def add(self, node: Node, failed: Failed) -> None:
        """An attempt at a task failed."""
        self.found[node.key] = (node, failed)

    def settle(self, node: Node) -> None:
        """A task is done, perhaps after attempts that failed."""
        self.found.pop(node.key, None)
        self.done += 1

    def hopeless(self) -> bool:
        """True once so many of the tasks that ended have failed for good that the others will not fare better."""
        if len(self.found) < MANY:
            return False
        failed = sum(not failed.again for _, failed in self.found.values())
        return failed >= MANY and failed > SHARE * (failed + self.done)

    def error(self, title: str, total: int, logs: str) -> Exception | None:
        """What the stage ends with; None where no task failed. logs: the folder that tells more.

        What one task says, or all of them of one file, is told as it is, unless they were tried several times; else what is
        said first of each file, and each other thing, once.
        """
        if not self.found:
            return None
        failures = list(self.found.values())
        said: dict[str, list[tuple[Node, Failed]]] = {}
        for node, failed in failures:
            about = _told(failed)
            if isinstance(failed.error, StorageError):
                about = about.partition(": ")[0]  # the file
            said.setdefault(about, []).append((node, failed))
        if len(said) == 1 and all(failed.attempts == 1 for _, failed in failures):
            return failures[0][1].error
        lines = [f"  {_named([node for node, _ in alike])}: {_told(alike[0][1])}" for alike in list(said.values())[:SHOWN]]
        if len(said) > SHOWN:
            lines.append(f"  and {len(said) - SHOWN:,} more")
        tasks = "task" if len(failures) == 1 else "tasks"
        return TasksFailed(
            f"{title}: {len(failures):,} {tasks} of {total:,} failed, and what else was begun is done; run again to go on from "
            f"there (each attempt: {logs})\n" + "\n".join(lines)
        )


def _named(nodes: list[Node]) -> str:
    more = len(nodes) - 1
    return f"{nodes[0].ref}" + (f" and {more:,} more task{'s' * (more > 1)}" if more else "")


def _told(failed: Failed) -> str:
    error = failed.error
    words = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    return words + (f" ({failed.attempts} attempts)" if failed.attempts > 1 else "")
