"""OLMoE's rules for source code."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import orjson
import pyarrow as pa

from stages.document import text_buffers
from stages.kernels.top_words import top_words
from stages.kernels.unicode_tables import code_points
from stages.step import Limit, Measures, Step, limit


class StarCoder(Step):
    """Drops files of repositories that few have starred, and files in which one or two words make up most of the words.

    The limits are those of OLMoE (Muennighoff et al. 2024, section 2) for its StarCoder source. The paper leaves open
    what a word is: here it is what white space parts.
    """

    step: ClassVar[str] = "starcoder"

    stars: Limit = limit(min=2)
    """Stars of the file's repository; none known counts as 0, as in Dolma's taggers (allenai/dolma)."""
    top_word: Limit = limit(max=0.3)
    """Share of the words that are the commonest word; 0 for a text without words."""
    top_two_words: Limit = limit(max=0.5)
    """Share of the words that are one of the two commonest."""

    stars_field: str = "max_stars_count"
    """Where a record holds the number of stars, besides its text; within nested objects with dots."""

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """One value of each of the limits above a document (float64)."""
        path = self.stars_field.split(".")
        stars = np.array([_number(metadata, path) for metadata in docs.column("metadata").to_pylist()], np.float64)
        shares = top_words(*text_buffers(docs.column("text")), code_points())
        return {"stars": stars, "top_word": shares[:, 0], "top_two_words": shares[:, 1]}


def _number(metadata: str | None, path: list[str]) -> float:
    """The number at a path of member names in a JSON object; 0 where there is none."""
    try:
        value: Any = orjson.loads(metadata) if metadata else None
    except orjson.JSONDecodeError:
        return 0.0
    for name in path:
        value = value.get(name) if type(value) is dict else None
    return float(value) if type(value) in (int, float) else 0.0
