"""The step `extract`: the main text of a crawled page."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, PositiveFloat, PositiveInt

from stages.charset import NOT_COUNTED, as_dclm, decode
from stages.document import DOCUMENT, text_array, text_buffers
from stages.errors import DocumentsFailed
from stages.extract import supervisor
from stages.step import Bounds, Labels, Limit, Measures, Step, limit
from stages.units import Bytes
from stages.user_code import code_digest

if TYPE_CHECKING:  # its kernels are imported by the runs that use them
    from stages.extract import blocks

_LOCK = threading.Lock()
_RUNNING: dict[tuple[int, supervisor.Settings], supervisor.Supervisor] = {}


class Extract(Step):
    """Main text of HTML pages by Resiliparse, by a model of blocks, or by a function of your own.

    Rows whose `html` is null hold text already and stay as they are. Resiliparse and functions work in a process of their
    own: a page that makes the parser raise, crash, hang or run out of memory fails alone (DocumentsFailed). The engine
    `blocks` (stages/extract/blocks.py) is bounded in time and memory and works in this process. Measures: characters of
    the text, bytes of the page, and how many characters of the page were put in place of bytes that mean nothing in its
    encoding (null where nothing was decoded).
    """

    step: ClassVar[str] = "extract"
    other_measures: ClassVar[Mapping[str, str]] = {"page_bytes": "Bytes of the page; the key `max_page_bytes` limits it."}
    takes_pages: ClassVar[bool] = True
    version: ClassVar[int] = 2
    tallies: ClassVar[tuple[str, ...]] = ("replaced",)

    engine: str = Field(default="resiliparse", pattern=r"^resiliparse$|^blocks$|^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")
    """`resiliparse`, `blocks`, or `module:function`, a function of your own from HTML (str) to text (None: empty)."""
    main_content: bool = True
    """resiliparse: take the main text alone, as DCLM does. This and the next nine are options of its
    extract_plain_text, with its defaults but for this one."""
    preserve_formatting: bool | Literal["minimal_html"] = True
    """resiliparse: keep line breaks and the space of blocks."""
    list_bullets: bool = True
    """resiliparse: put bullets before the items of lists."""
    alt_texts: bool = True
    """resiliparse: take the texts that stand for images."""
    links: bool = False
    """resiliparse: write the addresses of links behind them."""
    form_fields: bool = False
    """resiliparse: take form fields and their values."""
    noscript: bool = False
    """resiliparse: take what stands in <noscript>."""
    comments: bool = True
    """resiliparse: treat sections of comments as main text."""
    post_meta: bool = True
    """resiliparse: keep the data of a post (author, date) in its main text."""
    skip_elements: tuple[str, ...] = ()
    """resiliparse: CSS selectors of elements to leave out."""
    math: Literal["dollars", "brackets", "none"] = "dollars"
    """blocks: what stands around TeX: $ and $$, \\( and \\[, or nothing."""
    headline: bool = False
    """blocks: take the page's first <h1> as text."""
    page_metadata: bool = True
    """blocks: put title, date, author, language, robots rules and licences into `metadata`, under `page`."""
    charset: Literal["declared", "as_dclm"] = "declared"
    """How bytes become characters. `declared`: as UTF-8, then as header and page declare, as browsers do, then by a
    detector. `as_dclm`: by Resiliparse's detector alone, which takes damaged UTF-8 for other things."""

    max_page_bytes: Bytes = Field(default=16 << 20, gt=0)
    """Larger pages are dropped unread; the measure is `page_bytes`."""
    page_seconds: PositiveFloat = 10.0
    """CPU time after which a page is given up."""
    memory_mb: PositiveInt | None = 2048
    """Address space of the parsing process, in MiB."""
    characters: Limit = limit(min=1)
    """Characters of the text."""
    replaced: Limit = limit()
    """Characters of the page put in place of bytes that mean nothing in its encoding; null where nothing was decoded."""

    def limits(self) -> dict[str, Bounds | Labels]:
        """Page size is no Limit field, since raising it must extract again; but it drops pages like one."""
        return {"page_bytes": Bounds(max=self.max_page_bytes), **super().limits()}

    def code(self) -> str | None:
        """A hash of the code of an extractor of the user's own. Raises UserError where it is not found."""
        return code_digest(self.engine) if ":" in self.engine else None

    def prepare(self) -> None:
        if self.engine == "blocks":
            from stages.extract import blocks

            blocks.prepare()
            return
        with _LOCK:
            self._supervisor().start(self.code())

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        if "html" not in docs.schema.names:
            return docs, {"characters": _characters(docs.column("text"))}
        html = docs.column("html")
        data, offsets = text_buffers(html)
        sizes = np.diff(offsets)
        is_page = np.asarray(pc.is_valid(html))
        rows = np.flatnonzero(is_page & (sizes <= self.max_page_bytes))
        charsets = docs.column("charset").to_pylist()
        spans = [(int(offsets[row]), int(offsets[row + 1]), charsets[row]) for row in rows]
        others = docs.drop_columns(["html", "charset"])
        done: supervisor.Texts | blocks.Extracted
        if self.engine == "blocks":
            done = self._by_blocks(data, spans)
            if self.page_metadata:
                from stages.extract.page_metadata import add_page_metadata

                others = add_page_metadata(others, rows, done.metadata)
        else:
            with _LOCK:
                done = self._supervisor().extract(data, spans)
        text = _merge(docs.column("text"), rows, done.texts)
        batch = others.set_column(DOCUMENT.get_field_index("text"), DOCUMENT.field("text"), text)
        measures = {
            "characters": _characters(text),
            "page_bytes": np.where(is_page, sizes, text_sizes(text)),
            "replaced": _at_rows(len(text), rows, done.replaced),
        }
        failures = [replace(failure, row=int(rows[failure.row])) for failure in done.failures]
        if not failures:
            return batch, measures
        kept = np.ones(docs.num_rows, bool)
        kept[[failure.row for failure in failures]] = False
        stay = pa.array(kept)
        measures = {name: pa.array(values).filter(stay) for name, values in measures.items()}
        raise DocumentsFailed(failures, (batch.filter(stay), measures), np.flatnonzero(kept))

    def _by_blocks(self, data: np.ndarray, spans: list[tuple[int, int, str | None]]) -> blocks.Extracted:
        from stages.extract import blocks

        text_of = decode if self.charset == "declared" else as_dclm
        pages = (text_of(data[start:stop].tobytes(), charset) for start, stop, charset in spans)
        return blocks.extract_pages(pages, blocks.Options(self.math, self.headline))

    def _supervisor(self) -> supervisor.Supervisor:
        """This process's parsing process for these settings; a forked process starts its own."""
        settings = supervisor.Settings(
            engine=self.engine,
            charset=self.charset,
            options=(
                ("main_content", self.main_content),
                ("preserve_formatting", self.preserve_formatting),
                ("list_bullets", self.list_bullets),
                ("alt_texts", self.alt_texts),
                ("links", self.links),
                ("form_fields", self.form_fields),
                ("noscript", self.noscript),
                ("comments", self.comments),
                ("post_meta", self.post_meta),
                ("skip_elements", self.skip_elements or None),
            ),
            page_seconds=self.page_seconds,
            memory_bytes=self.memory_mb << 20 if self.memory_mb else None,
        )
        key = (os.getpid(), settings)
        if key not in _RUNNING:
            _RUNNING[key] = supervisor.Supervisor(settings)
        return _RUNNING[key]


def text_sizes(text: pa.Array) -> np.ndarray:
    """Bytes of each text."""
    return np.diff(text_buffers(text)[1])


def _characters(text: pa.Array) -> np.ndarray:
    return np.asarray(pc.utf8_length(text), np.int64)


def _at_rows(length: int, rows: np.ndarray, values: list[int]) -> pa.Array:
    """An int64 column with these counts in the given rows, and nulls elsewhere, and where nothing was counted."""
    column = np.full(length, NOT_COUNTED)
    column[rows] = values
    return pa.array(column, mask=column == NOT_COUNTED)


def _merge(text: pa.Array, rows: np.ndarray, texts: list[bytes]) -> pa.Array:
    """The column `text` with the given rows replaced."""
    values: list[bytes] = texts
    if len(rows) < len(text):
        values = text.cast(pa.large_binary()).to_pylist()
        for row, value in zip(rows, texts, strict=True):
            values[row] = value
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    return text_array(np.frombuffer(b"".join(values), np.uint8), offsets)


@atexit.register
def close_all() -> None:
    """End this process's parsing processes."""
    for (process, _), running in list(_RUNNING.items()):
        if process == os.getpid():
            running.close()
            del _RUNNING[process, running.settings]
