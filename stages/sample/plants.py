"""Documents written for the project, so that each stage has something to do; each is marked with its kind.

A planted page's URL is under http://planted.example/KIND/, and an HTML page has the kind in its `headrace-planted` meta
tag besides; a planted record of another source has it as `planted` in its metadata. Copies of real documents count as
planted. Nothing is random: number N of a kind is always the same, and of copies the same for the same originals.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from stages.sample.pages import Page, Site, web_page
from stages.sample.plant_texts import CODE_WORDS, ENGLISH, LANGUAGES, OTHER_WORDS, SPAM_WORDS
from stages.sample.records import Record

HOST = "planted.example"
HUGE_PAGE = 5_000_000  # bytes
_SITE = Site(HOST, "Planted pages", [("/", "Start"), ("/list", "All pages")])

_OLD_ENCODINGS = (("ja", "shift_jis"), ("ru", "windows-1251"), ("zh", "gb18030"), ("pl", "iso-8859-2"))


# What is wrong with a text, whatever holds it: kind -> (how many, number -> paragraphs).


def _turned(texts: Sequence[str], number: int, count: int) -> list[str]:
    """`count` of the texts in order, beginning at one that depends on `number`."""
    return [texts[(number + i) % len(texts)] for i in range(count)]


def _repeated_lines(number: int) -> list[str]:
    line = _turned(ENGLISH, number, 1)[0].split(". ")[0] + "."
    return [line] * (12 + number) + _turned(ENGLISH, number, 2)


def _repeated_paragraphs(number: int) -> list[str]:
    return _turned(ENGLISH, number, 2) * (3 + number % 3)


def _repeated_ngrams(number: int) -> list[str]:
    words = _turned(ENGLISH, number, 1)[0].split()[: 2 + number % 9]
    return [" ".join(words * (40 + number)), *_turned(ENGLISH, number, 1)]


def _keywords(number: int) -> list[str]:
    count = len(SPAM_WORDS)
    picked = [SPAM_WORDS[(number * 7 + i * (3 + number % 4)) % count] for i in range(220)]
    return [", ".join(picked[start : start + 44]) for start in range(0, 220, 44)]


def _ellipses(number: int) -> list[str]:
    pieces = " ".join(_turned(ENGLISH, number, 3)).split(". ")
    return [f"{piece[: 60 + number]}..." for piece in pieces]


def _bullets(number: int) -> list[str]:
    pieces = " ".join(_turned(ENGLISH, number, 4)).split(", ")
    return [f"{'●•*-'[number % 4]} {piece}" for piece in pieces]


def _symbols(number: int) -> list[str]:
    words = " ".join(_turned(ENGLISH, number, 2)).split()
    return [" ".join(f"#{word}" if i % (2 + number % 2) == 0 else word for i, word in enumerate(words))]


def _long_words(number: int) -> list[str]:
    words = " ".join(_turned(ENGLISH, number, 3)).replace("-", " ").split()
    width = 3 + number % 3
    return [" ".join("".join(words[i : i + width]) for i in range(0, len(words), width)) + " the and of with"]


def _numbers(number: int) -> list[str]:
    rows = (" ".join(str((number + 3) * (i + 7) * (j + 11) % 9973) for j in range(12)) for i in range(20))
    return ["The table of the water levels, and what was measured with them:", *rows]


def _counters(number: int) -> list[str]:
    lines = _turned(ENGLISH, number, 2)
    for i in range(12):
        lines.insert(
            i % 3, f"{(i + number) * 13 % 97 + 1}{('', '.2K', 'K')[i % 3]} {('likes', 'views', 'shares')[i % 3]}"
        )
    return [*lines, "SHARE THIS PAGE WITH EVERYONE", "Sign-in", "0 items in cart", "Read more..."]


def _short(number: int) -> list[str]:
    return [" ".join(ENGLISH[number % len(ENGLISH)].split()[: 8 + 3 * number]) + "."]


def _addresses(number: int) -> list[str]:
    text = _turned(ENGLISH, number, 3)
    links = (f"http://www.mills-{number}.example/page/{i}?ref=home&id={i * 37}" for i in range(3))
    return [
        f"{paragraph} See {link} or 192.0.2.{number} for more." for paragraph, link in zip(text, links, strict=True)
    ]


TEXTS: dict[str, tuple[int, Callable[[int], list[str]]]] = {
    "repeated_lines": (8, _repeated_lines),
    "repeated_paragraphs": (6, _repeated_paragraphs),
    "repeated_ngrams": (9, _repeated_ngrams),
    "keywords": (8, _keywords),
    "ellipses": (5, _ellipses),
    "bullets": (5, _bullets),
    "symbols": (5, _symbols),
    "long_words": (5, _long_words),
    "numbers": (4, _numbers),
    "counters": (6, _counters),
    "short": (8, _short),
    "addresses": (4, _addresses),
}


# Copies.


_STEPS = (60, 100, 160)  # words between two changes: with 5-grams, Jaccard similarities from about 0.86 on


def near_copy(text: str, number: int) -> str:
    """The text with a word put in here and there, so that most of its n-grams remain."""
    return _WordsIn(number).into(text)


def near_copy_html(page: str, number: int) -> str:
    """The page with a word put here and there into its longer pieces of text; tags and scripts stay as they are."""
    head, mark, body = page.partition("<body")
    words = _WordsIn(number)
    return head + mark + re.sub(r">([^<>{}]{30,})<", lambda match: f">{words.into(match[1])}<", body)


class _WordsIn:
    """Puts a word in after each so many words, counted over all the pieces of text that it is given."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._step = _STEPS[number % len(_STEPS)]
        self._seen = self._step // 2

    def into(self, text: str) -> str:
        return re.sub(r"\S+", self._after, text)

    def _after(self, match: re.Match[str]) -> str:
        self._seen += 1
        if self._seen % self._step:
            return match[0]
        return f"{match[0]} {OTHER_WORDS[(self._seen // self._step + self._number) % len(OTHER_WORDS)]}"


