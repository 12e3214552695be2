"""Documents of files that a command names, where no run keeps books of them: a record that cannot be read is an error."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline import storage
from pipeline.plan.sources import list_files
from stages.read import Event, Problem, ReadSpec, read_batches


def batches_of(what: str, paths: Sequence[str], spec: ReadSpec) -> Iterator[tuple[str, pa.RecordBatch]]:
    """Batches of the documents in the named files (paths, patterns, URIs), each with its file's name. Raises UserError."""

    def refuse(event: Event) -> None:
        if isinstance(event, Problem):
            raise event.error()

    for file in list_files(what, paths):
        opened = storage.open_random if spec.seeks(file.name) else storage.open_stream
        with opened(file.uri, version=file.witness) as stream:
            for batch in read_batches(stream, file.name, spec, on_event=refuse):
                yield file.name, batch
