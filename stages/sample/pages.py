"""Whole web pages around real text: head, scripts, navigation, breadcrumbs, sidebar, footer.

Three layouts (HTML5 elements, classed divs, tables), as sites differ; a site keeps to one. All hosts are under the
reserved domain `.example`: the text is real, the sites are not.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass

from stages.sample.docs import Article
from stages.sample.environment import rank
from stages.sample.services import Service, crawled_operations

BODY_TARGET = 11_000  # characters of main content at which a page takes no more nested structures


@dataclass(frozen=True)
class Page:
    """A page of the crawl: its URL and its bytes, with what the server said of them."""

    url: str
    body: bytes
    content_type: str = "text/html; charset=utf-8"
    status: str = "200 OK"
    planted: str | None = None


@dataclass(frozen=True)
class Site:
    """What all pages of one site have in common."""

    host: str
    name: str
    sections: Sequence[tuple[str, str]]  # (link, label) of the navigation bar

    @property
    def layout(self) -> int:
        """Which of the layouts the site uses."""
        return rank(self.host) % len(_LAYOUTS)


_e = html.escape

_STYLE = (
    "body{font-family:Helvetica,Arial,sans-serif;margin:0;color:#222}.wrap{max-width:72em;margin:0 auto}"
    "nav ul li{display:inline-block;padding:.4em 1em}code{background:#f4f4f4}dt{font-weight:bold;margin-top:1em}"
)
_SCRIPT = (
    "(function(){var q=window.dataQueue=window.dataQueue||[];q.push(['page',document.title]);"
    "document.addEventListener('DOMContentLoaded',function(){var m=document.getElementById('menu');"
    "if(m){m.addEventListener('click',function(e){e.preventDefault();document.body.classList.toggle('open');});}"
    "var n=document.querySelectorAll('a[rel=external]');for(var i=0;i<n.length;i++){n[i].target='_blank';}});})();"
)
_COOKIES = "We use cookies to remember your settings. By using this site you accept them."


def _links(items: Sequence[tuple[str, str]]) -> str:
    return "".join(f'<li><a href="{_e(link)}">{_e(label)}</a></li>\n' for link, label in items)


def _head(site: Site, title: str, url: str, planted: str | None) -> str:
    data = {"@context": "https://schema.org", "@type": "TechArticle", "headline": title, "url": url}
    mark = f'<meta name="headrace-planted" content="{_e(planted)}">\n' if planted else ""
    return (
        f'<head>\n<meta charset="utf-8">\n<title>{_e(title)} - {_e(site.name)}</title>\n{mark}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="canonical" href="{_e(url)}">\n<link rel="stylesheet" href="/static/site.css">\n'
        f"<style>{_STYLE}</style>\n"
        f'<script type="application/ld+json">{json.dumps(data)}</script>\n<script>{_SCRIPT}</script>\n</head>\n'
    )


def _semantic(site: Site, title: str, main: str, related: Sequence[tuple[str, str]], crumbs: str) -> str:
    return (
        f'<body>\n<header class="site-header"><a href="/"><img src="/static/logo.svg" alt="{_e(site.name)} logo"></a>\n'
        f'<nav class="navbar" role="navigation"><ul>\n{_links(site.sections)}</ul></nav></header>\n'
        f'<nav class="breadcrumbs">{crumbs}</nav>\n'
        f'<main role="main"><article>\n<h1>{_e(title)}</h1>\n{main}\n</article></main>\n'
        f'<aside class="sidebar"><h4>In this section</h4>\n<ul>\n{_links(related)}</ul>\n'
        '<form action="/search"><input name="q" placeholder="Search"><button>Search</button></form></aside>\n'
        f'<div class="cookie-banner">{_COOKIES} <button>Accept</button></div>\n'
        f'<footer class="site-footer"><p>&copy; {_e(site.name)}. All rights reserved.</p>\n'
        '<ul><li><a href="/about">About</a></li><li><a href="/privacy">Privacy</a></li>'
        '<li><a href="/terms">Terms of use</a></li><li><a href="/contact">Contact</a></li></ul></footer>\n</body>\n'
    )


def _divs(site: Site, title: str, main: str, related: Sequence[tuple[str, str]], crumbs: str) -> str:
    return (
        f'<body class="docs">\n<div id="header" class="header"><div class="logo">{_e(site.name)}</div>\n'
        f'<div id="menu" class="menu"><ul class="nav">\n{_links(site.sections)}</ul></div></div>\n'
        f'<div id="sidebar" class="sidebar"><div class="widget"><h3>Contents</h3><ul>\n{_links(related)}</ul></div>\n'
        '<div class="widget newsletter"><h3>Newsletter</h3><p>Get our updates every month.</p>'
        '<input type="email"><button>Subscribe</button></div></div>\n'
        f'<div class="breadcrumb">{crumbs}</div>\n'
        f'<div id="content" class="content"><div class="post">\n<h1 class="title">{_e(title)}</h1>\n'
        f'<div class="entry-content">\n{main}\n</div>\n'
        '<div class="share"><a href="#" class="btn">Share</a> <a href="#" class="btn">Print</a></div></div></div>\n'
        f'<div id="footer" class="footer"><p>Copyright {_e(site.name)} | <a href="/imprint">Imprint</a> | '
        '<a href="/privacy">Privacy policy</a></p><p>Powered by a static site generator</p></div>\n'
        f'<script src="/static/bundle.js"></script>\n<noscript>Please turn on JavaScript.</noscript>\n</body>\n'
    )


def _tables(site: Site, title: str, main: str, related: Sequence[tuple[str, str]], crumbs: str) -> str:
    bar = " | ".join(f'<a href="{_e(link)}">{_e(label)}</a>' for link, label in site.sections)
    side = "<br>\n".join(f'<a href="{_e(link)}">{_e(label)}</a>' for link, label in related)
    return (
        '<body bgcolor="#ffffff">\n<table width="100%" class="navigation"><tr>'
        f'<td><img src="/img/logo.gif" alt="{_e(site.name)}" width="88" height="31"></td><td>{bar}</td></tr></table>\n'
        f'<table width="100%"><tr valign="top"><td width="160" class="sidebar">{side}</td>\n'
        f'<td class="main"><p class="breadcrumbs">{crumbs}</p>\n<h1>{_e(title)}</h1>\n{main}\n</td></tr></table>\n'
        f'<hr>\n<div class="footer"><small>{_e(site.name)}. Page generated automatically. '
        '<a href="mailto:webmaster@docs.example">Webmaster</a></small></div>\n</body>\n'
    )


_LAYOUTS = (_semantic, _divs, _tables)


def web_page(
    site: Site,
    path: str,
    title: str,
    main: str,
    related: Sequence[tuple[str, str]] = (),
    crumbs: Sequence[str] = (),
    planted: str | None = None,
    language: str = "en",
) -> Page:
    """A whole page, UTF-8, around the main content `main` (HTML)."""
    url = f"http://{site.host}{path}"
    trail = " &raquo; ".join(['<a href="/">Home</a>', *(_e(crumb) for crumb in crumbs), f"<b>{_e(title)}</b>"])
    body = _LAYOUTS[site.layout](site, title, main, related, trail)
    text = f'<!DOCTYPE html>\n<html lang="{language}">\n{_head(site, title, url, planted)}{body}</html>\n'
    return Page(url, text.encode(), planted=planted)


# What a page of documentation opens a section with, worded by site as different writers would.
_HEADINGS = (
    ("Request parameters", "Response elements", "Errors", "Data types used"),
    ("Inputs", "Results", "When it fails", "Structures"),
    ("Parameters", "Returned values", "Exceptions", "Related types"),
)


def _members(members: Sequence[tuple[str, str, bool, str]], shown: set[str]) -> str:
    """A definition list of the members whose text the page does not show yet; "" where that leaves none."""
    rows = []
    for name, kind, required, text in members:
        if text not in shown:
            shown.add(text)
            need = ", required" if required else ""
            rows.append(f"<dt><code>{_e(name)}</code> (<i>{_e(kind)}</i>{need})</dt>\n<dd>{text}</dd>\n")
    return f"<dl>\n{''.join(rows)}</dl>\n" if rows else ""


def operation_main(service: Service, operation: str) -> str:
    """The main content of an operation's page: description, parameters, results, errors, and structures as fits."""
    inputs, results, errors, types = _HEADINGS[rank(service.name) % len(_HEADINGS)]
    parts = [service.documentation(operation)]
    shown: set[str] = set()
    for heading, side in ((inputs, "input"), (results, "output")):
        if members := _members(service.members(operation, side), shown):
            parts.append(f"<h2>{heading}</h2>\n{members}")
    if found := service.errors(operation):
        rows = "".join(f"<tr><td><code>{_e(name)}</code></td><td>{text}</td></tr>\n" for name, text in found)
        parts.append(f'<h2>{errors}</h2>\n<table class="errors"><tr><th>Name</th><th>Meaning</th></tr>\n{rows}</table>')
    size = sum(map(len, parts))
    heading = f"<h2>{types}</h2>\n"
    for shape in service.nested(operation):
        seen = set(shown)
        text = service.model["shapes"][shape].get("documentation", "")
        text = f"<h3>{_e(shape)}</h3>\n{'' if text in seen else text}\n{_members(service.shape_members(shape), seen)}"
        if size + len(text) > BODY_TARGET:
            continue
        parts.append(heading + text)
        heading, shown = "", seen
        size += len(text)
    return "\n".join(parts)


