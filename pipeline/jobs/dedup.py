"""The dedup job: one task of a dedup's shuffle, its files opened from and published to the run's folder."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import import_module
from typing import Any, BinaryIO

from pipeline import storage
from pipeline.task import Context

VERSION = 3  # of all that a dedup's tasks write


def run(spec: dict[str, Any], context: Context) -> dict[str, Any]:
    """Call the stage's function on local outputs; its return value is the report's `result`."""
    module, _, name = spec["function"].partition(":")
    function = getattr(import_module(module), name)

    def open_file(path: str) -> BinaryIO:
        return storage.open_random(path) if path in spec["outside"] else context.open(path)

    with ExitStack() as stack:
        outputs: dict[str, Any] = {}
        for argument, path in spec["outputs"].items():
            if isinstance(path, dict):
                outputs[argument] = {key: str(stack.enter_context(context.output(p))) for key, p in path.items()}
            else:
                outputs[argument] = str(stack.enter_context(context.output(path)))
        result = function(**spec["arguments"], **outputs, open_file=open_file)
    return {"result": result}
