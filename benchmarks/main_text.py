"""Main text of real pages: how good and how fast the engine `blocks`, Resiliparse and trafilatura are, in one run.

    python -m benchmarks main_text [--pages FILE.warc.gz ...] [--truth FILE] [--limit PAGES] [--folds N]
        [--articles FOLDER] [--json FILE]

Quality: wanted and unwanted strings found (stages/extract/block_scores.py). Speed: CPU seconds of one thread from a page's
decoded bytes to text, extractors in turn on each page. The model that ships has learned from ../shared/data: on these pages
`--folds 5` judges models that were trained without the site of the page (minutes; needs headrace[extractor]), and only that
line says how good the engine is on pages that it does not know. On other pages (--pages, --truth) the first line does.

Whole articles: `--articles` names a clone of github.com/scrapinghub/article-extraction-benchmark, 181 pages with their texts
(html/*.html.gz, ground-truth.json), which the model has not learned from. Precision and recall are means over pages, of words'
4-grams, as its evaluate.py counts them.
"""

from __future__ import annotations

import argparse
import gzip
import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from benchmarks import measure
from benchmarks.crawl import SHARED
from benchmarks.settings import RESILIPARSE
from benchmarks.tables import show_table, verdict
from stages.charset import decode
from stages.extract.block_labels import Truth
from stages.extract.block_scores import Found, by_language, read_truth
from stages.extract.block_training import site_of
from stages.extract.blocks import extract_page
from stages.read import ReadSpec, read_batches

GOAL_F1, GOAL_ARTICLES, GOAL_SPEED, GOAL_LANGUAGE = 0.94, 0.96, 100.0, 0.03
WORD = re.compile(r"\w+")
LEAST = 60  # wanted strings of a language that is shown


@dataclass
class Result:
    """What one extractor did."""

    seconds: float = 0.0  # CPU
    found: list[tuple[str | None, Found]] = field(default_factory=list)  # language of each page, strings found in it

    def total(self) -> Found:
        return by_language(self.found, LEAST)["all"]


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks main_text", description=__doc__.splitlines()[0])
    parser.add_argument("--pages", nargs="+", type=Path, default=sorted(SHARED.glob("web-*.warc.gz")), help="WARC files")
    parser.add_argument("--truth", type=Path, default=SHARED / "web-extraction-truth.json", help="strings wanted and unwanted")
    parser.add_argument("--limit", type=int, help="only so many pages")
    parser.add_argument("--folds", type=int, default=0, help="judge models trained on other sites, in so many parts")
    parser.add_argument("--articles", type=Path, help="a clone of scrapinghub's article-extraction-benchmark")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    if not args.pages or not args.truth.exists():
        print("needs pages with a truth file: ../shared/data is not here, and none were named")
        return
    facts = measure.machine("Resiliparse", "trafilatura", "numba")
    print(measure.show_machine(facts))
    truth = read_truth(args.truth)
    pages = [(url, page) for url, page in read_pages(args.pages) if url in truth][: args.limit]
    size = sum(len(page.encode("utf-8", "replace")) for _, page in pages)
    print(f"{len(pages):,} pages with a truth, {size / 1e6:.1f} MB of HTML")
    results = compare(pages, truth)
    rows = [row(name, result.total(), size / result.seconds / 1e6) for name, result in results.items()]
    if args.folds:
        results["blocks, trained on other sites"] = judged = cross_validated(args.pages, args.truth, args.folds)
        rows.append(row("blocks, trained on other sites", judged.total(), None))
    show_table("main text, CPU time of one thread", ["", "precision", "recall", "F1", "HTML"], rows)
    report(results, size)
    if args.articles:
        compare_articles(args.articles, args.pages)
    figures = {name: {"f1": result.total().f1, "seconds": result.seconds} for name, result in results.items()}
    measure.write_json(args.json, {"machine": facts, "html_bytes": size, "extractors": figures})


def row(name: str, found: Found, speed: float | None) -> list[str]:
    """A line of the table."""
    figures = [f"{value:.3f}" for value in (found.precision, found.recall, found.f1)]
    return [name, *figures, f"{speed:.1f} MB/s" if speed else ""]


def read_pages(files: list[Path]) -> list[tuple[str, str]]:
    """(URL, decoded page) of all pages of WARC files."""
    pages = []
    for path in files:
        with path.open("rb") as stream:
            for batch in read_batches(stream, path.name, ReadSpec(), on_event=lambda event: None):
                columns = (batch.column(name).to_pylist() for name in ("url", "html", "charset"))
                pages += [(url, decode(html, charset).text) for url, html, charset in zip(*columns, strict=True) if html]
    return pages


def extractors() -> dict[str, Callable[[str], str]]:
    """Name -> a function from a decoded page to its main text. trafilatura is left out, and said so, where it is missing."""
    from resiliparse.extract.html2text import extract_plain_text

    found: dict[str, Callable[[str], str]] = {
        "blocks": lambda page: extract_page(page.encode("utf-8", "replace"))[0].decode(),
        "Resiliparse, as DCLM": lambda page: extract_plain_text(page, **RESILIPARSE),
    }
    try:
        import trafilatura
    except ImportError as error:
        print(f"trafilatura is left out: {error}")
    else:
        name = f"trafilatura {trafilatura.__version__}, no comments"
        found[name] = lambda page: trafilatura.extract(page, include_comments=False) or ""
    return found


