"""All steps that a recipe can name."""

from __future__ import annotations

from stages.extract.extract import Extract
from stages.filters.gopher_quality import GopherQuality
from stages.filters.repetition import Repetition
from stages.step import Step

CLASSES: tuple[type[Step], ...] = (Extract, GopherQuality, Repetition)

STEPS: dict[str, type[Step]] = {step.step: step for step in CLASSES}
