"""Carries out the stages of a plan against one run's folder and its ledger.

The driver holds specs and reports, never documents: tasks read and write files. Ray starts with the first task that really
has to run, so a run that is done already needs no cluster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pipeline import storage
from pipeline.engine.attempts import Failed, patiently
from pipeline.engine.execute import Finished, WrongCode
from pipeline.engine.failures import Allowed, FailedTasks, Failures, TasksFailed, TooManyFailures
from pipeline.engine.place import Placement, Workplace
from pipeline.engine.run_log import RunLog
from pipeline.engine.why_again import why_again
from pipeline.ledger import AnotherVersionError, Entry, Ledger, report_of
from pipeline.plan.graph import Conclude, Earlier, Plan, Recall, Release, Request
from pipeline.plan.node import INTERIM, Conclusion, Done, Node, Stage, files_read, files_written
from stages.books import imbalances
from stages.tokens.shard_format import MANIFEST

T = TypeVar("T")


class BooksError(Exception):
    """The books of a task do not balance: documents were lost, and that is never the user's fault."""


class InputsGone(Exception):
    """Tasks need files that were let go after their use: the tasks that made them (`keys`) must run again."""

    def __init__(self, keys: set[str]) -> None:
        super().__init__(f"{len(keys)} tasks must run again for their parts")
        self.keys = keys


