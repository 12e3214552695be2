"""Drawing a sample of parts' documents, by a hash of their ids: the choice hangs on nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pyarrow as pa

from pipeline.jobs.context import Context
from pipeline.jobs.inputs import PartInput, part_batches
from pipeline.plan.node import Job, Report
from stages.document import document_hash, text_buffers
from stages.marks import HowMuch, InFile, Setting
from stages.parts import PartWriter

COLUMNS = ["id", "text"]


class SampleReport(Report):
    """The file of the sample, and how many documents are in it."""

    part: str
    docs: int


@dataclass(frozen=True)
class Sample(Job):
    """Writes the chosen documents of a part, in their order, to a part of their own."""

    report: ClassVar[type[Report]] = SampleReport

    part: InFile[PartInput]
    share: Setting[float]
    purpose: Setting[str]
    batch_bytes: HowMuch[int] = 8 << 20

    def run(self, context: Context) -> SampleReport:
        schema = pa.schema([(name, pa.large_string()) for name in COLUMNS])
        name = context.interim(f"sample/{self.purpose}") + ".parquet"
        with context.output(name) as path, PartWriter(path, schema) as file:
            for batch in sampled([self.part], self.share, self.purpose, self.batch_bytes, context):
                file.write(batch)
        return SampleReport(part=name, docs=file.rows)


def sampled(
    parts: Sequence[PartInput], share: float, purpose: str, batch_bytes: int, context: Context
) -> Iterator[pa.RecordBatch]:
    """The documents (id, text) of parts, of which `share` is taken for this purpose, in canonical order.

    Where that is none with a text, as it may be of few large documents, the one whose id has the least hash is taken.
    """
    limit = share * 2**64
    least: tuple[int, pa.RecordBatch] | None = None
    enough = False
    for part in parts:
        for _, kept, _ in part_batches(part, context, batch_bytes, COLUMNS):
            kept = kept.select(COLUMNS)
            hashes = [document_hash(name, purpose) for name in kept.column("id").to_pylist()]
            chosen = np.fromiter((value < limit for value in hashes), bool, len(hashes))
            yield kept.filter(pa.array(chosen))
            texts = np.flatnonzero(np.diff(text_buffers(kept.column("text"))[1]))
            enough = enough or bool(chosen[texts].any())
            if not enough and len(texts):
                row = min(texts, key=hashes.__getitem__)
                if least is None or hashes[row] < least[0]:
                    least = hashes[row], kept.take(pa.array([row]))
    if not enough and least is not None:
        yield least[1]