def compare(pages: list[tuple[str, str]], truth: dict[str, Truth]) -> dict[str, Result]:
    """Each extractor on each page, one after the other."""
    functions = extractors()
    results = {name: Result() for name in functions}
    for function in functions.values():
        function("<p>loaded</p>")
    for url, page in pages:
        language = extract_page(page.encode("utf-8", "replace"))[1].language
        for name, function in functions.items():
            begun = time.process_time()
            text = function(page)
            results[name].seconds += time.process_time() - begun
            found = Found()
            found.add(text, truth[url])
            results[name].found.append((language, found))
    return results


def cross_validated(files: list[Path], truth: Path, folds: int) -> Result:
    """The strings that models find that were trained without the page's site."""
    from pipeline.models.train_extractor import examples_of
    from stages.extract.block_training import FitSettings, cross_validate, prepare
    from stages.extract.blocks import Parsed

    examples, _ = examples_of([str(path) for path in files], truth)
    pages = prepare(examples, Parsed(max(len(example.page) for example in examples)))
    found = cross_validate(examples, pages, FitSettings(), folds)
    return Result(0.0, [(page.language, one) for page, one in zip(pages, found, strict=True)])


def compare_articles(folder: Path, learned: list[Path]) -> None:
    """Print how much of whole articles each extractor finds. `learned`: the files that the shipped model learned from."""
    truth = orjson.loads((folder / "ground-truth.json").read_bytes())
    pages = {key: decode(gzip.decompress((folder / "html" / f"{key}.html.gz").read_bytes()), None).text for key in truth}
    sites = {site_of(url) for url, _ in read_pages(learned)}
    known = sum(site_of(entry["url"]) in sites for entry in truth.values())
    size = sum(len(page.encode("utf-8", "replace")) for page in pages.values())
    print(f"{len(pages)} articles, {size / 1e6:.1f} MB of HTML, {known} of them from sites that the model has learned from")
    rows, judged = [], {}
    for name, function in extractors().items():
        function("<p>loaded</p>")
        begun = time.process_time()
        texts = {key: function(page) for key, page in pages.items()}
        speed = size / (time.process_time() - begun) / 1e6
        precision, recall = articles_found([(entry["articleBody"], texts[key]) for key, entry in truth.items()])
        judged[name] = 2 * precision * recall / (precision + recall)
        rows.append([name, f"{precision:.3f}", f"{recall:.3f}", f"{judged[name]:.3f}", f"{speed:.1f} MB/s"])
    show_table("whole articles, CPU time of one thread", ["", "precision", "recall", "F1", "HTML"], rows)
    print(f"blocks: F1 on articles {judged['blocks']:.3f}, {verdict(judged['blocks'], GOAL_ARTICLES)}")


def articles_found(pairs: list[tuple[str, str]]) -> tuple[float, float]:
    """(precision, recall) of 4-grams of words, means over (true text, text found); a page without either does not count."""
    precisions, recalls = [], []
    for texts in pairs:
        true, found = (_shingles(text) for text in texts)
        same, found_all, true_all = (true & found).total(), found.total(), true.total()
        if found_all:
            precisions.append(same / found_all)
        if true_all:
            recalls.append(same / true_all)
    return sum(precisions) / len(precisions), sum(recalls) / len(recalls)


def _shingles(text: str) -> Counter[tuple[str, ...]]:
    words = WORD.findall(text)
    grams = (tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3)))
    return Counter(gram for gram in grams if gram)


def report(results: dict[str, Result], size: int) -> None:
    """Print languages and goals."""
    judged: dict[str, Any] = {name: by_language(result.found, LEAST) for name, result in results.items()}
    languages = list(next(iter(judged.values())))
    rows = [
        [name, *(f"{found[language].f1:.3f}" if language in found else "" for language in languages)]
        for name, found in judged.items()
    ]
    show_table("F1 by the language that the page states", ["", *languages], rows)
    name, found = list(judged.items())[-1] if "blocks, trained on other sites" in judged else next(iter(judged.items()))
    if name == "blocks":
        print("if these pages are those that the model learned from (see its card), its F1 says nothing of others: use --folds 5")
    print(f"{name}: F1 {found['all'].f1:.3f}, {verdict(found['all'].f1, GOAL_F1)}")
    english = found.get("en")
    if english:
        below = {other: english.f1 - judged.f1 for other, judged in found.items() if other not in ("all", "en")}
        unsaid = below.pop("not said", None)
        if below:
            worst = max(below, key=lambda other: below[other])
            print(f"{name}: {worst} is {below[worst]:.3f} below English, {verdict(below[worst], GOAL_LANGUAGE, at_most=True)}")
        if unsaid is not None:
            print(f"{name}: pages that state no language are {unsaid:.3f} below English")
    speed = size / results["blocks"].seconds / 1e6
    print(f"blocks: {speed:.0f} MB/s, {verdict(speed, GOAL_SPEED)}")
