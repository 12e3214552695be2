"""What a page says of itself: title, date, author and language, robots rules and licences, from its notes.

The parser notes where the page's bytes hold such things (`html_tables.META_*`); here they are read. JSON-LD goes before
<meta>, and <meta> before other markup.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
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
_SPACE = re.compile(r"\s+")


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


@dataclass
class _Found:
    values: dict[int, list[str]] = field(default_factory=dict)

    def first(self, *kinds: int) -> Iterator[str]:
        for kind in kinds:
            yield from self.values.get(kind, [])


def read_metadata(page: bytes, notes: Iterable[tuple[int, int, int]], heading: str | None) -> PageMetadata:
    """From (kind, start, stop) of each note, and the text of the first <h1>."""
    found = _Found()
    titles, dates, authors = [], [], []
    for kind, start, stop in notes:
        if kind == names.META_JSON:
            if stop - start <= MOST_JSON:
                for node in _nodes(page[start:stop]):
                    titles += _strings(node.get("headline"))
                    dates += _strings(node.get("datePublished"))
                    authors += _names(node.get("author"))
            continue
        text = _SPACE.sub(" ", html.unescape(page[start:stop].decode("utf-8", "replace"))).strip()
        if text:
            found.values.setdefault(kind, []).append(text)
    titles += [*found.first(names.META_TITLE), *([heading] if heading else []), *found.first(names.META_HEADING)]
    dates += found.first(names.META_DATE, names.META_TIME)
    written_by = [name for name in (authors or found.first(names.META_AUTHOR)) if "://" not in name]
    languages = (match[1].lower() for text in found.first(names.META_LANGUAGE) if (match := _LANGUAGE.match(text)))
    return PageMetadata(
        title=next((title[:LONGEST] for title in titles if title), None),
        date=next((date for text in dates if (date := read_date(text))), None),
        author=", ".join(dict.fromkeys(written_by))[:LONGEST] or None,
        language=next(languages, None),
        robots=tuple(dict.fromkeys(text.lower() for text in found.first(names.META_ROBOTS))),
        licenses=tuple(dict.fromkeys(found.first(names.META_LICENSE))),
        tdm_reservation=next(found.first(names.META_TDM), None),
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
    return [_SPACE.sub(" ", html.unescape(value)).strip()] if isinstance(value, str) else []


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
