"""How good an extractor is: wanted and unwanted strings found in its text, as the evaluation of trafilatura counts them.

precision = wanted strings found / (wanted found + unwanted found), recall = wanted found / wanted, F1 their harmonic mean,
over all strings of all pages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from stages.errors import UserError
from stages.extract.block_labels import Truth


@dataclass
class Found:
    """Counts of strings."""

    wanted: int = 0
    missed: int = 0
    unwanted: int = 0

    def add(self, text: str, truth: Truth) -> None:
        """Count the strings of one page in what was extracted from it; white space around a string does not count."""
        for string in truth.wanted:
            if string.strip() in text:
                self.wanted += 1
            else:
                self.missed += 1
        self.unwanted += sum(string.strip() in text for string in truth.unwanted)

    @property
    def precision(self) -> float:
        return self.wanted / max(1, self.wanted + self.unwanted)

    @property
    def recall(self) -> float:
        return self.wanted / max(1, self.wanted + self.missed)

    @property
    def f1(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


def read_truth(path: Path) -> dict[str, Truth]:
    """A truth file: {URL: {"with": [strings that belong in the text], "without": [strings that do not]}}.

    Raises UserError where it has another form.
    """
    try:
        pages = json.loads(path.read_text(encoding="utf-8"))
        return {url: Truth(tuple(entry["with"]), tuple(entry["without"])) for url, entry in pages.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f'{path} must be {{URL: {{"with": [...], "without": [...]}}}}: {error}') from None


def by_language(counted: Iterable[tuple[str | None, Found]], least: int) -> dict[str, Found]:
    """Sums for each language of at least `least` wanted strings, the commonest first; `all` goes before."""
    sums: dict[str, Found] = {"all": Found()}
    for language, found in counted:
        for name in ("all", language or "not said"):
            one = sums.setdefault(name, Found())
            one.wanted, one.missed, one.unwanted = (
                one.wanted + found.wanted, one.missed + found.missed, one.unwanted + found.unwanted,
            )  # fmt: skip
    order = sorted(sums, key=lambda name: (name != "all", -sums[name].wanted - sums[name].missed, name))
    return {name: sums[name] for name in order if name == "all" or sums[name].wanted + sums[name].missed >= least}
