"""The page: one static HTML file without scripts, and without anything that a browser would have to fetch."""

from __future__ import annotations

import base64
import hashlib
from typing import Any

from pipeline.report import documents, flow, product, shapes
from pipeline.report.html import Html, tag
from pipeline.report.style import CSS

MOST_BYTES = 3_000_000  # of the page, whatever the run's size
PICTURES = 400  # of measures that are drawn


def page(data: dict[str, Any], most_bytes: int = MOST_BYTES) -> bytes:
    """The page about what `gather` found. Texts, then pictures, are cut until it is no larger than `most_bytes`."""
    longest = max((len(d["text"] or "") for s in data["sources"].values() for d in _sampled(s)), default=0)
    chars, pictures = longest, PICTURES
    while True:
        found = _page(data, chars, pictures).encode()
        if len(found) <= most_bytes or (chars == 0 and pictures == 0):
            return found
        chars, pictures = (chars // 2, pictures) if chars else (0, pictures // 2)


def _sampled(source: dict[str, Any]) -> list[dict[str, Any]]:
    samples = source["samples"]
    return samples["kept"] + [document for entry in samples["dropped"] for document in entry["documents"]]


def _page(data: dict[str, Any], chars: int, pictures: int) -> Html:
    sections: list[tuple[str, str, list[Any]]] = [
        ("ledger", "Ledger", flow.ledger(data)),
        ("funnel", "Funnel", flow.funnel(data)),
        ("reasons", "Reasons", flow.reasons(data)),
        ("measures", "Measures", shapes.measures(data, pictures)),
        ("languages", "Languages", shapes.languages(data)),
        ("lengths", "Lengths", shapes.lengths(data)),
        ("documents", "Documents", documents.documents(data, chars)),
        ("domains", "Domains", documents.domains(data)),
        ("dedup", "Dedup", documents.dedups(data, chars)),
        ("mixture", "Mixture", product.mixture(data)),
        ("shards", "Shards", product.shards(data)),
        ("speed", "Speed", product.speed(data)),
        ("failures", "Failures", documents.failed(data)),
        ("recipe", "Recipe", product.recipe(data)),
    ]
    links = (tag("li", tag("a", title, href=f"#{name}")) for name, title, _ in sections)
    body = [
        tag("nav", tag("ul", links), aria_label="Contents"),
        tag(
            "main",
            _header(data),
            (tag("section", tag("h2", title), parts, id=name) for name, title, parts in sections),
            _footer(data),
        ),
    ]
    digest = base64.b64encode(hashlib.sha256(CSS.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", f"{data['name']}: what became of the corpus"),
        tag("style", Html(CSS)),
    ]
    return Html("<!doctype html>\n" + tag("html", tag("head", head), "\n", tag("body", body), lang="en") + "\n")


def _header(data: dict[str, Any]) -> Html:
    facts = [
        ("fingerprint", data["fingerprint"][:16]),
        ("recipe", data["recipe_hash"]),
        ("run", data["run"]),
        ("keep", data["keep"]),
        ("finished", data["speed"]["finished"]),
    ]
    chip = tag("span", f"profile {data['profile']}" if data["profile"] else "no profile", class_="chip")
    return tag(
        "header",
        tag("h1", data["name"], " ", chip),
        tag(
            "dl",
            (tag("div", tag("dt", name), tag("dd", tag("span", text, class_="mono"))) for name, text in facts if text),
            class_="facts",
        ),
        product.tiles(data),
        class_="top",
    )


def _footer(data: dict[str, Any]) -> Html:
    parts = [source["parts"] for source in data["sources"].values()]
    read, there = sum(p["read"] for p in parts), sum(p["of"] for p in parts)
    origin = "Ledger, mixture, dedups and speed are of the whole run. Measures, languages, lengths and documents are "
    origin += (
        f"from all {there:,} parts." if read == there else f"from {read:,} of {there:,} parts, evenly chosen (--parts)."
    )
    return tag(
        "footer",
        tag("p", origin),
        (tag("p", f"Note of the run: {note}") for note in data["notes"]),
        tag(
            "p", "Made by python -m pipeline report; fingerprint ", tag("span", data["fingerprint"], class_="mono"), "."
        ),
    )
