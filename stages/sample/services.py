"""botocore's service models: the English documentation of some 400 web services, as HTML fragments in JSON.

Editions of one service stand side by side and services share much of their wording, so copies and near copies abound,
as they do on the web.
"""

from __future__ import annotations

import gzip
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson

from stages.sample.environment import rank, service_models

OPERATIONS_A_SERVICE = 40  # of a crawled service; the rest is not crawled
EDITIONS = 2  # of a service with several API versions, how many are crawled whatever their rank


@dataclass(frozen=True)
class Service:
    """One edition of one service."""

    name: str
    api: str
    model: dict[str, Any]

    @property
    def title(self) -> str:
        """The service's full name."""
        return self.model["metadata"]["serviceFullName"]

    @property
    def overview(self) -> str:
        """What the service is, as HTML; may be empty."""
        return self.model.get("documentation", "")

    @cached_property
    def operations(self) -> list[str]:
        """Names of the documented operations, sorted."""
        return sorted(name for name, value in self.model["operations"].items() if value.get("documentation"))

    def documentation(self, operation: str) -> str:
        """HTML of one operation's description."""
        return self.model["operations"][operation]["documentation"]

    def members(self, operation: str, side: str) -> list[tuple[str, str, bool, str]]:
        """(name, type, required, HTML) of the documented members of an operation's "input" or "output"."""
        shape = self.model["operations"][operation].get(side, {}).get("shape")
        return self.shape_members(shape) if shape else []

    def shape_members(self, shape: str) -> list[tuple[str, str, bool, str]]:
        """(name, type, required, HTML) of a structure's documented members."""
        structure = self.model["shapes"][shape]
        required = set(structure.get("required", ()))
        found = []
        for name, member in structure.get("members", {}).items():
            text = member.get("documentation") or self.model["shapes"][member["shape"]].get("documentation", "")
            if text:
                found.append((name, member["shape"], name in required, text))
        return found

    def nested(self, operation: str) -> list[str]:
        """Structures that an operation's input and output members are, or are lists of."""
        shapes = self.model["shapes"]
        found: dict[str, None] = {}
        for side in ("input", "output"):
            for _, shape, _, _ in self.members(operation, side):
                target = shapes[shape]
                if target["type"] == "list":
                    shape = target["member"]["shape"]
                    target = shapes[shape]
                if target["type"] == "structure" and target.get("members"):
                    found.setdefault(shape)
        return list(found)

    def errors(self, operation: str) -> list[tuple[str, str]]:
        """(name, HTML) of the documented errors of an operation."""
        found = []
        for error in self.model["operations"][operation].get("errors", ()):
            text = self.model["shapes"][error["shape"]].get("documentation", "")
            if text:
                found.append((error["shape"], text))
        return found


def load(name: str, api: str, path: Path) -> Service:
    """Read one service model."""
    data = path.read_bytes()
    return Service(name, api, orjson.loads(gzip.decompress(data) if path.suffix == ".gz" else data))


def ordered_models() -> list[tuple[str, str, Path]]:
    """All service models: first the latest editions of those that have several, then the others as they rank."""
    models = service_models()
    editions: dict[str, list[str]] = {}
    for name, api, _ in models:
        editions.setdefault(name, []).append(api)
    first = {(name, api) for name, apis in editions.items() if len(apis) > 1 for api in apis[-EDITIONS:]}
    return sorted(models, key=lambda model: ((model[0], model[1]) not in first, rank(f"{model[0]}/{model[1]}")))


def crawled_operations(service: Service) -> list[str]:
    """The operations of a service that the crawl holds, sorted."""
    chosen = sorted(service.operations, key=lambda name: rank(f"{service.name} {name}"))[:OPERATIONS_A_SERVICE]
    return sorted(chosen)


_BLOCK = re.compile(r"</?(?:p|ul|ol|dl|dt|dd|note|important|fullname|br|div|h\d|table|tr)\b[^>]*>", re.I)
_ITEM = re.compile(r"<li\b[^>]*>", re.I)
_TAG = re.compile(r"<[^>]+>")


def plain_text(fragment: str) -> str:
    """The text of a documentation fragment, a paragraph a block, list items marked by "* "."""
    # Items hold a paragraph of their own: the mark goes to it, not to a line alone.
    text = _ITEM.sub("\n\x01", re.sub(r"(<li\b[^>]*>)\s*<p\b[^>]*>", r"\1", fragment, flags=re.I))
    text = html.unescape(_TAG.sub("", _BLOCK.sub("\n", text)))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n\n".join(line for line in lines if line.strip("\x01 ")).replace("\x01 ", "\x01").replace("\x01", "* ")


def guide(service: Service, max_chars: int) -> str:
    """A service's documentation as one long text: the overview, then each operation under its name."""
    parts = [service.title, plain_text(service.overview)]
    for operation in service.operations:
        parts += [operation, plain_text(service.documentation(operation))]
        parts += [f"{name}: {plain_text(text)}" for name, _, _, text in service.members(operation, "input")]
        total = sum(map(len, parts))
        if total > max_chars:
            break
    return "\n\n".join(part for part in parts if part) + "\n"


def entries(service: Service, min_chars: int) -> Iterator[tuple[str, str]]:
    """(name, text) of the service's overview and of its data types, as an encyclopedia would hold them."""
    overview = plain_text(service.overview)
    if len(overview) >= min_chars:
        yield service.title, f"{service.title}\n\n{overview}\n"
    for name, shape in sorted(service.model["shapes"].items()):
        if shape["type"] != "structure" or shape.get("exception"):
            continue
        fragment = shape.get("documentation", "")
        text = plain_text(fragment) if len(fragment) >= min_chars else ""
        if len(text) >= min_chars:
            yield f"{name} ({service.title})", f"{name} ({service.title})\n\n{text}\n"
