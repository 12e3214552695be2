"""What a finished run was made by: for each node of its plan, the key of the ledger's entry that tells what became of it.

RUN/made_by.json.zst, written before the manifest. The ledger may hold more, of a later run that was broken off.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
import zstandard

from pipeline import storage
from pipeline.ledger import Ref
from pipeline.plan.node import Node
from stages.errors import UserError

MADE_BY = "made_by.json.zst"


class MadeBy(msgspec.Struct):
    """nodes: (Ref, key) of each node that was walked, in order. others: keys of tasks that conclusions stand for."""

    nodes: list[tuple[Ref, str]]
    others: list[str]


def write_made(run: str, walked: Sequence[Node], used: Iterable[str]) -> None:
    """Write down which entries of the ledger a run's result was made by."""
    nodes = [(node.ref, node.key) for node in walked]
    known = {key for _, key in nodes}
    data = msgspec.json.encode(MadeBy(nodes, [key for key in used if key not in known]))
    storage.write_bytes(storage.join(run, MADE_BY), zstandard.compress(data, 3))


def read_made(run: str) -> MadeBy:
    """What a finished run was made by. Raises UserError where it is not on record."""
    uri = storage.join(run, MADE_BY)
    if not storage.exists(uri):
        raise UserError(f"{run} holds no {MADE_BY}: the run was made by an older version; run its recipe again")
    return msgspec.json.decode(zstandard.decompress(storage.read_bytes(uri)), type=MadeBy)
