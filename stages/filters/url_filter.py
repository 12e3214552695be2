"""DCLM's URL filters: banned hosts, and words that a URL must not hold."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import PrivateAttr, model_validator

from stages.document import text_buffers
from stages.errors import InputError, UserError
from stages.filters.machine_arrays import machine_arrays
from stages.kernels.stored import module_key
from stages.kernels.unicode_tables import code_points
from stages.kernels.url_lists import DROPPED, count_words, hash_lines, known_hosts, map_bytes
from stages.marks import InFile
from stages.step import Limit, Measures, Step, content_key, limit

Files = str | tuple[str, ...]


class UrlFilter(Step):
    """Drops documents by their URL: a banned host, a strict substring, a hard word, or two soft words.

    Order and definitions are those of DCLM-Baseline (mlfoundations/dclm, url_substring_filter in
    baselines/mappers/filters/metadata_filters.py, with the settings of dclm_baseline_refinedweb.yaml), after the
    RefinedWeb paper (Penedo et al. 2023, appendix G.1). Everything is compared in lower case. Of words that overlap
    the leftmost counts, and of those the longest. A document without a URL passes: its measures are null.

    A list is a file of one entry a line (`*_files`: one or several, wherever they lie), or stands in the recipe, or
    both. Empty lines are passed over; nothing is stripped.
    """

    step: ClassVar[str] = "url_filter"

    banned_domain: Limit = limit(max=0)
    """1 where the host is on the list, else 0."""
    strict_substrings: Limit = limit(max=0)
    """Different entries found anywhere in the URL without its `-` and `.`."""
    hard_words: Limit = limit(max=0)
    """Different entries found between word boundaries (`\\b` of Python's expressions)."""
    soft_words: Limit = limit(max=1)
    """The same with a list of milder words, of which one is let pass."""

    domains_files: InFile[Files] = ()
    """Lists of banned hosts, as files."""
    strict_files: InFile[Files] = ()
    """Lists of strict substrings, as files."""
    hard_files: InFile[Files] = ()
    """Lists of hard words, as files."""
    soft_files: InFile[Files] = ()
    """Lists of soft words, as files."""
    domains: tuple[str, ...] = ()
    """Banned hosts, besides those in files; so the next three."""
    strict: tuple[str, ...] = ()
    """Strict substrings."""
    hard: tuple[str, ...] = ()
    """Hard words."""
    soft: tuple[str, ...] = ()
    """Soft words."""
    hosts: Literal["as_dclm", "bare"] = "as_dclm"
    """What is looked up in the list of domains. `as_dclm`: the URL's netloc, user and port included, without `www`
    wherever that stands; the dot behind it stays, so `www.example.com` is on the list only as `.example.com`.
    `bare`: the host without user, port, leading `www.` and final dot, and the list's entries likewise."""

    _lists: Lists | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _some_list(self) -> UrlFilter:
        if not any(getattr(self, f"{name}{kind}") for name in NAMES for kind in ("", "_files")):
            raise ValueError("no list is given: name files (domains_files, strict_files, ...) or entries (domains, ...)")
        return self

    def prepare(self) -> None:
        """Read the lists; the hashes of domains are sorted once a machine. Raises InputError for what is not UTF-8."""
        if self._lists is None:
            words = [_word_list(_entries(getattr(self, f"{n}_files"), getattr(self, n))) for n in NAMES[1:]]
            self._lists = Lists(self._domain_hashes(), *words)

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """The four measures above (int64, null without a URL), whatever the limits."""
        self.prepare()
        lists = self._lists
        assert lists is not None
        urls = docs.column("url")
        missing = np.asarray(pc.is_null(urls))
        data, offsets = _lower_case(pc.fill_null(urls, ""))
        squeezed = _mapped(data, offsets, _WITHOUT_BREAKS)
        found = {name: np.empty(docs.num_rows, np.int64) for name in MEASURES}
        known_hosts(data, offsets, self.hosts == "bare", lists.domains, found["banned_domain"])
        count_words(*squeezed, code_points(), *lists.strict, False, found["strict_substrings"])
        count_words(data, offsets, code_points(), *lists.hard, True, found["hard_words"])
        count_words(data, offsets, code_points(), *lists.soft, True, found["soft_words"])
        return {name: pa.array(values, mask=missing) for name, values in found.items()}

    def _domain_hashes(self) -> np.ndarray:
        bare = self.hosts == "bare"
        text = "\n".join(_texts(self.domains_files, self.domains)).lower()
        data = np.frombuffer(text.encode(), np.uint8)

        def build() -> dict[str, np.ndarray]:
            hashes = np.empty(len(data) // 2 + 1, np.uint64)
            return {"hashes": np.unique(hashes[: hash_lines(data, bare, hashes)])}

        if len(data) < 1 << 16:
            return build()["hashes"]
        key = content_key("domains", module_key(__name__), bare, hashlib.blake2b(data, digest_size=20).hexdigest())
        return np.asarray(machine_arrays(key, build)["hashes"])


NAMES = ("domains", "strict", "hard", "soft")
MEASURES = ("banned_domain", "strict_substrings", "hard_words", "soft_words")


class WordList(NamedTuple):
    """Words as `count_words` wants them."""

    words: np.ndarray  # uint8: one behind another, sorted
    starts: np.ndarray  # int64, n + 1
    first_of: np.ndarray  # int64, 257: number of the first word by first byte
    pairs: np.ndarray  # uint8, 65536: whether a word may begin with these two bytes


class Lists(NamedTuple):
    """What `prepare` loads: sorted hashes of domains (uint64), and three lists of words."""

    domains: np.ndarray
    strict: WordList
    hard: WordList
    soft: WordList


def _lowering(dropped: str = "") -> np.ndarray:
    table = np.arange(256, dtype=np.uint16)
    table[ord("A") : ord("Z") + 1] += 32
    table[[ord(c) for c in dropped]] = DROPPED
    return table


_LOWER, _WITHOUT_BREAKS = _lowering(), _lowering("-.")


def _mapped(data: np.ndarray, offsets: np.ndarray, table: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    out, out_offsets = np.empty(offsets[-1] - offsets[0], np.uint8), np.empty(len(offsets), np.int64)
    return out[: map_bytes(data, offsets, table, out, out_offsets)], out_offsets


def _lower_case(urls: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """The URLs in lower case (str.lower): bytes and offsets. Only those that are not ASCII pass through Python."""
    data, offsets = text_buffers(urls)
    span = data[offsets[0] : offsets[-1]]
    if span.max(initial=0) >= 0x80:
        wide = np.concatenate([[0], np.cumsum(span >= 0x80)])
        rows = np.flatnonzero(np.diff(wide[offsets - offsets[0]]))
        chosen = urls.take(pa.array(rows)).view(pa.large_binary()).to_pylist()
        lower = pa.array([url.decode(errors="replace").lower() for url in chosen], pa.large_string())
        mask = np.zeros(len(urls), bool)
        mask[rows] = True
        data, offsets = text_buffers(pc.replace_with_mask(urls, pa.array(mask), lower))
    return _mapped(data, offsets, _LOWER)


def _texts(files: Files, entries: tuple[str, ...]) -> list[str]:
    """The content of each file, and the entries."""
    found = []
    for file in [files] if isinstance(files, str) else files:
        try:
            found.append(Path(file).read_bytes().decode())
        except UnicodeDecodeError as error:
            raise InputError(file, "is no list in UTF-8", offset=error.start) from None
        except OSError as error:
            raise UserError(f"the list {file} cannot be read: {error.strerror or error}") from error
    return [*found, *entries]


def _entries(files: Files, entries: tuple[str, ...]) -> list[str]:
    return [line for text in _texts(files, ()) for line in text.splitlines()] + list(entries)


def _word_list(entries: list[str]) -> WordList:
    words = sorted({word.lower().encode() for word in entries} - {b""})
    starts = np.cumsum([0, *map(len, words)], dtype=np.int64)
    first_of = np.searchsorted(np.array([word[0] for word in words], np.int64), np.arange(257)).astype(np.int64)
    pairs = np.zeros((256, 256), np.uint8)
    for word in words:
        pairs[word[0], word[1] if len(word) > 1 else slice(None)] = 1
    return WordList(np.frombuffer(b"".join(words), np.uint8), starts, first_of, pairs.ravel())
