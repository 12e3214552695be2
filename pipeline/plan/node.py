"""What a task of the plan is: its identity, its typed spec, and the one function that makes its key.

A job is a frozen dataclass beside its work in `pipeline/jobs/`. Each of its fields is marked (`stages.marks`): InFile,
OutFile, Setting or HowMuch. The key of a node is

    key = hash(basis, inputs)      basis  = hash(code of the job and its steps, libraries, Settings)
                                   inputs = hash(contents of the InFiles, places of the OutFiles)

so what a HowMuch field holds cannot be in a key, and what decides bytes cannot be left out.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import msgspec
import orjson

from pipeline.ledger import Output, Ref
from pipeline.plan.code import code_of_all
from stages.books import StepBooks
from stages.marks import Mark, in_key, marks_of

if TYPE_CHECKING:
    from pipeline.jobs.context import Context

_T = TypeVar("_T")

INTERIM = "parts"  # where all interim files lie


class Report(msgspec.Struct, kw_only=True):
    """What a task returns: small values only. Jobs whose documents are counted fill the books, one entry a step."""

    books: list[StepBooks] = []
    failed_documents: int = 0
    failed_files: int = 0
    first_failure: str | None = None


class Conclusion(Report, kw_only=True):
    """A report that the plan draws from the results of other nodes; no task runs for it.

    outputs: files that it stands for, by the key of the entry that tells of each. made_by: keys of all nodes behind it.
    of_results: whether it is void where results that it was drawn from are; else it tells how work was cut, and stays.
    """

    of_results: ClassVar[bool] = True

    outputs: dict[str, list[Output]] = {}
    made_by: list[str] = []


class Readable:
    """A file that a task reads: what decides the bytes that come out of it."""

    __slots__ = ()

    def identity(self) -> Any:
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Stored(Readable):
    """A file of the run's folder, by its path and the digest of its bytes."""

    path: str
    digest: str

    def identity(self) -> str:
        return self.digest


@dataclass(frozen=True, slots=True)
class Named(Readable):
    """A file that the recipe names for a step (a model, a list, a tokenizer), by its URI and its version.

    witness: what readers compare (`storage.open_stream`); "" for a file of a run, whose version is its digest.
    """

    uri: str
    version: str
    witness: str = ""

    def identity(self) -> str:
        return self.version


@dataclass(frozen=True)
class Job:
    """The spec of a task. Subclasses add fields, each of them marked, and define `run`."""

    report: ClassVar[type[Report]] = Report

    def prepare(self) -> None:
        """Make findable what the job names, before its key is compared and it runs."""

    def run(self, context: Context) -> Report:
        """Do the work: read and write through `context`, return what is to be known of it."""
        raise NotImplementedError

    def modules(self) -> tuple[str, ...]:
        """The modules whose code decides the result, besides what they import."""
        return (type(self).__module__,)

    spelled_out: ClassVar[tuple[str, ...]] = ()  # Settings that `parts_of_settings` gives in parts

    def parts_of_settings(self) -> dict[str, Any]:
        """Settings in parts, each with a name of its own in the key, so that a change can be told: `step 03 language`."""
        return {}

    def like(self) -> Any:
        """What equal tasks under other settings have in common, besides their inputs; None where results are never lent."""
        return None

    def lent(self, earlier: Done[Any], theirs: Mapping[str, str], ours: Mapping[str, str]) -> Job:
        """This job with an earlier one's files, where a part of the result can be taken from them; else as it is.

        theirs, ours: the components of both keys. What is lent decides no byte: the result is that of a fresh run.
        """
        return self


@dataclass(frozen=True)
class Key:
    """The key of a node, with what it is made of. components: what the basis is the hash of, by name."""

    key: str
    basis: str
    inputs: str
    components: Mapping[str, str]


@dataclass(frozen=True)
class Node:
    """One task of the plan. weight: bytes of input, for progress. memory: bytes it needs; 0: what any task may take.

    scratch: bytes of its node's disk that it states to need at a time; 0: nothing is stated. cores: that it makes use of,
    where a node has so many.
    """

    ref: Ref
    job: Job
    weight: int = 0
    memory: int = 0
    scratch: int = 0
    cores: int = 1

    @cached_property
    def made_of(self) -> Key:
        return key_of(self.job)

    @property
    def key(self) -> str:
        return self.made_of.key

    @cached_property
    def similar(self) -> str | None:
        """Equal for nodes that take the same input through other settings, of which one may lend its files to the other."""
        like = self.job.like()
        return None if like is None else hash_of(type(self.job).__qualname__, self.made_of.inputs, like)

    def __getstate__(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("ref", "job", "weight", "memory", "scratch", "cores")}


