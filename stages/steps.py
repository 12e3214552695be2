"""All steps that a recipe can name: those here, those of installed packages, and classes by their import path."""

from __future__ import annotations

from stages.errors import UserError
from stages.extract.extract import Extract
from stages.filters.c4_quality import C4Quality
from stages.filters.datatrove_block import DatatroveBlock
from stages.filters.decontaminate import Decontaminate
from stages.filters.fineweb_quality import FineWebQuality
from stages.filters.gopher_quality import GopherQuality
from stages.filters.gopher_quality_datatrove import GopherQualityDatatrove
from stages.filters.limit_newlines import LimitNewlines
from stages.filters.mask_pii import MaskPii
from stages.filters.permissions import Permissions
from stages.filters.python_edit import PythonEdit
from stages.filters.python_function import PythonFunction
from stages.filters.refinedweb_lines import RefinedWebLines
from stages.filters.remove_urls import RemoveUrls
from stages.filters.repetition import Repetition
from stages.filters.repetition_datatrove import RepetitionDatatrove
from stages.filters.starcoder import StarCoder
from stages.filters.token_repeats import TokenRepeats
from stages.filters.url_filter import UrlFilter
from stages.quality.classifier import Quality
from stages.quality.language import Language
from stages.step import Step
from stages.user_code import installed, load

CLASSES: tuple[type[Step], ...] = (
    C4Quality,
    DatatroveBlock,
    Decontaminate,
    Extract,
    FineWebQuality,
    GopherQuality,
    GopherQualityDatatrove,
    Language,
    LimitNewlines,
    MaskPii,
    Permissions,
    PythonEdit,
    PythonFunction,
    Quality,
    RemoveUrls,
    RefinedWebLines,
    Repetition,
    RepetitionDatatrove,
    StarCoder,
    TokenRepeats,
    UrlFilter,
)

STEPS: dict[str, type[Step]] = {step.step: step for step in CLASSES}


def step_class(kind: str) -> type[Step] | None:
    """The class of a step as a recipe names it: a name in STEPS, one that an installed package gives (entry points of the
    group `headrace.steps`), or `package.module:Class`. None where there is none; UserError where it is no step.
    """
    if kind in STEPS:
        return STEPS[kind]
    path = kind if ":" in kind else installed("steps", kind)
    if path is None:
        return None
    found = load(path)
    if not (isinstance(found, type) and issubclass(found, Step)):
        raise UserError(f"{path} is no step: a class built on stages.step.Step is needed; a function is named by `python`")
    return found


def import_path(step: type[Step]) -> str | None:
    """`module:Class` of a class that is no step of Headrace's and of no installed package; None for those."""
    path = f"{step.__module__}:{step.__qualname__}"
    return None if step in CLASSES or installed("steps", step.step) == path else path
