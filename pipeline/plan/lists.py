"""Lists of paths as a source: `list:URI`, a file with one path a line, plain or compressed, such as a crawl's warc.paths.gz.

What follows a `#` takes a part of the list: `lines=FROM-TO` (the first is 1), or `sample=N`, with `seed=S` (default 0): the N
paths whose keyed hashes are the smallest. So the order of the list does not matter, and a larger sample holds the smaller one.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

from pipeline import storage
from stages.errors import UserError
from stages.read.lines import Block, Pieces, line_blocks

LIST = "list:"
BLOCK_BYTES = 1 << 20
MOST_PATH_BYTES = 4096

_PART = re.compile(r"(?:lines=(?P<first>\d+)-(?P<last>\d+)|sample=(?P<sample>\d+)(?:[,&]seed=(?P<seed>\d+))?)")


class PathList(NamedTuple):
    """A list and the part of it that is wanted: lines from `first` to `last`, or a sample; all where neither is given."""

    uri: str
    first: int = 1
    last: int | None = None
    sample: int | None = None
    seed: int = 0


def parse_list(pattern: str) -> PathList:
    """A pattern of `read.paths` that names a list. Raises UserError for a part that cannot be understood."""
    uri, mark, part = pattern.removeprefix(LIST).partition("#")
    if not mark:
        return PathList(uri)
    found = _PART.fullmatch(part)
    if not found or not (int(found["sample"] or 1) and 1 <= int(found["first"] or 1) <= int(found["last"] or 1 << 60)):
        raise UserError(
            f"{storage.public_name(uri)}#{part}: write #lines=FROM-TO (the first line is 1), or #sample=N or #sample=N,seed=S"
        )
    if found["sample"]:
        return PathList(uri, sample=int(found["sample"]), seed=int(found["seed"] or 0))
    return PathList(uri, int(found["first"]), int(found["last"]))


def root_of(uri: str) -> str:
    """What the paths of a list begin at, with its slash: the server or bucket, as Common Crawl means them; on disk the
    list's folder."""
    if storage.is_local(uri):
        return uri[: uri.rfind("/") + 1]
    head, mark, rest = uri.partition("://")
    return f"{head}{mark}{rest.partition('/')[0]}/"


def read_list(wanted: PathList) -> list[str]:
    """The URIs that are wanted, in the list's order, each once. Raises UserError where there is none, or no list."""
    shown = storage.public_name(wanted.uri)
    lines = (
        (number, line)
        for number, line in enumerate(_lines(wanted.uri, shown), 1)
        if line and wanted.first <= number <= (wanted.last or number)
    )
    if wanted.sample is not None:
        key = wanted.seed.to_bytes(8, "little")
        ranked = ((blake2b(line.encode(), digest_size=8, key=key).digest(), number, line) for number, line in lines)
        lines = iter(sorted((number, line) for _, number, line in heapq.nsmallest(wanted.sample, ranked)))
    root = root_of(wanted.uri)
    found = list(dict.fromkeys(line if "://" in line or line.startswith("/") else root + line for _, line in lines))
    if not found:
        raise UserError(f"{shown}: no path stands there; check the list, and which part of it is asked for")
    return found


def _lines(uri: str, shown: str) -> Iterator[str]:
    """The lines of a list, without white space around them; a comment or an empty line is ""."""
    with storage.open_stream(uri) as stream:
        for block in line_blocks(Pieces(stream, shown), BLOCK_BYTES, MOST_PATH_BYTES):
            if not isinstance(block, Block):
                raise UserError(f"{shown}: is no list of paths, one a line (at byte {block.offset:,}); check the address")
            for line in block.records:
                text = line.decode(errors="replace").strip()
                yield "" if text.startswith("#") else text
