"""What a document's page, server and record say of its use: licences, robots rules, reservations against mining."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from stages.filters.licenses import HINTS, first_license, license_name, stated_license
from stages.step import Bounds, Labels, Limit, Measures, OneOf, Step, limit

_AGENT = re.compile(r"\s*([\w.*-]+)\s*:\s*(.*)$", re.S)
_TIMED = ("unavailable_after", "max-snippet", "max-image-preview", "max-video-preview")  # rules with a colon of their own
NO_AI = ("noai", "noimageai", "notrain", "noml")


class Permissions(Step):
    """Measures licences and opt-outs, and drops documents whose use for training is reserved.

    Read are: of a crawled page, its response's X-Robots-Tag, TDM-Reservation and TDM-Policy (the W3C community group's TDM
    Reservation Protocol), and what `extract` with `engine: blocks` notes of it (robots and tdm-reservation of its <meta>,
    links and statements of licences); of any record, the fields that hold a licence; and the text, for what it says of
    its own licence. What is not said is 0, or null for the licence.
    """

    step: ClassVar[str] = "permissions"
    tallies: ClassVar[tuple[str, ...]] = ("no_index", "no_archive", "no_ai", "tdm_reserved")

    tdm_reserved: Limit = limit(max=0)
    """1 where text and data mining is reserved (by a value of 1, or a policy)."""
    no_ai: Limit = limit(max=0)
    """1 where robots rules say noai, noimageai, notrain or noml."""
    no_index: Limit = limit()
    """1 where robots rules say noindex or none."""
    no_archive: Limit = limit()
    """1 where robots rules say noarchive or nocache."""
    license: OneOf = Labels(keep=())
    """The licence's name (stages/filters/licenses.py). With names to keep, others go; documents without one stay."""

    license_fields: tuple[str, ...] = ("license", "licenses", "max_stars_repo_licenses")
    """Where a record may hold licences, besides its text; within nested objects with dots."""
    agents: tuple[str, ...] = ("*", "robots", "ccbot", "gptbot", "google-extended", "anthropic-ai", "claudebot")
    """Whose rules in X-Robots-Tag count, in lower case, besides those for all."""
    read_text: bool = True
    """Whether a licence is looked for in the text, where nothing else names one."""

    def limits(self) -> dict[str, Bounds | Labels]:
        """Without names of licences to keep, that measure limits nothing."""
        found = super().limits()
        return found if self.license.keep else {name: value for name, value in found.items() if name != "license"}

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """`tdm_reserved`, `no_ai`, `no_index`, `no_archive` (int64, 0 or 1), and `license` (string, null for none)."""
        flags = {name: np.zeros(docs.num_rows, np.int64) for name in self.tallies}
        licenses: list[str | None] = []
        hints = np.asarray(pc.match_substring_regex(docs.column("text"), HINTS)) if self.read_text else None
        for row, metadata in enumerate(docs.column("metadata").to_pylist()):
            said = _object(metadata)
            page = said["page"] if isinstance(said.get("page"), dict) else {}
            tags = [*_strings(said.get("x_robots_tag")), *_strings(page.get("robots"))]
            rules = {rule for tag in tags for rule in self._rules(tag)}
            flags["no_index"][row] = bool(rules & {"noindex", "none"})
            flags["no_archive"][row] = bool(rules & {"noarchive", "nocache"})
            flags["no_ai"][row] = bool(rules & set(NO_AI))
            flags["tdm_reserved"][row] = _is_reserved(said, page)
            named = [text for name in self.license_fields for text in _strings(_at(said, name))]
            found = first_license([*map(license_name, _strings(page.get("licenses"))), *_identified(named)])
            if found is None and hints is not None and hints[row]:
                found = stated_license(docs.column("text")[row].as_py())
            licenses.append(found)
        order = ("tdm_reserved", "no_ai", "no_index", "no_archive")
        return {name: flags[name] for name in order} | {"license": pa.array(licenses, pa.large_string())}

    def _rules(self, text: str) -> Iterator[str]:
        """The rules of a robots tag that are for all, or for one of `agents`; `agent: rules` is for that agent alone."""
        mine = True
        for part in text.lower().split(","):
            named = _AGENT.match(part)
            if named and named[1] not in _TIMED:
                mine, part = named[1] in self.agents, named[2]
            if mine and part.strip():
                yield part.strip()


def _object(metadata: str | None) -> dict[str, Any]:
    try:
        found = orjson.loads(metadata) if metadata else {}
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _identified(texts: list[str]) -> list[str]:
    return [license_name(text, identifier=True) for text in texts if text.strip()]


def _at(values: Any, field: str) -> Any:
    for name in field.split("."):
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _strings(value: Any) -> list[str]:
    return [one for one in (value if isinstance(value, list) else [value]) if isinstance(one, str)]


def _is_reserved(said: dict[str, Any], page: dict[str, Any]) -> bool:
    """A value that is no 0, of header or page. A policy's address is one: a policy says who may mine what is reserved."""
    values = [*_strings(said.get("tdm_reservation")), *_strings(said.get("tdm_policy")), *_strings(page.get("tdm_reservation"))]
    return any(value.strip() not in ("", "0") for value in values)
