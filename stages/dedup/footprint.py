"""What a dedup needs, told before it starts: tasks, memory of one task and disk, phase by phase.

Upper bounds, of shuffle files before compression: every document is taken to have a copy, and what a task holds
while it sorts is counted three times (rows, sorted rows, what is written).
"""

from __future__ import annotations

from dataclasses import dataclass

from stages.dedup.address import BATCH_BYTES
from stages.dedup.bloom import filter_bytes
from stages.dedup.clustered import partitions_of
from stages.dedup.spec import Bff, Exact, MinHash, Url

BASE_BYTES = 200 << 20  # of a process with its libraries and kernels
BATCHES = 12  # of text, in several forms at a time: as read, normalized, hashed
NGRAM_BYTES = 6  # of text that one n-gram of a Bloom filter stands for, at least, in a web page
EDGE_BYTES = 32  # an edge, at both its ends
NAME_BYTES = 80  # a removed document with its representative's id


@dataclass(frozen=True)
class Need:
    """tasks; memory: bytes of one task; disk: bytes written in the run's storage by all tasks of the phase.

    What stands for `components` (large- and small-star) is needed by each round.
    """

    phase: str
    tasks: int
    memory: int
    disk: int


def filter_memory(size: int) -> int:
    """Memory of a task that holds a Bloom filter of so many bytes."""
    return BASE_BYTES + BATCHES * BATCH_BYTES + size


def footprint(
    spec: Exact | Url | MinHash | Bff, documents: int, text_bytes: int, groups: int, ngrams: int | None = None
) -> list[Need]:
    """The needs of a dedup over so many documents and bytes of text, in `groups` groups of parts.

    ngrams: how many a Bloom filter would take in, where that is known already.
    """
    reading = BASE_BYTES + BATCHES * BATCH_BYTES
    if isinstance(spec, Bff):
        each = spec.expected_ngrams or -(-(ngrams or text_bytes // NGRAM_BYTES) // spec.shards)
        spans = 32 * documents
        return [
            Need("count", groups, reading, 0),
            Need("filter", spec.shards, filter_memory(filter_bytes(each, spec.fp_rate)), spans),
            *([Need("holders", groups, reading + 4 * spec.witness_memory, 2 * spans)] if spec.name_holders else []),
            Need("edit", groups, reading + 3 * 3 * spans // max(groups, 1), text_bytes + NAME_BYTES * documents),
        ]
    partitions = partitions_of(spec, documents, groups)
    records, edges = documents * spec.document_bytes, documents * EDGE_BYTES
    sorting = BASE_BYTES + 3 * spec.memory
    of_partition = BASE_BYTES + 3 * max(spec.memory, -(-records // partitions), -(-edges // partitions))
    needs = [
        Need("scatter", groups, reading + 3 * spec.memory, records + edges),
        Need("group", partitions, of_partition, edges),
        Need("components", 2 * partitions, of_partition, 2 * edges),
    ]
    members = documents * spec.member_bytes
    choices = partitions
    if spec.keep != "first" or getattr(spec, "verify", None) is not None:
        choices = max(partitions, spec.partition_count(documents, spec.member_bytes))
        needs.append(Need("members", partitions, of_partition, documents * 16))
        needs.append(Need("measure", groups, reading + 3 * spec.memory, members))
    needs.append(Need("choose", choices, BASE_BYTES + 3 * max(spec.memory, -(-members // choices)), documents * 16))
    of_group = sorting + 3 * NAME_BYTES * documents // max(groups, 1)
    needs.append(Need("name", groups, of_group, NAME_BYTES * documents))
    needs.append(Need("remove", groups, of_group, NAME_BYTES * documents))
    return needs
