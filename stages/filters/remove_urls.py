"""URLs and IP addresses cut out of the text, as DCLM does."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.document import replace_column, text_array, text_buffers
from stages.filters.top_level_domains import TOP_LEVEL_DOMAINS
from stages.kernels.unicode_tables import code_points
from stages.kernels.urls import cut_addresses, cut_urls
from stages.step import Measures, Step


class RemoveUrls(Step):
    """Cuts out URLs with a known top-level domain (with or without a scheme), then IPv4 addresses.

    Up to ten characters of white space before go with them, as does what follows up to the first character that a URL
    cannot hold: mlfoundations/dclm, url_removal_modifier in baselines/mappers/modifiers.py.
    """

    step: ClassVar[str] = "remove_urls"
    other_measures: ClassVar[Mapping[str, str]] = {"removed": "URLs and addresses that were cut out."}

    urls: Literal["as_dclm", "all", "none"] = "as_dclm"
    """`as_dclm`: URLs go only from texts that begin with a top-level domain's name (as `The` begins with `th`): this is
    what the original does, whose test is `match` where `search` was meant. `all`: from all texts."""
    ip_addresses: bool = True
    """Cut out IPv4 addresses too."""

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        """The batch without URLs; measure `removed`: how many URLs and addresses were cut out (int64)."""
        column = docs.column("text")
        data, offsets = text_buffers(column)
        removed = np.zeros(docs.num_rows, np.int64)
        if self.urls != "none":
            wanted = _begins_with_name(column) if self.urls == "as_dclm" else np.ones(docs.num_rows, np.uint8)
            out, out_offsets = np.empty(offsets[-1] - offsets[0], np.uint8), np.empty(len(offsets), np.int64)
            size = cut_urls(data, offsets, wanted, code_points(), *_names(), out, out_offsets, removed)
            data, offsets = out[:size], out_offsets
        if self.ip_addresses:
            out, out_offsets = np.empty(offsets[-1] - offsets[0], np.uint8), np.empty(len(offsets), np.int64)
            size = cut_addresses(data, offsets, code_points(), out, out_offsets, removed)
            data, offsets = out[:size], out_offsets
        return replace_column(docs, "text", text_array(data, offsets)), {"removed": removed}


@functools.cache
def _names() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The names as `cut_urls` wants them: bytes (uint8), starts (int64), first number by first two bytes (int32)."""
    names = sorted(name.encode() for name in TOP_LEVEL_DOMAINS)
    starts = np.cumsum([0, *map(len, names)])
    begins = np.array([name[0] << 8 | name[1] for name in names])
    first_of = np.searchsorted(begins, np.arange(0x10001)).astype(np.int32)
    return np.frombuffer(b"".join(names), np.uint8), starts, first_of


@functools.cache
def _beginning() -> str:
    """A pattern (RE2) for texts that begin with a name in any case; as in Python, İ, i and ı are one letter."""
    chosen: set[str] = set()
    for name in sorted(TOP_LEVEL_DOMAINS, key=len):
        if not any(name[:length] in chosen for length in range(1, len(name))):
            chosen.add(name)
    return "^(?i:" + "|".join(sorted(chosen)).replace("i", "[iıİ]") + ")"


def _begins_with_name(texts: pa.Array) -> np.ndarray:
    # Cut as bytes and only called a string again, since text that is not valid UTF-8 must not stop a run.
    longest = max(len(name.encode()) for name in TOP_LEVEL_DOMAINS)
    beginnings = pc.binary_slice(texts.view(pa.large_binary()), 0, longest).view(pa.large_string())
    return np.asarray(pc.match_substring_regex(beginnings, _beginning())).astype(np.uint8)