def service_pages(service: Service, max_chars: int) -> list[Page]:
    """The crawled pages of a service: its front page and its operations, but for any of over `max_chars` of content."""
    site = Site(
        host=f"{service.name}.services.example",
        name=f"{service.title} documentation",
        sections=[
            (f"/{name.lower()}/", name) for name in ("Guide", "Reference", "Pricing", "Forum", "Blog", "Sign in")
        ],
    )
    operations = crawled_operations(service)
    link = f"/{service.api}/reference"
    pages = []
    if service.overview:
        items = "".join(f'<li><a href="{link}/{name}.html">{name}</a></li>\n' for name in operations)
        main = f"{service.overview}\n<h2>Operations</h2>\n<ul>{items}</ul>\n"
        pages.append(web_page(site, f"/{service.api}/index.html", service.title, main))
    for position, operation in enumerate(operations):
        main = operation_main(service, operation)
        if len(main) > max_chars:
            continue
        near = operations[max(position - 6, 0) : position + 7]
        related = [(f"{link}/{name}.html", name) for name in near if name != operation]
        crumbs = (service.title, f"Edition {service.api}")
        pages.append(web_page(site, f"{link}/{operation}.html", operation, main, related, crumbs))
    return pages


_PYTHON = [("/library/", "Library"), ("/reference/", "Reference"), ("/howto/", "How-to"), ("/faq/", "FAQ")]


