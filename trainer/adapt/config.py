"""The configuration of fine-tuning: that of a training, with other defaults and a section `adapt` of its own.

The defaults are those of OLMoE's adaptation (arXiv 2409.02060, section 3): the loss is summed over the answers' tokens,
routers have no losses of their own, the optimizer starts anew, no weight decays.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from trainer.config import Config, Count, Fraction, LossConfig, OptimizerConfig, ScheduleConfig, Section

Method = Literal["sft", "dpo", "kto", "iqlearn"]


class AdaptSection(Section):
    """What is minimised over pairs."""

    method: Method = "sft"
    epochs: Count = 2
    warmup: Fraction = Field(0.03, description="share of training in which the learning rate rises")
    reduce: Literal["sum", "mean"] = Field(
        "sum", description="sft, iqlearn: over a batch's answer tokens; a sum counts a long answer for more"
    )
    entropy_bonus: float = Field(0.0, ge=0, description="sft: weight of the distribution's entropy, which is rewarded")
    iq_lambda: float = Field(0.1, ge=0, description="iqlearn: weight of (Q - gamma V')^2; 1 / (4 alpha); 0 is sft")
    gamma: Fraction = Field(1.0, description="iqlearn: discount of the next token's value")
    online: float = Field(0.0, ge=0, lt=1, description="iqlearn: share of sequences that the model writes itself")
    online_tokens: Count = Field(64, description="iqlearn: at most this many tokens of such an answer")
    beta: float = Field(0.1, gt=0, description="dpo, kto: how far the model may move from the reference")
    nll: float = Field(
        0.0,
        ge=0,
        description="dpo, kto: weight of a right answer's own loss a token, which is added (arXiv 2404.19733)",
    )
    desirable_weight: float = Field(1.0, gt=0, description="kto")
    undesirable_weight: float = Field(1.0, gt=0, description="kto")
    reference: Literal["stored", "copy"] = Field(
        "stored",
        description="dpo, kto: log-probabilities worked out once and kept in a file, or a second model in memory",
    )

    @model_validator(mode="after")
    def _of_one_method(self) -> AdaptSection:
        of = {"entropy_bonus": ("sft",), "online": ("iqlearn",), "nll": ("dpo", "kto")}
        for name, methods in of.items():
            if getattr(self, name) and self.method not in methods:
                raise ValueError(f"{name} is a setting of {' and '.join(methods)}, and method is {self.method}")
        return self


class AdaptLosses(LossConfig):
    """Routers without losses of their own, and text that repeats itself is learned as it is."""

    load_balancing: float = Field(0.0, ge=0)
    router_z: float = Field(0.0, ge=0)
    repeated_ngrams: int = Field(0, ge=0, le=0, description="answers are learned as they are")


class AdaptOptimizer(OptimizerConfig):
    """AdamW without decay."""

    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    weight_decay: float = Field(0.0, ge=0)


class AdaptSchedule(ScheduleConfig):
    """Linear to zero; the warm-up is `adapt.warmup`, a share, unless `warmup_tokens` says how many tokens."""

    kind: Literal["cosine", "linear_to_zero", "constant"] = "linear_to_zero"
    peak: float = Field(2e-5, gt=0)


class AdaptConfig(Config):
    """Everything that a fine-tuning depends on, but for the pairs and the checkpoint, which has the model."""

    adapt: AdaptSection = AdaptSection()
    losses: AdaptLosses = AdaptLosses()
    optimizer: AdaptOptimizer = AdaptOptimizer()
    schedule: AdaptSchedule = AdaptSchedule()
    start_optimizer: Literal["keep", "reset"] = Field(
        "reset", description="go on with the checkpoint's optimizer state, or with a new one"
    )
