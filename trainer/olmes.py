"""Scores of several tasks together, as OLMES puts them (arXiv 2406.08446; allenai/olmes, task_suites.py).

A task may be asked in two forms: multiple choice (the letters of the choices) and cloze (their texts). Its score is the
better of the two, as small models cannot do the first and large ones do it better. What is averaged over tasks weighs
each of them alike (macro).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from trainer.tasks import TaskResult

FORM = re.compile(r"(^|_)(mc|rc)_")
"""The form in a variant's name: mc_5shot, val_rc_5shot (rc: ranked classification, the cloze form)."""
CLOZE_METRIC = {"arc_challenge": "acc_uncond", "csqa": "acc_uncond", "openbookqa": "acc_uncond"}
"""Where OLMES measures the cloze form by another metric than the request files say (allenai/olmes, tasks.py)."""


@dataclass(frozen=True)
class Score:
    """A score with the standard error of its mean (None where it is not known)."""

    score: float
    standard_error: float | None


@dataclass(frozen=True)
class TaskScore(Score):
    """One task's score: the better of its forms."""

    form: str  # mc, rc, or "" where the name does not tell
    metric: str


@dataclass(frozen=True)
class Together:
    """Several tasks' scores: accuracies, bits per byte of the others, and the macro average of either."""

    tasks: dict[str, TaskScore]  # by TASK/VARIANT without the form
    accuracy: Score | None
    bits_per_byte: Score | None


def together(results: Iterable[TaskResult]) -> Together:
    """The tasks' scores and their averages."""
    forms: dict[str, list[TaskScore]] = {}
    for result in results:
        name, form = _name_and_form(result.name)
        metric = CLOZE_METRIC.get(name.split("/")[0], result.primary) if form == "rc" else result.primary
        metric = metric if metric in result.metrics else result.primary
        one = TaskScore(result.metrics[metric], result.standard_errors.get(metric), form, metric)
        forms.setdefault(name, []).append(one)
    tasks = {name: max(found, key=lambda one: (is_accuracy(one.metric), one.score)) for name, found in forms.items()}
    kinds = [[one for one in tasks.values() if is_accuracy(one.metric) == kind] for kind in (True, False)]
    return Together(tasks, *(macro(found) if found else None for found in kinds))


def macro(scores: list[TaskScore]) -> Score:
    """Their mean; its standard error, that of a mean of independent values, is None where one has none."""
    errors = [one.standard_error for one in scores]
    known = [error for error in errors if error is not None]
    error = math.sqrt(sum(value**2 for value in known)) / len(scores) if len(known) == len(scores) else None
    return Score(sum(one.score for one in scores) / len(scores), error)


def is_accuracy(metric: str) -> bool:
    """Whether more of it is better, from 0 to 1; else it is bits per byte."""
    return metric.startswith("acc")


def told(found: Together) -> str:
    """The averages in half a sentence."""
    parts = []
    for name, one in (("accuracy", found.accuracy), ("bits per byte", found.bits_per_byte)):
        if one is not None:
            count = sum(is_accuracy(task.metric) == (name == "accuracy") for task in found.tasks.values())
            parts.append(f"{name} {with_error(one)} over {count} task{'s' if count > 1 else ''}")
    return ", ".join(parts)


def with_error(one: Score) -> str:
    """0.2510 (0.0121): the score, and its standard error if it is known."""
    return f"{one.score:.4f}" + ("" if one.standard_error is None else f" ({one.standard_error:.4f})")


def plain(found: Together) -> dict[str, Any]:
    """The same for JSON."""
    averages = {"accuracy": found.accuracy, "bits_per_byte": found.bits_per_byte}
    return {
        "tasks": {name: vars(one) for name, one in found.tasks.items()},
        "macro": {name: vars(one) for name, one in averages.items() if one is not None},
    }


def _name_and_form(name: str) -> tuple[str, str]:
    task, _, variant = name.partition("/")
    form = FORM.search(variant)
    if form is None:
        return name, ""
    without = variant[: form.start()] + form[1] + variant[form.end() :]
    return f"{task}/{without}", form[2]
