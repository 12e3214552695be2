"""What a run holds of each source against what the recipe says of it: a source that gives nothing is an error.

`check_files` looks before anything is read. `checked` goes between a plan and whoever walks it, and looks at the results
of each stage as they come. Both raise UserError, which names the step or key that took all.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, get_args

from pipeline.plan.graph import Plan
from pipeline.plan.node import Report, Stage
from pipeline.recipe.recipe import Recipe, Source
from stages.books import Amount, StepBooks, add_up
from stages.errors import UserError
from stages.read.settings import RecordType

SHOWN = 3  # reasons in a message

T = TypeVar("T")


def check_files(sources: Mapping[str, Source], files: Mapping[str, Sequence[Any]]) -> None:
    """Raise UserError where a source has fewer files than the recipe expects."""
    for name, source in sources.items():
        wanted = source.expected.files
        if wanted is not None and len(files[name]) < wanted:
            raise UserError(
                f"sources.{name}.expected.files: {len(files[name]):,} files were found, and {wanted:,} are expected; a copy "
                "may not be complete, or a pattern not match all"
            )


def checked(plan: Plan[T], recipe: Recipe) -> Plan[T]:
    """The same plan; raises UserError after a stage in which a source turns out to be empty, or smaller than expected."""
    books = {name: SourceBooks() for name in recipe.sources}
    answer: Any = None
    while True:
        try:
            request = plan.send(answer)
        except StopIteration as end:
            return end.value
        answer = yield request
        if isinstance(request, Stage):
            counted = {}
            for node, done in zip(request.nodes, answer, strict=True):
                if done.report.books:
                    books[node.ref.source].add(node.ref.kind, node.ref.stage, done.report)
                    counted[node.ref.source] = None
            for name in counted:
                check_documents(name, recipe.sources[name], books[name])


@dataclass
class SourceBooks:
    """The books of one source as far as they go, by task kind, stage and step, and what was read besides documents."""

    steps: dict[tuple[Any, ...], StepBooks] = field(default_factory=dict)  # in the order in which they came
    notes: Counter[str] = field(default_factory=Counter)

    def add(self, kind: str, stage: str, report: Report) -> None:
        """Enter what a task has reported."""
        self.notes.update(getattr(report, "notes", {}))
        add_up(self.steps, (kind, stage), report.books)

    def chain(self) -> list[StepBooks]:
        """The books in the order of the steps."""
        return list(self.steps.values())


def check_documents(name: str, source: Source, books: SourceBooks) -> None:
    """Raise UserError where a source was read to fewer documents than expected, or nothing is left of it.

    books: of all its tasks in the stages that are done.
    """
    chain, wanted = books.chain(), source.expected.documents
    read = chain[0].into.docs - chain[0].failed.docs
    if wanted is not None and read < wanted:
        raise UserError(
            f"sources.{name}.expected.documents: {read:,} documents were read, and {wanted:,} are expected"
            + _besides(books, chain[0].failed)
        )
    if chain[-1].out.docs == 0 and not source.allow_empty:
        raise UserError(
            f"sources.{name}: {_taken(books, chain)}; mend that, or set sources.{name}.allow_empty: true if it may be empty"
        )


def _taken(books: SourceBooks, chain: list[StepBooks]) -> str:
    """Why nothing is left of a source: what took the most, and what took the last."""
    if chain[0].into.docs == 0:
        return f"no document was read{_besides(books, chain[0].failed)}"
    total = chain[0].into.docs
    reasons: Counter[str] = Counter()
    last = ""
    for step in chain:
        here = {reason: amount.docs for reason, amount in step.dropped.items()}
        if step.failed.docs:
            here[f"failed in {step.step}"] = step.failed.docs
        reasons.update(here)
        if step.into.docs and not step.out.docs and not last:
            last = max(here, key=lambda reason: here[reason])
    shown = [f"{reason} ({docs:,})" for reason, docs in reasons.most_common(SHOWN)]
    more = f", and the last went at {last}" if len(reasons) > 1 else ""
    return f"none of its {total:,} documents is left: {', '.join(shown)} took them{more}"


def _besides(books: SourceBooks, failed: Amount) -> str:
    """What was read in place of documents, for a message."""
    kinds = [f"{kind} ({count:,})" for kind, count in books.notes.most_common(SHOWN)]
    if failed.docs:
        kinds.insert(0, f"records that could not be read ({failed.docs:,})")
    others = [kind for kind in get_args(RecordType) if kind in books.notes]
    hint = f", which `read.record_types` can name: {', '.join(others)}" if others else ""
    return f"; there were {', '.join(kinds)}{hint}" if kinds else ""
