"""The quality of a text, by a fastText classifier of good against ordinary text."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, PrivateAttr, model_validator

from stages.errors import UserError
from stages.kernels.fasttext_lines import JOIN_LINES
from stages.marks import HowMuch, InFile
from stages.quality.fasttext_model import FastTextModel, load_model
from stages.quality.settings import TrainSettings
from stages.step import Limit, Measures, Settings, Step, limit
from stages.units import Bytes


class TrainQuality(Settings):
    """A classifier that the run trains itself, on its own documents as they are before the step."""

    positive: tuple[str, ...] = Field(min_length=1)
    """Sources of good text."""
    negative: tuple[str, ...] = Field(min_length=1)
    """Sources of ordinary text."""
    max_bytes: Bytes = Field(default=256 * 2**20, gt=0)
    """Text of each kind that is trained on at most: documents chosen by hash, evenly over the sources."""
    settings: TrainSettings = TrainSettings()
    """How it is trained."""


class Quality(Step):
    """Drops texts that a classifier finds unlike good text.

    As in DCLM-Baseline (mlfoundations/dclm, baselines/mappers/enrichers/quality_prediction_enrichers_calc_fasttext.py):
    the text is stripped and its lines joined by spaces, and the score is the probability of the best label, or 1 minus
    it where that is the label of ordinary text. The default limit is DCLM's, meant to keep the top tenth under its
    own model; another model needs another limit (the model card that training writes names it).
    """

    step: ClassVar[str] = "quality"
    version: ClassVar[int] = 2

    score: Limit = limit(min=0.018112)
    """The probability that the text is good, 0 to 1."""
    model: InFile[str | None] = None
    """A supervised fastText model file (.bin or .ftz)."""
    train: TrainQuality | None = None
    """In place of a model: train one."""
    positive: str = "hq"
    """The label of good text in the model, with or without `__label__`."""
    negative: str | None = None
    """The label of ordinary text. Without it, the other label of a model of two; DCLM's is `cc`."""
    labels: Literal["all"] | Annotated[int, Field(ge=1)] | None = None
    """Other measures: `all` for the probability of every label of the model, as `p_LABEL`; a number k for the k likeliest
    labels, as `top_1`, `top_2`, ... and their probabilities `top_1_p`, ... A model without the label `positive` then needs
    none, and has no `score`."""
    name: HowMuch[str | None] = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    """What this step is called in measures, reasons and `--set`, where a source has several: `education` for
    `education.score`. Left out: `quality`, `quality_2`, ..."""
    table_mb: HowMuch[int] = Field(default=32, ge=1)
    """MB of memory, a process, for the table of words already met. Changes speed, not results."""

    _model: FastTextModel | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _one_model(self) -> Quality:
        if (self.model is None) == (self.train is None):
            raise ValueError("name a model, or say in train what to train one on: one of the two")
        return self

    def of_labels(self, measure: str) -> bool:
        """Whether a measure is one of those that `labels` asks for; of `all`, which labels there are the model knows."""
        if self.labels == "all":
            return measure.startswith("p_")
        found = re.fullmatch(r"top_([1-9]\d*)(?:_p)?", measure)
        return self.labels is not None and found is not None and int(found[1]) <= self.labels

    def prepare(self) -> None:
        """Map the model, folding it first where this machine has not, and check that it has the labels."""
        self._loaded()

    def _loaded(self) -> FastTextModel:
        if self._model is None:
            model = load_model(self._file(), table_bytes=self.table_mb << 20)
            if self._has_score(model):
                positive_negative(model, self.positive, self.negative)
            elif self.score != type(self).model_fields["score"].default:
                model.label_index(self.positive)  # a limit on the score of a label that there is not: raises
            self._model = model
        return self._model

    def _has_score(self, model: FastTextModel) -> bool:
        """Whether good text is to be scored: not where other labels are asked for and the default `positive` is none of them."""
        kind = type(self).model_fields["positive"]
        return self.labels is None or self.positive != kind.default or model.has_label(self.positive)

    def _file(self) -> str:
        if self.model is None:
            raise ValueError("the model is not trained yet")
        return self.model

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """`score` (float64) of each text, and what `labels` asks for; NaN where the model knows nothing of the text."""
        model, texts = self._loaded(), docs.column("text")
        found: dict[str, np.ndarray | pa.Array] = {}
        if self._has_score(model):
            found["score"] = good_probability(model, texts, self.positive, self.negative)
        if self.labels is not None:
            found |= label_measures(model, texts, self.labels)
        return found


def label_measures(model: FastTextModel, texts: pa.Array, labels: Literal["all"] | int) -> dict[str, np.ndarray | pa.Array]:
    """The measures that `Quality.labels` names: probabilities are float64, 0 to 1; labels strings without `__label__`."""
    probabilities = np.clip(model.probabilities(texts, JOIN_LINES), 0.0, 1.0)
    names = [name.removeprefix("__label__") for name in model.labels]
    if labels == "all":
        return {f"p_{name}": np.ascontiguousarray(probabilities[:, k]) for k, name in enumerate(names)}
    likeliest = np.argsort(-probabilities, axis=1, kind="stable")[:, :labels]
    unknown = np.isnan(probabilities[:, 0])
    found: dict[str, np.ndarray | pa.Array] = {}
    for k in range(likeliest.shape[1]):
        found[f"top_{k + 1}"] = pa.array(names, pa.string()).take(pa.array(likeliest[:, k], mask=unknown))
        found[f"top_{k + 1}_p"] = np.take_along_axis(probabilities, likeliest[:, k : k + 1], axis=1)[:, 0]
    return found


def positive_negative(model: FastTextModel, positive: str, negative: str | None) -> tuple[int, int]:
    """Indices of the labels of good and of ordinary text; the latter -1 where a model of several labels has none named.

    Raises UserError where the model lacks a label, or both are the same.
    """
    first = model.label_index(positive)
    second = model.label_index(negative) if negative is not None else (1 - first if len(model.labels) == 2 else -1)
    if first == second:
        raise UserError(f"fastText model {model.settings['path']}: positive and negative are both {positive!r}")
    return first, second


def good_probability(model: FastTextModel, texts: pa.Array, positive: str, negative: str | None = None) -> np.ndarray:
    """The probability (float64) of the label `positive` for each text, its lines joined.

    Where the best label is `negative`, it is 1 minus that label's probability, which under fastText's rounding differs
    from the other by about 2e-5. fastText adds 1e-5 to every probability: what lies outside 0 to 1 for that is brought
    to the nearer end. Raises UserError as `positive_negative`.
    """
    good, ordinary = positive_negative(model, positive, negative)
    found = model.predict(texts, JOIN_LINES, wanted=good)
    return np.clip(np.where(found.label == ordinary, 1.0 - found.probability, found.of_wanted), 0.0, 1.0)
