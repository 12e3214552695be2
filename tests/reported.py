"""A run whose report is tested, with hostile documents in it; and what a browser would make of its page."""

from __future__ import annotations

import json
import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

from told import as_json

from pipeline.carry_out import Options, run_recipe
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from pipeline.report.gather import gather

WORDS = [word for _, text in sorted(topics.items()) for word in text.split() if word.isalpha()]  # real prose
HOSTILE = (
    '<script>alert("1")</script><img src=https://evil.example/x.png onerror=alert(2)>&amp; </pre></article> '
    "\x00\x07\x1b[31m \u202edlrow \u200f \ufffe end of the and to have with that be. "
)
FILTER = """
def vowels(text):
    if "raise here" in text:
        raise ValueError("<b>no vowels</b> in " + text[:20])
    return sum(text.count(v) for v in "aeiou") / len(text) if text else None
"""


def text_of(number: int, words: int) -> str:
    begin = f"Document {number} is about the of and to have with that be. See http://www.python.org/{number}\n"
    return begin + "\n".join(" ".join(WORDS[i : i + 12]) for i in range(number * 53, number * 53 + words, 12))


def write_inputs(folder: Path) -> None:
    """Documents of two sources, and a filter of a user's own."""
    texts = [text_of(i, 12 * (1 + i % 13)) for i in range(60)]
    texts += [texts[20], texts[33], "### " * 30, "short", HOSTILE * 12, HOSTILE, texts[40] + " raise here", ""]
    names = [str(i) for i in range(len(texts))]
    names[63], names[65] = '"><script>alert(3)</script>', "javascript:alert(4)//" + "x" * 5000
    rows = [{"id": n, "text": t, "url": f"https://site.example/{n}?a=1&b=2"} for n, t in zip(names, texts, strict=True)]
    for part in range(2):
        (folder / f"docs-{part}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows[part::2]))
    other = [{"id": f"o{i}", "text": texts[i]} for i in range(3)] + [{"id": "own", "text": text_of(90, 60)}]
    (folder / "other.jsonl").write_text("".join(json.dumps(r) + "\n" for r in other))
    (folder / "report_filters.py").write_text(FILTER)


def run(inputs: Path, out: Path, *assignments: str) -> str:
    gopher = {"words": [40, 100000], "symbol_ratio": 0.1, "non_alphabetic_words": None, "stop_words": None}
    vowels = {"function": "report_filters:vowels", "measure": "vowels", "max": 0.4}
    steps = [
        {"gopher_quality": gopher},
        {"remove_urls": {"urls": "all"}},
        {"python": vowels},
        {"dedup": {"method": "exact"}},
    ]
    data = {
        "name": "small",
        "sources": {
            "docs": {"read": {"paths": [f"{inputs}/docs-*.jsonl"], "url_field": "url"}, "steps": steps},
            "other": {"read": {"paths": [f"{inputs}/other.jsonl"]}, "steps": []},
        },
        "dedup": [{"dedup": {"method": "minhash"}}],
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "50KB"}},
        "shards": {"held_out": 0.1},
        "mixture": {"epochs": 2.5},
        "run": {"split_bytes": "10KB", "failures": {"documents": 0.5}},
    }
    recipe = build_recipe(data, None, assignments)
    run_recipe(recipe, Options(str(out), inline=True, progress=Progress(quiet=True)))
    return str(out)


def figures(run: str, **options: Any) -> dict[str, Any]:
    """The figures as `report --json` prints them."""
    return as_json(gather(run, **options))


class Checker(HTMLParser):
    """What a browser would make of a page: elements that are not closed, what it would run or fetch, ids."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.ids: Counter[str] = Counter()
        self.references: set[str] = set()
        self.elements: Counter[str] = Counter()
        self.seen: list[str] = []

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements[name] += 1
        if name not in ("meta", "wbr", "br", "col"):
            self.open.append(name)
        for key, text in attributes:
            if key in ("src", "srcset", "style", "action", "data", "xlink:href") or key.startswith("on"):
                self.wrong.append(f"{name} {key}={text}")
            if key == "href" and not (text or "").startswith("#"):
                self.wrong.append(f"{name} href={text}")
            if key == "href":
                self.references.add((text or "")[1:])
            if key == "aria-labelledby":
                self.references.update((text or "").split())
            if key == "id":
                self.ids[text or ""] += 1

    def handle_endtag(self, name: str) -> None:
        if not self.open or self.open.pop() != name:
            self.wrong.append(f"</{name}> closes nothing")

    def handle_data(self, data: str) -> None:
        self.seen.append(data)


def check_html(text: str) -> Checker:
    checker = Checker()
    checker.feed(text)
    checker.close()
    assert not checker.wrong and not checker.open
    forbidden = ("script", "iframe", "object", "embed", "img", "link", "form", "base", "image", "use", "foreignobject")
    assert not [name for name in checker.elements if name in forbidden]
    assert max(checker.ids.values()) == 1 and checker.references <= set(checker.ids)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)[1]
    assert "url(" not in style and "@import" not in style and "@font-face" not in style
    assert len(text.encode()) < 3_000_000
    return checker
