"""All steps that a recipe can name."""

from __future__ import annotations

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
