"""Hooks of the site (mkdocs.yml): README.md is its first page, and links between the files of the repository stay links there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
}
"""Pages that lie outside docs/, and their names in the site."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside docs/."""
    for path, name in OUTSIDE.items():
        folder = str(Path(path).parent)
        text = _moved((ROOT / path).read_text(), "" if folder == "." else f"{folder}/")
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links of pages in docs/ to those outside."""
    return markdown if page.file.src_uri in OUTSIDE.values() else _moved(markdown, "docs/")


def _moved(text: str, folder: str) -> str:
    """The text of a page of `folder` with its links as they are in the site, where all pages lie in one folder."""

    def link(found: re.Match[str]) -> str:
        target, _, anchor = found[1].partition("#")
        if not target or "://" in target:
            return found[0]
        path = (ROOT / folder / target).resolve().relative_to(ROOT).as_posix()
        name = OUTSIDE.get(path) or path.removeprefix("docs/")
        return f"]({name}{'#' if anchor else ''}{anchor})"

    return re.sub(r"\]\(([^)\s]+)\)", link, text)