# Pages.


def _main(paragraphs: Sequence[str]) -> str:
    return "\n".join(f"<p>{html.escape(paragraph)}</p>" for paragraph in paragraphs)


def _page(kind: str, number: int, title: str, main: str, language: str = "en") -> Page:
    return web_page(_SITE, f"/{kind}/{number}", title, main, planted=kind, language=language)


def _raw(kind: str, number: int, body: bytes, content_type: str = "text/html") -> Page:
    return Page(f"http://{HOST}/{kind}/{number}", body, content_type, "200 OK", kind)


def _encoded(kind: str, number: int, text: Sequence[str], encoding: str, declared: str, meta: str = "") -> Page:
    """A page in an old encoding; `declared` is the server's word for it, `meta` the page's own; "" for silence."""
    tag = f'<meta http-equiv="Content-Type" content="text/html; charset={meta}">' if meta else ""
    page = (
        f'<html><head>{tag}<meta name="headrace-planted" content="{kind}"><title>The mill {number}</title></head>\n'
        f"<body><div class='content'><h1>The mill {number}</h1>\n{_main(text)}\n</div></body></html>\n"
    )
    content_type = f"text/html; charset={declared}" if declared else "text/html"
    return _raw(kind, number, page.encode(encoding, "xmlcharrefreplace"), content_type)


def _copied(kind: str, number: int, page: Page, body: str) -> Page:
    """A copy under a planted URL; the mark goes into the head, which no text is taken from."""
    body = body.replace("<head>", f'<head>\n<meta name="headrace-planted" content="{kind}">', 1)
    return Page(f"http://{HOST}/{kind}/{number}", body.encode(), planted=kind)


