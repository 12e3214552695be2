"""Write the sample: a small mixture of real text, in the shapes of the seven sources that it stands for.

`write_sample(folder)` collects it from what is installed (docs/sample.md), offline. The same environment gives the same
bytes, and a folder that holds this environment's sample is left as it is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypedDict

from stages.errors import UserError
from stages.sample import collect, plants
from stages.sample.docs import PydocPages
from stages.sample.environment import describe
from stages.sample.files import WRITERS
from stages.sample.pages import Page
from stages.sample.records import Record

REPORT = "sample.json"
Progress = Callable[[str, int, int], None]

# Source -> how its files are named (`*` is a number), and how the readers are told to read them.
SOURCES: dict[str, tuple[str, dict[str, Any]]] = {
    "dclm": ("dclm/crawl-*.warc.gz", {"format": "warc"}),
    "starcoder": (
        "starcoder/train-*.parquet",
        {"format": "parquet", "text_field": "content", "id_field": "id", "url_field": None},
    ),
    "pes2o": ("pes2o/pes2o-*.jsonl.gz", {"format": "jsonl", "id_field": "id", "url_field": "metadata.url"}),
    "arxiv": ("arxiv/arxiv-*.jsonl.zst", {"format": "jsonl", "id_field": "meta.arxiv_id", "url_field": "meta.url"}),
    "open_web_math": ("open_web_math/train-*.jsonl.zst", {"format": "jsonl", "id_field": "url", "url_field": "url"}),
    "algebraic_stack": (
        "algebraic_stack/python-*.jsonl.zst",
        {"format": "jsonl", "id_field": None, "url_field": None},
    ),
    "wiki": ("wiki/wiki-*.jsonl.gz", {"format": "jsonl", "id_field": "id", "url_field": "metadata.url"}),
}
FILES = {"dclm": 8, "starcoder": 4}  # in how many files a source comes, where these are not two


def sample_sources() -> dict[str, dict[str, Any]]:
    """For each source where its files are, relative to the sample's folder, and its `read` settings for a recipe.

    {source: {"paths": [glob], "read": {"format": ..., "text_field": ..., "id_field": ..., "url_field": ...}}}
    """
    return {name: {"paths": [files], "read": dict(read)} for name, (files, read) in SOURCES.items()}


class Written(TypedDict):
    """What was written of a source. bytes: of text (of the crawl: of HTML). files: SHA-256 by name."""

    documents: int
    planted: int
    bytes: int
    files: dict[str, str]


class Report(TypedDict):
    """`sample.json`. environment: what the texts were collected from."""

    environment: dict[str, object]
    sources: dict[str, Written]


def write_sample(folder: Path, on_progress: Progress | None = None) -> Report:
    """Collect the sample into `folder`, unless it holds this environment's already; returns its report.

    `on_progress(source, documents, bytes)` is called after each source is written. All is written beside the folder and renamed.
    Raises UserError where the folder holds something else, or cannot be written.
    """
    folder = Path(folder)
    environment = describe()
    found = _report(folder)
    if found is not None and found.get("environment") == environment and _complete(folder, found):
        return found
    if found is None and folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} holds other files than the sample's: name another folder, or remove it")
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        temporary.mkdir(parents=True, exist_ok=True)
        report: Report = {"environment": environment, "sources": _write_all(temporary, on_progress)}
        (temporary / REPORT).write_text(json.dumps(report, indent=1) + "\n")
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST) and (other := _report(folder)) is not None:
            return other  # another process wrote it meanwhile
        raise UserError(f"the sample cannot be written to {folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return report


def _report(folder: Path) -> Report | None:
    try:
        return json.loads((folder / REPORT).read_text())
    except (OSError, ValueError):
        return None


def _complete(folder: Path, report: Report) -> bool:
    return all((folder / file).is_file() for source in report["sources"].values() for file in source["files"])


def _write_all(folder: Path, on_progress: Progress | None) -> dict[str, Written]:
    written: dict[str, Written] = {}

    def write(source: str, documents: Sequence[Page] | Sequence[Record]) -> None:
        (folder / source).mkdir()
        files = {}
        parts = FILES.get(source, 2)
        for part in range(parts):
            name = SOURCES[source][0].replace("*", f"{part:05d}")
            rows = documents[part * len(documents) // parts : (part + 1) * len(documents) // parts]
            data = WRITERS[source](rows, name)
            (folder / name).write_bytes(data)
            digest = hashlib.sha256(data)
            files[name] = digest.hexdigest()
            _set_time(folder / name, digest.digest())
        size = sum(len(d.body) if isinstance(d, Page) else len(d.text.encode()) for d in documents)
        planted = sum(document.planted is not None for document in documents)
        written[source] = {"documents": len(documents), "planted": planted, "bytes": size, "files": files}
        if on_progress is not None:
            on_progress(source, len(documents), size)

    with closing(PydocPages()) as pydoc:  # a process of its own, at work while the rest is collected
        code, numerical = collect.starcoder(), collect.algebraic_stack()
        collection = collect.Collection()
        papers, encyclopedia = collection.pes2o(), collection.wiki()
        maths, latex = collect.open_web_math(), collect.arxiv()
        write("starcoder", plants.inserted(code, plants.code_plants(code)))
        write("algebraic_stack", plants.inserted(numerical, plants.code_plants(numerical, code)))
        write("pes2o", plants.inserted(papers, plants.prose_plants(papers, encyclopedia)))
        write("wiki", plants.inserted(encyclopedia, plants.prose_plants(encyclopedia, papers)))
        write("open_web_math", plants.inserted(maths, plants.prose_plants(maths, encyclopedia)))
        write("arxiv", plants.inserted(latex, plants.prose_plants(latex, maths)))
        pages = collection.dclm(pydoc.articles())
    write("dclm", plants.inserted(pages, plants.crawl_plants(pages)))
    return {source: written[source] for source in SOURCES}


def _set_time(path: Path, digest: bytes) -> None:
    """Give a file a time that follows from its content alone.

    A run tells a changed input by size and time: so a sample collected anew is the input that it was before.
    """
    seconds = 1_704_067_200 + int.from_bytes(digest[:3], "big")  # within 194 days of 2024-01-01
    os.utime(path, ns=(nanoseconds := seconds * 10**9 + int.from_bytes(digest[3:6], "big") * 50, nanoseconds))
