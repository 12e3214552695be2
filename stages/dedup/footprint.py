"""What a dedup needs, told before it starts: tasks, memory of one task and disk, phase by phase.

Upper bounds, of shuffle files before compression: every document is taken to have a copy, and what a task holds
while it sorts is counted three times (rows, sorted rows, what is written).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stages.dedup.address import BATCH_BYTES
from stages.dedup.bloom import filter_bytes
from stages.dedup.clustered import partitions_of
from stages.dedup.spec import AnyDedup, Bff, Filtering, Substring

BASE_BYTES = 200 << 20  # of a process with its libraries and kernels
BATCHES = 12  # of text, in several forms at a time: as read, normalized, hashed
SHARED_BATCHES = 6  # besides, where threads share a filter: read ahead, and what they know of each n-gram
NGRAM_BYTES = 6  # of text that one n-gram of a Bloom filter stands for, at least, in a web page
PARAGRAPH_BYTES = 40  # of text that one paragraph stands for, at least, in a web page
SEQUENCE_BYTES = 1.25  # of a sequence of words for a byte of text: 1.0 in prose, 1.2 in LaTeX; other units take less
DOCUMENT_BYTES = 17  # a document of such a sequence: where it begins, its address, whether it holds what others lose
EDGE_BYTES = 32  # an edge, at both its ends
WRITER_BYTES = 64 << 20  # of spans that `substring` holds before it sorts them and sets them aside
UNEVEN = 2  # times the mean: what a task may have of a phase's bytes
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


def filter_memory(size: int, cores: int = 1) -> int:
    """Memory of a task that holds a Bloom filter of so many bytes, on so many cores."""
    return BASE_BYTES + (BATCHES + (SHARED_BATCHES if cores > 1 else 0)) * BATCH_BYTES + size


def index_bytes(spec: AnyDedup, needs: Sequence[Need]) -> int:
    """Bytes, at most, of what a dedup with these needs keeps for later runs (`save: true`); 0 where it keeps nothing."""
    if isinstance(spec, Filtering):
        of_filter = sum(need.tasks * (need.memory - filter_memory(0)) for need in needs if need.phase == "filter")
        return of_filter if spec.save else 0
    return sum(need.disk for need in needs if need.phase == "index")


def written_at_a_time(need: Need) -> int:
    """Bytes of its node's disk that a task of a phase takes for what it writes: sorted runs, and the file made of them."""
    return 2 * UNEVEN * need.disk // max(need.tasks, 1)


def suffix_memory(unit: str, sequence_bytes: int, documents: int) -> int:
    """Bytes that a sequence of so many bytes and documents takes with its suffix array: linear in the text.

    5 bytes a byte, and 9 from 2 GiB on, where an entry takes 8 bytes; for single bytes, which need a second array as
    large, 9 and 17. A sequence of words is about as long as their text, one of tokens about half (docs/dedup.md).
    """
    entry = 4 if sequence_bytes < 1 << 31 else 8
    return sequence_bytes * (1 + entry * (2 if unit == "bytes" else 1)) + DOCUMENT_BYTES * documents


def substring_memory(size: int) -> int:
    """Memory of a task that holds a shard's sequence and suffix array of so many bytes: it reads texts beside."""
    return BASE_BYTES + BATCHES * BATCH_BYTES + 3 * 2 * WRITER_BYTES + size


def footprint(
    spec: AnyDedup, documents: int, text_bytes: int, groups: int, ngrams: int | None = None
) -> list[Need]:
    """The needs of a dedup over so many documents and bytes of text, in `groups` groups of parts.

    ngrams: how many a Bloom filter would take in, where that is known already.
    """
    reading = BASE_BYTES + BATCHES * BATCH_BYTES
    if isinstance(spec, Filtering):
        about = text_bytes // (NGRAM_BYTES if isinstance(spec, Bff) else PARAGRAPH_BYTES)
        each = spec.expected or -(-(ngrams or about) // spec.shards)
        size = filter_bytes(each, spec.fp_rate, exactly=spec.exactly)
        spans = 32 * documents
        return [
            Need("count", groups, reading, 0),
            Need("filter", spec.shards, filter_memory(size, spec.cores(size)), spans),
            *([Need("holders", groups, reading + 4 * min(spec.witness_memory, spans), 2 * spans)] if spec.name_holders else []),
            Need("edit", groups, reading + 3 * 3 * spans // max(groups, 1), text_bytes + NAME_BYTES * documents),
        ]
    if isinstance(spec, Substring):
        each = suffix_memory(spec.unit, int(text_bytes * SEQUENCE_BYTES) // spec.shards, -(-documents // spec.shards))
        spans = 32 * documents
        return [
            Need("count", groups, reading, 0),
            Need("repeats", spec.shards, substring_memory(each), 2 * spans),
            Need("keepers", groups, reading + 3 * WRITER_BYTES, 2 * spans),
            Need("edit", groups, reading + 3 * 3 * spans // max(groups, 1), text_bytes + NAME_BYTES * documents),
        ]
    partitions = partitions_of(spec, documents, groups)
    records, edges = documents * spec.document_bytes, documents * EDGE_BYTES
    of_partition = BASE_BYTES + 3 * _held(spec.memory, max(records, edges), partitions)
    needs = [
        Need("scatter", groups, reading + 3 * _sorted(spec.memory, records + edges, groups), records + edges),
        Need("group", partitions, of_partition, edges),
        Need("components", 2 * partitions, of_partition, 2 * edges),
    ]
    members = documents * spec.member_bytes
    choices = partitions
    if spec.keep != "first" or getattr(spec, "verify", None) is not None:
        choices = max(partitions, spec.partition_count(documents, spec.member_bytes))
        needs.append(Need("members", partitions, of_partition, documents * 16))
        needs.append(Need("measure", groups, reading + 3 * _sorted(spec.memory, members, groups), members))
    needs.append(Need("choose", choices, BASE_BYTES + 3 * _held(spec.memory, members, choices), documents * 16))
    if spec.against:
        needs.append(Need("settle", partitions, of_partition, edges + NAME_BYTES * documents))
    names = NAME_BYTES * documents
    of_group = BASE_BYTES + 3 * _sorted(spec.memory, names, groups) + 3 * names // max(groups, 1)
    needs.append(Need("name", groups, of_group, NAME_BYTES * documents))
    needs.append(Need("remove", groups, of_group, NAME_BYTES * documents))
    if spec.save:
        needs.append(Need("index", groups, reading + 3 * _sorted(spec.memory, records, groups), records + names))
    return needs


def _sorted(memory: int, size: int, tasks: int) -> int:
    """Bytes that a task sorts at a time, of `size` bytes that so many tasks have: `memory`, or all that it may have."""
    return min(memory, UNEVEN * -(-size // max(tasks, 1)))


def _held(memory: int, size: int, tasks: int) -> int:
    """The same of a task that holds all that it has."""
    return max(_sorted(memory, size, tasks), -(-size // max(tasks, 1)))
