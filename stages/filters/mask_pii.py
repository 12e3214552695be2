"""Personal information put behind masks: e-mail addresses, phone numbers, public IP addresses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa

from stages.document import replace_column, text_array, text_buffers
from stages.filters.top_level_domains import TOP_LEVEL_DOMAINS
from stages.kernels.pii import EMAIL, IP, PHONE, find_pii, replace_spans
from stages.kernels.pii_strict import find_strict, replace_kinds
from stages.kernels.pii_words import word_set
from stages.kernels.unicode_tables import code_points
from stages.step import Limit, Measures, Step, limit

Kind = Literal["emails", "phone_numbers", "ip_addresses"]

KINDS: dict[Kind, int] = {"emails": EMAIL, "phone_numbers": PHONE, "ip_addresses": IP}
MASKS: dict[Kind, str] = {
    "emails": "|||EMAIL_ADDRESS|||",
    "phone_numbers": "|||PHONE_NUMBER|||",
    "ip_addresses": "|||IP_ADDRESS|||",
}


class MaskPii(Step):
    """Puts OLMo's masks in place of e-mail addresses, then phone numbers, then public IP addresses.

    The patterns are Dolma's (Soldaini et al. 2024; allenai/dolma, python/dolma/taggers/pii.py), and so are their
    faults: a phone number is ten digits in the North American grouping behind white space, and four numbers with dots
    between are an IP address, be they a version. Three things differ. All that Dolma would mask is masked, but also an
    e-mail address at the end of the text or before other punctuation than one mark and white space, and a phone number
    that begins the text. What stands around an address stays: Dolma's mask swallows the white space and punctuation
    beside it. And of IP addresses only public ones are masked: not those that the IANA IPv4 Special-Purpose Address
    Registry (RFC 6890) says are not globally reachable.

    `patterns: strict` is not Dolma's: an e-mail address ends in a real top-level domain; a phone number is known by its
    country's code, its grouping or the word before it; an IP address (IPv4 or IPv6) is a public one and no part of a version,
    a path or a numbering. Its rules are in stages/kernels/pii_strict.py and pii_phone.py.

    Dolma drops a document with more than 5 items instead of masking them: that is `items: 5`.
    """

    step: ClassVar[str] = "mask_pii"
    other_measures: ClassVar[Mapping[str, str]] = {
        "emails": "E-mail addresses that were masked.",
        "phone_numbers": "Phone numbers that were masked.",
        "ip_addresses": "IP addresses that were masked.",
    }

    items: Limit = limit()
    """All that was masked in the text; no limit unless the recipe sets one."""

    patterns: Literal["olmo", "strict"] = "olmo"
    """What is looked for: `olmo`, Dolma's patterns; `strict`, items by what they look like and stand in."""
    kinds: tuple[Kind, ...] = ("emails", "phone_numbers", "ip_addresses")
    """What is masked."""
    private_ip_addresses: bool = False
    """Mask IP addresses that are not public, too."""

    def edit(self, docs: pa.RecordBatch) -> tuple[pa.RecordBatch, Measures]:
        """The batch with masks; measures (int64): how many of each kind of `kinds` were masked, and `items`, of all."""
        data, offsets = text_buffers(docs.column("text"))
        if self.patterns == "strict":
            return self._strict(docs, data, offsets)
        measures: dict[str, np.ndarray] = {}
        for kind, number in KINDS.items():
            if kind not in self.kinds:
                continue
            mask = np.frombuffer(MASKS[kind].encode(), np.uint8)
            size = int(offsets[-1] - offsets[0])
            spans, counts = np.empty(2 * (size // 3 + 1), np.int64), np.zeros(docs.num_rows, np.int64)
            found = find_pii(data, offsets, code_points(), number, self.private_ip_addresses, spans, counts)
            measures[kind] = counts
            if found:
                out, out_offsets = np.empty(size + found * len(mask), np.uint8), np.empty(len(offsets), np.int64)
                size = replace_spans(data, offsets, spans[: 2 * found], counts, mask, out, out_offsets)
                data, offsets = out[:size], out_offsets
        measures["items"] = sum(measures.values(), np.zeros(docs.num_rows, np.int64))
        return replace_column(docs, "text", text_array(data, offsets)), measures

    def _strict(self, docs: pa.RecordBatch, data: np.ndarray, offsets: np.ndarray) -> tuple[pa.RecordBatch, Measures]:
        size = int(offsets[-1] - offsets[0])
        spans, counts = np.empty(3 * (size // 4 + 1), np.int64), np.zeros(3 * docs.num_rows, np.int64)
        wanted = sum(1 << KINDS[kind] for kind in set(self.kinds))
        found = find_strict(data, offsets, _top_level_domains(), wanted, spans, counts)
        measures = {kind: counts[number::3] for kind, number in KINDS.items() if kind in self.kinds}
        measures["items"] = counts.reshape(-1, 3).sum(axis=1)
        if not found:
            return docs, measures
        masks = np.frombuffer("".join(MASKS.values()).encode(), np.uint8)
        ends = np.cumsum([0, *(len(mask) for mask in MASKS.values())])
        out, out_offsets = np.empty(size + found * int(np.diff(ends).max()), np.uint8), np.empty(len(offsets), np.int64)
        size = replace_kinds(data, offsets, spans, found, masks, ends, out, out_offsets)
        return replace_column(docs, "text", text_array(out[:size], out_offsets)), measures


@cache
def _top_level_domains() -> np.ndarray:
    """Without the marks that DCLM's list has behind some of them."""
    return word_set(" ".join(TOP_LEVEL_DOMAINS).replace("\u200e", ""))