@dataclass
class Engine:
    """Walks plans: runs what the ledger does not know, and keeps what was found.

    used: keys of the walk, in order; conclusions and what they stand for are among them. executed: tasks that ran.
    reuse_other_code: results of other code or library versions are taken as they are (`of_other_code` counts them).
    """

    run_uri: str
    ledger: Ledger
    placement: Placement
    lock: storage.RunLock | None = None
    allowed: Allowed = field(default_factory=Allowed)
    reuse_other_code: bool = False
    used: dict[str, None] = field(default_factory=dict)
    walked: list[Node] = field(default_factory=list)
    executed: int = 0

    def __post_init__(self) -> None:
        token = None if self.lock is None else self.lock.token
        self.workplace = Workplace(self.run_uri, self.placement, token)
        self.progress = self.placement.progress
        self.log = RunLog(self.run_uri)
        self.progress.tell = self.log.standing
        self.still_ours: Callable[[], None] = (lambda: None) if self.lock is None else self.lock.check

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.log.end()
        elif not issubclass(kind, storage.StorageError) and (last := self.progress.standing_now()):
            self.log.stopped(last)
        self.close()

    def close(self) -> None:
        """Stop Ray where this engine started it."""
        self.workplace.close()

    def walk(self, plan: Plan[T]) -> T:
        """Carry out a plan to its end; returns what it ends in.

        Raises UserError for what the user can mend, TooManyFailures, BooksError, InputsGone, or a task's own exception.
        """
        answer: Any = None
        while True:
            try:
                request = plan.send(answer)
            except StopIteration as end:
                return end.value
            answer = self._answer(request)

    def _answer(self, request: Request) -> Any:
        match request:
            case Stage():
                return self.run(request)
            case Recall():
                return self._recall(request.node)
            case Earlier():
                return self._earlier(request.node)
            case Conclude():
                return self._conclude(request)
            case Release():
                return self._release(request)

    def run(self, stage: Stage) -> list[Done[Any]]:
        """Do what is not done yet; what became of every node, in their order."""
        nodes = {node.key: node for node in stage.nodes}  # of parts that hold the same (say, nothing), one does for all
        entries = self._patiently(lambda: {key: entry for key in nodes if (entry := self.ledger.find(key))})
        waiting = [node for key, node in nodes.items() if key not in entries]
        if self.reuse_other_code and waiting:
            waiting = self._take_over(waiting, entries)
        done = {key: _done(nodes[key], entry) for key, entry in entries.items()}
        failures = Failures()
        for one in done.values():
            failures.add(one.report)
        self.used.update(dict.fromkeys(nodes))
        self.walked += stage.nodes
        if waiting:
            self.workplace.prepare()
            for note in stage.notes:
                self.progress.line(note)
            self._say_why(stage, waiting)
        self.progress.begin(stage.title, len(nodes), len(done), sum(node.weight for node in waiting))
        if waiting:
            self._make_room(waiting)
            self._carry_out(stage.title, waiting, done, failures, len(nodes))
        if error := failures.wrong(stage.title, self.allowed, len(nodes), len(nodes)):
            raise error
        self.progress.end(stage.title)
        return [done[node.key] for node in stage.nodes]

    def _carry_out(
        self, title: str, waiting: list[Node], done: dict[str, Done[Any]], failures: Failures, total: int
    ) -> None:
        """Run tasks, each into `done`; where one fails, what is begun still ends, and then all that failed is raised."""
        failed, stop = FailedTasks(), None
        work = self.workplace.carry_out([self._lent(node) for node in waiting])
        # Closed before an error goes on: its tasks are to be stopped while Ray still runs.
        with closing(work.results()) as results:
            for node, found in results:
                if isinstance(found, Finished) and (wrong := _out_of_balance(node, found)):
                    found = Failed(wrong, 1)
                if isinstance(found, Failed):
                    if isinstance(found.error, WrongCode):
                        raise found.error
                    failed.add(node, found)
                    self.log.failed(node, found)
                    self.progress.failed(found.again)
                else:
                    self.log.printed(node, found.said)
                    done[node.key] = one = self._accept(node, found)
                    failed.settle(node)
                    failures.add(one.report)
                    self.progress.done(node.weight, one.report)
                    stop = stop or failures.wrong(title, self.allowed, len(done), total)
                if stop or failed.hopeless():
                    work.stop()
        if error := stop or failed.error(title, total, self.log.folder):
            raise error

    def _make_room(self, waiting: list[Node]) -> None:
        """Before tasks run: the run is still ours, what they read is there, and nothing vouches for what they write over."""
        self.still_ours()
        gone = {key for node in waiting for file in files_read(node.job) if (key := self.ledger.released(file.path))}
        if gone:
            raise InputsGone(gone)
        written = [path for node in waiting for path in files_written(node.job)]
        if any(self.ledger.size_of(path) is not None for path in written if not path.startswith(f"{INTERIM}/")):
            storage.delete(storage.join(self.run_uri, MANIFEST))
        self._patiently(lambda: self.ledger.make_room(written))

    def _lent(self, node: Node) -> Node:
        """The node with the files of an earlier task, where a part of its result can be taken from them."""
        entry = self.ledger.lender(node.similar)
        theirs = self.ledger.basis(entry.basis) if entry else None
        if entry is None or theirs is None:
            return node
        job = node.job.lent(_done(node, entry), theirs, node.made_of.components)
        return Node(node.ref, job, node.weight, node.memory, node.scratch, node.cores)

    def _accept(self, node: Node, finished: Finished) -> Done[Any]:
        """Enter a finished task into the ledger."""
        self._enter(node, finished)
        self.executed += 1
        return Done(node.key, finished.outputs, finished.report)

    def _enter(self, node: Node, finished: Finished, other_code: str = "") -> None:
        """Enter what stands for a node. other_code: the basis of the code that made it, where that is not the code of now."""
        made_of = node.made_of
        entry = Entry(
            key=node.key,
            ref=node.ref,
            basis=other_code or made_of.basis,  # so that its measures are lent to no task of the code of now
            inputs=made_of.inputs,
            similar=node.similar,
            outputs=list(finished.outputs),
            released=[],
            seconds=finished.seconds,
            cpu_seconds=finished.cpu_seconds,
            peak_memory=finished.peak_memory,
            host=finished.host,
            finished=finished.at,
            other_code=bool(other_code),
            first=finished.first,
            held=finished.held,
            report=report_of(finished.report),
        )
        self._patiently(lambda: self.ledger.add_basis(made_of.basis, dict(made_of.components)))
        self._patiently(lambda: self.ledger.add(entry))  # one that is added twice counts once

    def _patiently(self, call: Callable[[], T]) -> T:
        return patiently(call, self.placement.tasks)

    def _take_over(self, waiting: list[Node], entries: dict[str, Entry]) -> list[Node]:
        """Of nodes that wait only because code or a library changed, the results of the old code; the others."""
        left = []
        for node in waiting:
            entry = self.ledger.latest(node.ref)
            basis = self.ledger.basis(entry.basis) if entry else None
            if entry and basis and entry.inputs == node.made_of.inputs and self.ledger.find(entry.key):
                ours = node.made_of.components
                changed = [name for name in basis.keys() | ours.keys() if basis.get(name) != ours.get(name)]
                if all(name.startswith(("code ", "library ")) or name.endswith(": code") for name in changed):
                    try:
                        report = entry.report_as(node.job.report)
                    except AnotherVersionError:  # nothing here could read what it says
                        left.append(node)
                        continue
                    self._enter(node, Finished.of_entry(entry, report), other_code=entry.basis)
                    entries[node.key] = self.ledger.find(node.key)  # type: ignore[assignment]
                    continue
            left.append(node)
        return left

    def _say_why(self, stage: Stage, waiting: list[Node]) -> None:
        """Tell why tasks that ran before run again."""
        reasons: Counter[str] = Counter()
        for node in waiting:
            earlier = self.ledger.latest(node.ref)
            if earlier is not None:
                reasons[why_again(earlier, self.ledger.basis(earlier.basis), node)] += 1
        for reason, count in reasons.most_common(3):
            self.progress.line(f"{stage.title}: {count:,} {'task' if count == 1 else 'tasks'} again: {reason}")

    def _recall(self, node: Node) -> Done[Any] | None:
        entry = self.ledger.find(node.key)
        if entry is None:
            return None
        done = _done(node, entry)
        report: Conclusion = done.report
        if not all(self.ledger.find(key) for key in report.outputs):
            return None
        self._uses(node, report)
        return done

    def _earlier(self, node: Node) -> Conclusion | None:
        entry = self.ledger.latest(node.ref)
        try:
            report = entry.report_as(node.job.report) if entry else None
        except AnotherVersionError:
            return None
        return report if isinstance(report, Conclusion) else None

    def _conclude(self, request: Conclude) -> Done[Any]:
        node, report = request.node, request.report
        self._enter(node, Finished.concluded(report))
        self._uses(node, report)
        return Done(node.key, (), report)

    def _uses(self, node: Node, report: Conclusion) -> None:
        self.walked.append(node)
        self.used.update(dict.fromkeys([node.key, *report.made_by]))

    def of_other_code(self) -> int:
        """How many of the results that were walked are those of other code or libraries, kept on purpose now or before."""
        entries = (self.ledger.entry(key) for key in self.used)
        return sum(entry is not None and entry.other_code for entry in entries)

    def forget(self, keys: Collection[str]) -> None:
        """Let the tasks of these keys run again, with what was concluded from their results; a new walk begins."""
        reports = [(node.key, node.job.report) for node in self.walked]
        conclusions = [key for key, report in reports if issubclass(report, Conclusion) and report.of_results]
        self.ledger.forget({*keys, *conclusions})
        self.used.clear()
        self.walked.clear()

    def _release(self, request: Release) -> None:
        found: dict[str, list[str]] = {}
        for key, path in request.files:
            found.setdefault(key, []).append(path)
        self.ledger.release(found.items())


def _out_of_balance(node: Node, finished: Finished) -> BooksError | None:
    """The error for a task whose books do not balance."""
    wrong = imbalances(finished.report.books)
    return BooksError(f"the books of {node.ref} do not balance: {'; '.join(wrong)}") if wrong else None


def _done(node: Node, entry: Entry) -> Done[Any]:
    return Done(entry.key, entry.outputs, entry.report_as(node.job.report))


__all__ = ["Allowed", "BooksError", "Engine", "InputsGone", "Placement", "TasksFailed", "TooManyFailures"]