def pydoc_pages(modules: Sequence[Article]) -> list[Page]:
    """pydoc's pages of standard library modules, each within its site's frame."""
    site = Site("pydoc.python.example", "Python library", _PYTHON)
    links = [(f"/library/{article.name}.html", article.name) for article in modules]
    return [
        web_page(site, links[i][0], article.title, article.text, links[max(i - 8, 0) : i + 8], ("Library",))
        for i, article in enumerate(modules)
    ]


def _rendered(text: str) -> str:
    """Plain text of pydoc's topics as HTML: indented blocks stay as they are, other blocks become paragraphs."""
    parts = []
    lines: Sequence[str] = text.strip("\n").split("\n")
    for block in "\n".join(lines).split("\n\n"):
        if not block.strip():
            continue
        first = block.lstrip("\n")
        rows = first.split("\n")
        if len(rows) == 2 and set(rows[1].strip()) <= set("*=-~^") and rows[1].strip():
            parts.append(f"<h2>{_e(rows[0].strip())}</h2>")
        elif first.startswith("* "):
            parts.append(f"<ul><li>{_e(' '.join(first[2:].split()))}</li></ul>")
        elif first.startswith("   ") and ("::=" in first or ">>>" in first or "(" in first.split("\n")[0]):
            parts.append(f"<pre>{_e(first)}</pre>")
        else:
            parts.append(f"<p>{_e(' '.join(first.split()))}</p>")
    return "\n".join(parts)


def topic_pages(topics: Sequence[Article]) -> list[Page]:
    """Chapters of the language reference as pages of a site."""
    site = Site("reference.python.example", "The language, chapter by chapter", _PYTHON)
    links = [(f"/topics/{article.name}.html", article.title) for article in topics]
    return [
        web_page(site, links[i][0], article.title, _rendered(article.text), links[max(i - 5, 0) : i + 5], ("Topics",))
        for i, article in enumerate(topics)
    ]


def package_pages(package: str, articles: Sequence[Article]) -> list[Page]:
    """A package's documentation by module, as pages of its site."""
    sections = [
        ("/start/", "Getting started"),
        ("/api/", "API"),
        ("/examples/", "Examples"),
        ("/community/", "Community"),
    ]
    site = Site(f"{package.replace('_', '-')}.packages.example", f"{package} documentation", sections)
    links = [(f"/api/{article.name}.html", article.name) for article in articles]
    return [
        web_page(site, links[i][0], article.title, _rendered(article.text), links[max(i - 7, 0) : i + 7], ("API",))
        for i, article in enumerate(articles)
    ]