R = TypeVar("R", bound=Report, covariant=True)


@dataclass
class Done(Generic[R]):
    """A node that is done: what it left and what it reported."""

    key: str
    outputs: Sequence[Output]
    report: R

    def output(self, path: str) -> Stored:
        """The file of this path among the outputs."""
        return next(Stored(o.path, o.digest) for o in self.outputs if o.path == path)


@dataclass
class Stage:
    """Nodes that need nothing of one another. title: what people are told is going on. notes: what they are told before."""

    title: str
    nodes: list[Node] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def key_of(job: Job, *, passing: bool = False) -> Key:
    """The key of a job's spec: the only place where keys are made.

    passing: the job is of this task alone, as on a worker. Nothing of it is kept: its steps may hold models by then.
    """
    basis, components = _basis_of(job, passing)
    read = [_identity(value) for value in _marked(job, Mark.IN_FILE)]
    placed = [in_key(value) for value in _marked(job, Mark.OUT_FILE)]
    inputs = hash_of(read, placed)
    return Key(hash_of(basis, inputs), basis, inputs, components)


def files_read(job: Job) -> Iterator[Stored]:
    """The files of the run's folder that a job reads."""
    for value in _marked(job, Mark.IN_FILE):
        yield from _leaves(value, Stored)


def files_written(job: Job) -> list[str]:
    """The files that a job writes under names without a key: they take the place of older ones."""
    return [path for value in _marked(job, Mark.OUT_FILE) for path in _leaves(value, str)]


def hash_of(*values: Any) -> str:
    """32 hex digits for plain values: equal values, equal hash, on every machine."""
    data = orjson.dumps(values, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return hashlib.blake2b(data, digest_size=16).hexdigest()


_BASES: dict[tuple[Any, ...], tuple[str, dict[str, str], tuple[Any, ...]]] = {}
_MOST_BASES = 256


def _basis_of(job: Job, passing: bool) -> tuple[str, dict[str, str]]:
    """The basis of a key. Thousands of nodes share the very objects that they take their settings from: made once."""
    settings = [(name, getattr(job, name)) for name, mark in marks_of(type(job)).items() if mark is Mark.SETTING]
    known = (type(job), *(value if isinstance(value, str | int) else id(value) for _, value in settings))
    if known in _BASES:
        basis, components, _ = _BASES[known]
    else:
        components = dict(code_of_all(job.modules()))
        for name, value in settings:
            if name not in job.spelled_out:
                components[f"setting {name}"] = hash_of(in_key(value))[:16]
        components |= {name: hash_of(value)[:16] for name, value in job.parts_of_settings().items()}
        basis = hash_of(type(job).__qualname__, components)
        if not passing:
            if len(_BASES) >= _MOST_BASES:
                _BASES.clear()
            keep = tuple(value for _, value in settings)  # so that no id is used again
            _BASES[known] = basis, components, keep
    return basis, components


def _marked(job: Job, mark: Mark) -> Iterator[Any]:
    marks = marks_of(type(job))
    for one in fields(job):
        if one.name not in marks:
            raise TypeError(f"{type(job).__name__}.{one.name} has no mark: InFile, OutFile, Setting or HowMuch")
        if marks[one.name] is mark:
            yield getattr(job, one.name)


def _identity(value: Any) -> Any:
    """What of an InFile field's value decides bytes: the identity of each file in it, and all other values."""
    if isinstance(value, Readable):
        return value.identity()
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        marks = marks_of(type(value))
        return {
            one.name: _identity(getattr(value, one.name))
            for one in fields(value)
            if marks.get(one.name, Mark.IN_FILE) is not Mark.HOW_MUCH
        }
    return in_key(value)


def _leaves(value: Any, kind: type[_T]) -> Iterator[_T]:
    """What of one kind a field's value holds, however deep."""
    if isinstance(value, kind):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _leaves(item, kind)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item, kind)
    elif is_dataclass(value) and not isinstance(value, type):
        for one in fields(value):
            yield from _leaves(getattr(value, one.name), kind)
