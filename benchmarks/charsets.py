"""One damaged byte: how many pages it garbles, by DCLM's detector and as pages are decoded by default.

    python -m benchmarks charsets [--tries 3] [--limit PAGES] [--json FILE]

Of each real page that is valid UTF-8 and has characters outside ASCII, one byte of one such character is removed, by
chance. A page is garbled where its text differs outside the character that was damaged. The time shown is CPU time of
decoding alone, whole pages, beside that of Resiliparse's extraction of the same.
"""

from __future__ import annotations

import argparse
import random
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.crawl import originals, read_pages
from benchmarks.settings import RESILIPARSE
from benchmarks.tables import show_table, verdict
from stages.charset import Decoded, as_dclm, decode

GOAL = 0.005  # share of damaged pages that may come out garbled
TIME_GOAL = 0.03  # of extraction's time, more than the detector's way takes
WAYS: dict[str, Callable[[bytes, str | None], Decoded]] = {"as_dclm": as_dclm, "declared": decode}

_LANGUAGE = re.compile(rb"<html[^>]*\blang\s*=\s*[\"']?([a-zA-Z]{2})")
_CHARSET = re.compile(rb"(?i)\ncontent-type:[^\r\n]*charset=[\"']?([^\s\"';]+)")


@dataclass(frozen=True)
class Page:
    """A page, with the charset that its HTTP header declares."""

    html: bytes
    charset: str | None

    def language(self) -> str:
        found = _LANGUAGE.search(self.html, 0, 4096)
        return found[1].decode().lower() if found else "none"

    def declares_utf8(self) -> bool:
        return self.charset is not None and self.charset.lower() in ("utf-8", "utf8")


@dataclass(frozen=True)
class Damaged:
    """A page without one byte of one character, and the text on both sides of it."""

    html: bytes
    before: str
    after: str

    def garbled(self, text: str) -> bool:
        return not (text.startswith(self.before) and text.endswith(self.after))


def damage(html: bytes, rng: random.Random) -> Damaged | None:
    """Remove a byte of a character of this page; None for a page that is no UTF-8, or plain ASCII."""
    try:
        html.decode("utf-8")
    except UnicodeDecodeError:
        return None
    leads = [i for i, byte in enumerate(html) if byte >= 0xC0]
    if not leads:
        return None
    start = rng.choice(leads)
    length = 2 + (html[start] >= 0xE0) + (html[start] >= 0xF0)
    gone = start + rng.randrange(length)
    before = html[:start].decode("utf-8").removeprefix("\ufeff")
    return Damaged(html[:gone] + html[gone + 1 :], before, html[start + length :].decode("utf-8"))


def read(work: Path, limit: int | None) -> Iterator[Page]:
    """The real pages of this machine."""
    for path in originals(work)[1]:
        for _, _, http, html in read_pages(path, limit):
            found = _CHARSET.search(http)
            yield Page(html, found[1].decode("latin-1") if found else None)


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks charsets", description=__doc__.splitlines()[0])
    parser.add_argument("--tries", type=int, default=3, help="damaged copies of each page")
    parser.add_argument("--limit", type=int, help="only so many pages of each WARC file")
    parser.add_argument(
        "--work", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench", help="scratch folder"
    )
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    print(measure.show_machine(measure.machine("Resiliparse", "endec", "webencodings")))
    pages = list(read(args.work, args.limit))
    counts = garble(pages, args.tries)
    total = counts["all", ""]
    rows = [
        [name, f"{number:,}", *(f"{counts[name, each]:,} ({counts[name, each] / number:.2%})" for each in WAYS)]
        for (name, way), number in counts.most_common()
        if not way
    ]
    show_table(f"pages garbled by one byte, {args.tries} tries a page", ["<html lang>", "damaged", *WAYS], rows)
    share = counts["all", "declared"] / total
    print(f"declared: {share:.2%} of damaged pages garbled, {verdict(share, GOAL, at_most=True)}")
    by_nature = [(as_dclm(page.html).text, decode(page.html, page.charset)) for page in pages]
    changed, replaced = sum(a != b.text for a, b in by_nature), sum(b.replaced > 0 for _, b in by_nature)
    print(
        f"as they are: {changed} of {len(pages):,} pages read otherwise than as_dclm, {replaced} with replaced characters"
    )
    seconds = timed(pages)
    more = (seconds["declared"] - seconds["as_dclm"]) / seconds["extraction"]
    print("CPU seconds: " + ", ".join(f"{name} {value:.3f}" for name, value in seconds.items()))
    print(f"declared against as_dclm: {more:+.1%} of extraction's time, {verdict(more, TIME_GOAL, at_most=True)}")
    found = {"pages": len(pages), "damaged": total, "share": share, "seconds": seconds, "changed": changed}
    measure.write_json(args.json, found | {way: counts["all", way] for way in WAYS})


def garble(pages: list[Page], tries: int) -> Counter[tuple[str, str]]:
    """Damaged pages by language, and of those that were garbled each way: {(language, way or ""): pages}."""
    rng = random.Random(0)
    counts: Counter[tuple[str, str]] = Counter()
    for page in pages:
        for _ in range(tries):
            damaged = damage(page.html, rng)
            if damaged is None:
                break
            names = ["all", page.language(), *(["(header says utf-8)"] if page.declares_utf8() else [])]
            counts.update((name, "") for name in names)
            for way, decoder in WAYS.items():
                if damaged.garbled(decoder(damaged.html, page.charset).text):
                    counts.update((name, way) for name in names)
    return counts


def timed(pages: list[Page], rounds: int = 3) -> dict[str, float]:
    """CPU seconds of decoding all pages each way, and of extracting them: the least of some rounds, which alternate."""
    from resiliparse.extract.html2text import extract_plain_text

    texts = [decode(page.html, page.charset).text for page in pages]
    found: dict[str, float] = {}
    for _ in range(rounds):
        for way, decoder in WAYS.items():
            began = time.process_time()
            for page in pages:
                decoder(page.html, page.charset)
            found[way] = min(found.get(way, 1e9), time.process_time() - began)
        began = time.process_time()
        for text in texts:
            extract_plain_text(text, **RESILIPARSE)
        found["extraction"] = min(found.get("extraction", 1e9), time.process_time() - began)
    return found


if __name__ == "__main__":
    main()
