"""What of the machine's text stands for which of the seven sources. docs/sample.md says it in words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import PurePosixPath

from stages.sample import docs, pages, services
from stages.sample.docs import Article
from stages.sample.environment import PACKAGES, rank, read_source, source_files
from stages.sample.pages import Page
from stages.sample.records import DATE, Record, latex, with_dollars

SERVICE_PAGES = 3_300
MAX_PAGE = 40_000  # characters of a page's main content

# Characters of source files that a distribution gives; those not named give SMALL.
CODE_CHARS = {
    "cpython": 1_800_000,
    "ray": 1_300_000,
    "botocore": 800_000,
    "pydantic": 800_000,
    "huggingface_hub": 800_000,
    "pygments": 600_000,
    "pyarrow": 800_000,
}
SMALL = 250_000
NUMERICAL_CHARS = {"numpy": 2_300_000, "numba": 1_600_000, "llvmlite": 200_000}
SITE_CHARS = {"ray": 800_000}  # of package documentation that is crawled
PAPER_PACKAGES = (
    "huggingface_hub", "pydantic", "fsspec", "click", "requests", "urllib3", "rich", "boto3", "jsonschema",
    "s3transfer",
)  # fmt: skip
PAPER_CHARS = 250_000  # of one package's documentation
GUIDES = 40  # of services that are not crawled
GUIDE_CHARS = 40_000
ENTRY_CHARS = 400
LANGUAGES = {".py": "python", ".pyi": "python", ".pyx": "cython", ".pxd": "cython", ".pxi": "cython", ".h": "c++"}


class Collection:
    """The sources that share what they are made of: services, read once, and the language reference."""

    def __init__(self) -> None:
        self.crawled_pages: list[Page] = []
        self.uncrawled: list[services.Service] = []
        latest: dict[str, str] = {}
        models = services.ordered_models()
        for name, api, _ in models:
            latest[name] = max(latest.get(name, ""), api)
        crawled = set()
        for name, api, path in models:
            if len(self.crawled_pages) < SERVICE_PAGES:
                crawled.add(name)
                self.crawled_pages += pages.service_pages(services.load(name, api, path), MAX_PAGE)
            elif api == latest[name] and name not in crawled:
                self.uncrawled.append(services.load(name, api, path))
        self.topics = docs.topics()

    def dclm(self, pydoc: list[Article]) -> list[Page]:
        """The crawl's pages: services, package documentation, pydoc's pages, every third chapter of the reference."""
        found = self.crawled_pages + pages.topic_pages(self.topics[::3])
        for name, limit in SITE_CHARS.items():
            found += pages.package_pages(name, list(docs.module_articles(name, 1_200, limit)))
        found += pages.pydoc_pages(pydoc)
        return sorted(found, key=lambda page: rank(page.url))

    def pes2o(self) -> list[Record]:
        """Long technical prose: package documentation by module, READMEs, and guides to services not crawled."""
        found = [_dolma("readme", article, "readmes") for article in docs.readmes()]
        for name in PAPER_PACKAGES:
            found += [_dolma("module", article, name) for article in docs.module_articles(name, 2_000, PAPER_CHARS)]
        for service in self.uncrawled[:GUIDES]:
            text = services.guide(service, GUIDE_CHARS)
            found.append(_dolma("guide", Article(f"{service.name}/{service.api}", service.title, text), "services"))
        return _shuffled(found)

    def wiki(self) -> list[Record]:
        """Encyclopedic prose: the language reference, data types of services, modules in brief, licences."""
        found = [_dolma("topic", article, "python") for article in self.topics]
        for service in self.uncrawled[GUIDES:]:
            for title, text in services.entries(service, ENTRY_CHARS):
                found.append(_dolma("entry", Article(f"{service.name}/{title}", title, text), "services"))
        found += [_dolma("module", article, "python") for article in docs.module_docstrings("cpython", ENTRY_CHARS)]
        found += [_dolma("licence", article, "licences") for article in docs.licences()]
        return _shuffled(found)


def _dolma(kind: str, article: Article, origin: str) -> Record:
    url = f"http://{origin.replace('_', '-')}.example/{kind}/{article.name.replace(' ', '_')}"
    return Record(f"{kind}/{article.name}", article.text, {"title": article.title, "url": url, "kind": kind})


def _shuffled(records: list[Record]) -> list[Record]:
    """In an order that looks random; of records with one id the first."""
    first = {record.id: record for record in reversed(records)}
    return sorted(first.values(), key=lambda record: rank(record.id))


def stars(repository: str) -> int:
    """The stars of a repository, made up from its name alone: one in eight has 0 or 1, the others 2 to 501."""
    number = rank(f"stars {repository}")
    return (number >> 8) % 2 if number % 8 == 0 else 2 + (number >> 8) % 500


def _files(distribution: str, limit: int) -> Iterator[tuple[str, str]]:
    """(path, text) of files of a distribution, chosen by rank until `limit` characters."""
    total = 0
    for path, file in sorted(source_files(distribution), key=lambda entry: rank(entry[0])):
        if not 200 <= file.stat().st_size <= 150_000:
            continue
        text = read_source(file)
        if text is None:
            continue
        yield path, text
        total += len(text)
        if total >= limit:
            return


def starcoder() -> list[Record]:
    """Source files; a repository is a top-level subpackage, its owner the distribution."""
    found = []
    for name in ("cpython", *PACKAGES):
        if name in NUMERICAL_CHARS:
            continue
        for path, text in _files(name, CODE_CHARS.get(name, SMALL)):
            parts = PurePosixPath(path).parts
            repository = f"{name}/{parts[1] if len(parts) > 2 else 'core'}"
            meta = {
                "max_stars_repo_path": path,
                "max_stars_repo_name": repository,
                "max_stars_count": stars(repository),
            }
            found.append(Record(f"{rank(path):016x}", text, meta))
    return _shuffled(found)


def algebraic_stack() -> list[Record]:
    """Numerical code: numpy, numba and llvmlite, with their tests."""
    found = []
    for name, limit in NUMERICAL_CHARS.items():
        for path, text in _files(name, limit):
            suffix = PurePosixPath(path).suffix
            meta = {
                "path": path,
                "repo": name,
                "ext": suffix[1:],
                "lang": LANGUAGES[suffix],
                "size": len(text.encode()),
            }
            found.append(Record(path, text, meta))
    return _shuffled(found)


def open_web_math() -> list[Record]:
    """numpy's reference, a page a function, with formulas between dollar signs."""
    found = []
    for article in docs.numpy_articles(maths=False):
        url = f"http://reference.numpy.example/{article.name}.html"
        text = f"{article.name}\n\n{with_dollars(article.text)}"
        found.append(Record(url, text, {"url": url, "date": DATE[:10]}))
    return _shuffled(found)


def arxiv() -> list[Record]:
    """LaTeX articles made of the docstrings of numpy's random and polynomial functions, four a paper."""
    by_place: dict[str, list[Article]] = {}
    for article in docs.numpy_articles(maths=True):
        by_place.setdefault(article.name.rpartition(".")[0], []).append(article)
    found = []
    for place, articles in by_place.items():
        for start in range(0, len(articles), 4):
            some = articles[start : start + 4]
            text = latex(f"{place}: {', '.join(a.title for a in some)}", [(a.name, a.text) for a in some])
            name = f"{place}.{start // 4 + 1}"
            meta = {"timestamp": DATE[:19], "yymm": "2401", "arxiv_id": name, "language": "en",
                    "url": f"http://papers.numpy.example/{name}"}  # fmt: skip
            found.append(Record(name, text, meta))
    return _shuffled(found)
