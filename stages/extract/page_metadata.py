"""What a page says of itself: title, date, author and language, robots rules and licences, from its notes.

The parser notes where the page's bytes hold such things (`html_tables.META_*`); here they are read. JSON-LD goes before
<meta>, and <meta> before other markup.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from stages.document import replace_column
from stages.kernels import html_tables as names

MOST_JSON = 1 << 20  # bytes of JSON-LD that are read
LONGEST = 500  # characters of a title or of authors
_ISO = re.compile(r"\s*(\d{4})-(\d{2})-(\d{2})(?!\d)")
_COMPACT = re.compile(r"\s*(\d{4})[/.]?(\d{2})[/.]?(\d{2})(?!\d)")
_LANGUAGE = re.compile(r"\s*([A-Za-z]{2,3})(?:[-_][A-Za-z0-9-]*)?\s*(?:[,;].*)?$", re.S)


@dataclass(frozen=True)
class PageMetadata:
    """What is not said is None, or empty. `date` is YYYY-MM-DD, `language` an ISO 639 code."""

    title: str | None = None
    date: str | None = None
    author: str | None = None
    language: str | None = None
    robots: tuple[str, ...] = ()
    licenses: tuple[str, ...] = ()
    tdm_reservation: str | None = None

    def facts(self) -> dict[str, Any]:
        """What the page says, as JSON values, without what it does not."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in found.items() if value}


class _Notes:
    """The notes of a page, read as far as they are asked for."""

    def __init__(self, page: bytes, notes: Iterable[tuple[int, int, int]]) -> None:
        self.page = page
        self.places: dict[int, list[tuple[int, int]]] = {}
        for kind, start, stop in notes:
            self.places.setdefault(kind, []).append((start, stop))

    def texts(self, *kinds: int) -> Iterator[str]:
        """What the notes of these kinds say, in order, without empty ones."""
        for kind in kinds:
            for start, stop in self.places.get(kind, ()):
                text = self.page[start:stop].decode("utf-8", "replace")
                text = " ".join((html.unescape(text) if "&" in text else text).split())
                if text:
                    yield text

    def nodes(self) -> Iterator[dict[str, Any]]:
        """The objects of the page's JSON-LD that say something of it."""
        for start, stop in self.places.get(names.META_JSON, ()):
            if stop - start <= MOST_JSON:
                yield from _nodes(self.page[start:stop])


def read_metadata(page: bytes, notes: Iterable[tuple[int, int, int]], heading: str | None) -> PageMetadata:
    """From (kind, start, stop) of each note, and the text of the first <h1>."""
    said = _Notes(page, notes)
    nodes = list(said.nodes())
    titles = chain(
        chain.from_iterable(_strings(node.get("headline")) for node in nodes),
        said.texts(names.META_TITLE),
        [heading] if heading else [],
        said.texts(names.META_HEADING),
    )
    dates = chain(
        chain.from_iterable(_strings(node.get("datePublished")) for node in nodes),
        said.texts(names.META_DATE, names.META_TIME),
    )
    authors = [name for node in nodes for name in _names(node.get("author"))] or said.texts(names.META_AUTHOR)
    written_by = dict.fromkeys(name for name in authors if "://" not in name)
    languages = (match[1].lower() for text in said.texts(names.META_LANGUAGE) if (match := _LANGUAGE.match(text)))
    return PageMetadata(
        title=next((title[:LONGEST] for title in titles if title), None),
        date=next((date for text in dates if (date := read_date(text))), None),
        author=", ".join(written_by)[:LONGEST] or None,
        language=next(languages, None),
        robots=tuple(dict.fromkeys(text.lower() for text in said.texts(names.META_ROBOTS))),
        licenses=tuple(dict.fromkeys(said.texts(names.META_LICENSE))),
        tdm_reservation=next(said.texts(names.META_TDM), None),
    )


def read_date(text: str) -> str | None:
    """YYYY-MM-DD from ISO 8601, YYYYMMDD, YYYY/MM/DD or RFC 5322; None for anything else, and for days that are none."""
    found = _ISO.match(text) or _COMPACT.match(text)
    if found:
        year, month, day = (int(part) for part in found.groups())
        if 1990 <= year <= 2100 and 1 <= month <= 12 and 1 <= day <= 31:
            return f"{year:04}-{month:02}-{day:02}"
        return None
    try:
        return parsedate_to_datetime(text).date().isoformat()
    except (ValueError, TypeError, IndexError):
        return None


def _nodes(data: bytes) -> Iterator[dict[str, Any]]:
    """The objects of a piece of JSON-LD that have a date, a headline or an author; none where it cannot be read."""
    if not any(word in data for word in (b"datePublished", b'"headline"', b'"author"')):
        return
    try:
        todo: list[Any] = [orjson.loads(data.strip().removeprefix(b"<![CDATA[").removesuffix(b"]]>"))]
    except orjson.JSONDecodeError:
        return
    for _ in range(1000):
        if not todo:
            return
        node = todo.pop(0)
        if isinstance(node, list):
            todo += node[:100]
        elif isinstance(node, dict):
            kind = node.get("@type")
            if {"datePublished", "headline"} & node.keys() and kind not in ("Comment", "Review"):
                yield node
            todo += [node[key] for key in ("@graph", "mainEntity", "mainEntityOfPage") if key in node]


def _strings(value: Any) -> list[str]:
    if isinstance(value, list):
        value = value[0] if value else None
    return [" ".join(html.unescape(value).split())] if isinstance(value, str) else []


def _names(value: Any) -> list[str]:
    """The names of persons in the value of `author`: a string, an object with a name, or several."""
    found = []
    for item in value if isinstance(value, list) else [value]:
        found += _strings(item.get("name") if isinstance(item, dict) else item)
    return [name for name in found if name]


def add_page_metadata(docs: pa.RecordBatch, rows: np.ndarray, found: Sequence[PageMetadata]) -> pa.RecordBatch:
    """The batch with what pages say of themselves under `page` in the `metadata` of their rows."""
    values = docs.column("metadata").to_pylist()
    for row, metadata in zip(rows, found, strict=True):
        if facts := metadata.facts():
            values[row] = orjson.dumps(orjson.loads(values[row] or "{}") | {"page": facts}).decode()
    return replace_column(docs, "metadata", pa.array(values, pa.large_string()))