def crawl_plants(pages: Sequence[Page]) -> list[Page]:
    """All planted pages, given the real ones that some of them copy."""
    out = []
    for language, paragraphs in LANGUAGES.items():
        for number in range(3):
            text = _turned(paragraphs, number, 3)
            out.append(_page(f"language_{language}", number, text[0][:40], _main(text), language))
    for kind, (count, write) in TEXTS.items():
        out += [_page(kind, n, f"{kind.replace('_', ' ')} {n}", _main(write(n))) for n in range(count)]
    out += _broken_pages()
    out.append(_huge(pages))
    # Pages of ordinary size that are mostly prose, not lists of links.
    medium = [p for p in pages if 5_000 <= len(p.body) <= 12_000 and p.body.count(b"<p>") >= 8] or list(pages)
    for number in range(20):
        source = medium[number * len(medium) // 20]
        out.append(_copied("exact_copy", number, source, source.body.decode()))
    for number in range(24):
        source = medium[(number * 2 + 1) * len(medium) // 48]
        out.append(_copied("near_copy", number, source, near_copy_html(source.body.decode(), number)))
    return out


def _broken_pages() -> Iterator[Page]:
    for number in range(3):
        text = [ENGLISH[0], *_turned(ENGLISH[1:], number, 3)]  # the first has letters outside ASCII
        yield _encoded("latin1_declared", number, text, "windows-1252", "iso-8859-1", "iso-8859-1")
        yield _encoded("latin1_undeclared", number, text, "windows-1252", "")
        yield _encoded("latin1_as_utf8", number, text, "windows-1252", "utf-8", "utf-8")
    for number, (language, encoding) in enumerate(_OLD_ENCODINGS):
        yield _encoded("old_encoding", number, LANGUAGES[language], encoding, "", encoding)
    for number in range(2):
        text = [paragraph.encode().decode("latin-1") for paragraph in (ENGLISH[0], *_turned(ENGLISH[1:], number, 3))]
        yield _page("mojibake", number, f"mojibake {number}", _main(text))
    for number in range(3):
        yield _page("empty", number, "", "")
    yield _raw("empty", 3, b"")
    unclosed = "".join(f"<div><p><b>{paragraph}<table><tr><td>" for paragraph in ENGLISH)
    yield _raw("unclosed_tags", 0, f"<title>The mill</title>{unclosed}".encode())
    yield _raw("deep_nesting", 0, (b"<div>" * 2_000) + _main(ENGLISH).encode() + (b"</div>" * 2_000))
    yield _raw(
        "not_html", 0, b"%PDF-1.4\n1 0 obj << /Type /Catalog >> endobj\ntrailer << /Root 1 0 R >>\n", "application/pdf"
    )
    yield _raw("not_html", 1, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "image/png")
    yield _raw("not_html", 2, b'{"mill": "open", "wheel": 12}', "application/json")
    for number in range(3):
        page = _page("not_found", number, "Page not found", "<p>The page that you asked for is not here.</p>")
        yield replace(page, status="404 Not Found")


def _huge(pages: Sequence[Page]) -> Page:
    """One page that strings the content of many together until it has `HUGE_PAGE` bytes."""
    parts = []
    size = 0
    while size < HUGE_PAGE:
        before = size
        for page in pages:
            text = page.body.decode()
            main = text[text.find("<h1") : text.find("<footer")] if "<footer" in text else ""
            parts.append(main)
            size += len(main)
            if size >= HUGE_PAGE:
                break
        if size == before:  # no page of this layout, in a very small collection
            parts.append(_main(ENGLISH))
            size += len(parts[-1])
    return _page("huge", 0, "All in one page", "\n".join(parts))


# Records of the other sources.


def _record(kind: str, number: int, text: str, like: Record) -> Record:
    own = {"url": f"http://{HOST}/{kind}/{number}", "arxiv_id": f"planted.{kind}.{number}", "title": kind}
    meta = {key: own.get(key, value) for key, value in like.meta.items()}
    return Record(f"planted/{kind}/{number}", text, meta, kind)


def prose_plants(records: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """Planted documents of a source of prose: of each wrong kind one, and copies of its own records and of `others`."""
    like = records[0]
    out = [_record(f"language_{name}", 0, "\n\n".join(LANGUAGES[name]) + "\n", like) for name in ("de", "fr", "zh")]
    for kind in ("repeated_ngrams", "repeated_lines", "short"):
        out.append(_record(kind, 0, "\n\n".join(TEXTS[kind][1](0)) + "\n", like))
    out.append(_record("periodic_tokens", 0, f"{ENGLISH[0]}\n\n{'= ' * 400}\n\n{ENGLISH[1]}\n", like))
    out.append(_record("empty", 0, "", like))
    for number in range(2):
        own = records[(number * 2 + 1) * len(records) // 4]
        out.append(_record("exact_copy", number, own.text, own))
        out.append(_record("near_copy", number, near_copy(own.text, number), own))
    for number, other in enumerate(others[len(others) // 3 :][:3]):
        out.append(_record("cross_copy", number, other.text, like))
    return out


def _dominated(number: int, words: int) -> str:
    """Code where one word is 60% of all words, or where two are 29% each."""
    lines = []
    for i in range(60):
        left = CODE_WORDS[(number + i) % len(CODE_WORDS)]
        if words == 1:
            lines.append(f"push push push {left}_{i} ;")
        else:
            lines.append(f"load store load store {left}_{i} {i} {i + 1000}")
    return "\n".join(lines) + "\n"


def code_plants(records: Sequence[Record], others: Sequence[Record] = ()) -> list[Record]:
    """Planted source files: dominated by one word or by two, repetitive, empty, huge, copies in other repositories."""
    like = records[0]
    out = [_record("one_word", n, _dominated(n, 1), like) for n in range(5)]
    out += [_record("two_words", n, _dominated(n, 2), like) for n in range(5)]
    for number in range(2):
        # Five values in turn: none dominates, so the StarCoder rule lets it pass; the period is about ten tokens.
        table = ", ".join([str(value + number) for value in range(1, 6)] * 200)
        out.append(_record("periodic_tokens", number, f"static const int table[] = {{\n{table}\n}};\n", like))
    out.append(_record("empty", 0, "", like))
    out.append(_record("empty", 1, " \n\n\t\n", like))
    rows = (f"row_{i} = [{', '.join(str(i * j * 7919 % 10007) for j in range(1, 13))}]\n" for i in range(8_000))
    out.append(_record("huge", 0, "".join(rows), like))
    for number in range(4):
        own = records[(number * 2 + 1) * len(records) // 8]
        out.append(_record("exact_copy", number, own.text, own))
        out.append(_record("near_copy", number, f"# Taken from another project, part {number}.\n{own.text}", own))
    for number, other in enumerate(others[len(others) // 3 :][:3]):
        out.append(_record("cross_copy", number, other.text, like))
    # Stars and repository of a planted file are its own: it must reach the filter that it was made for.
    if "max_stars_count" in like.meta:
        repository = {"max_stars_repo_name": "planted/code", "max_stars_count": 5}
        out = [replace(r, meta={**r.meta, **repository, "max_stars_repo_path": f"{r.id}.txt"}) for r in out]
    return out


def inserted(real: Sequence, planted: Sequence) -> list:
    """The planted documents spread evenly among the real ones, which keep their order."""
    out = []
    step = max(len(real) // (len(planted) + 1), 1)
    waiting = iter(planted)
    for i, document in enumerate(real):
        out.append(document)
        if i % step == step - 1 and (extra := next(waiting, None)) is not None:
            out.append(extra)
    return [*out, *waiting]
