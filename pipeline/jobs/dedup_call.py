"""The job that makes one call of a dedup. It imports no method's code: a call's key holds that of its own function alone."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from importlib import import_module
from inspect import signature
from typing import Any, BinaryIO, ClassVar

import msgspec

from pipeline import storage
from pipeline.jobs.context import Context
from pipeline.plan.node import Job, Named, Report, Stored
from stages.marks import HowMuch, InFile, OutFile, Setting

Places = dict[str, str | dict[str, str]]


class CallReport(Report):
    """What the function returned."""

    result: msgspec.Raw = msgspec.Raw(b"null")


@dataclass(frozen=True)
class DedupCall(Job):
    """Calls a function of `stages.dedup` by name, with its arguments sorted by their marks.

    reads: arguments that name files, each name in them replaced by the file (Stored, or Named for one outside the run).
    outputs: arguments that take the names of files to write.
    """

    report: ClassVar[type[Report]] = CallReport

    function: Setting[str]  # "package.module:name"
    settings: Setting[Mapping[str, object]]
    reads: InFile[Mapping[str, object]]
    outputs: OutFile[Places]
    how_much: HowMuch[Mapping[str, object]]
    named: InFile[tuple[Named, ...]] = ()  # files that the dedup's settings name

    def modules(self) -> tuple[str, ...]:
        return (__name__, self.function.partition(":")[0])

    def run(self, context: Context) -> CallReport:
        module, _, name = self.function.partition(":")
        function = getattr(import_module(module), name)
        files: dict[str, Stored | Named] = {file.uri: file for file in self.named}
        reads = _by_name(self.reads, files)

        def open_file(path: str) -> BinaryIO:
            file = files[path]
            if isinstance(file, Named):
                return storage.open_random(file.uri, version=file.witness or None)
            return context.open(file) if path.endswith(".parquet") else context.open_blocks(file)

        unfinished: dict[str, ExitStack] = {}  # by local path
        with ExitStack() as stack:

            def begin(path: str) -> str:
                one = stack.enter_context(ExitStack())
                local = str(one.enter_context(context.output(path)))
                unfinished[local] = one
                return local

            outputs: dict[str, object] = {
                argument: {key: begin(path) for key, path in paths.items()} if isinstance(paths, dict) else begin(paths)
                for argument, paths in self.outputs.items()
            }
            if "written" in signature(function).parameters:  # it lets each of its files go once that is whole
                outputs["written"] = lambda local: unfinished.pop(local).close()
            how_much = dict(self.how_much)
            if isinstance(threads := how_much.get("threads"), int):
                how_much["threads"] = min(threads, context.cores)
            result = function(**self.settings, **reads, **how_much, **outputs, open_file=open_file)
        return CallReport(result=msgspec.Raw(msgspec.json.encode(result)))


def _by_name(value: Any, files: dict[str, Stored | Named]) -> Any:
    """The value with each file replaced by its name, under which it is added to `files`."""
    if isinstance(value, Stored | Named):
        name = value.path if isinstance(value, Stored) else value.uri
        files[name] = value
        return name
    if isinstance(value, Mapping):
        return {key: _by_name(item, files) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_by_name(item, files) for item in value]
    return value
