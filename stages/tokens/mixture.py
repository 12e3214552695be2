"""The mixture: what a recipe asks of each source, compiled into a number of training tokens.

A source may be given `tokens`, a `share` of the total, or `repeats` of all that it has (fractions allowed), or nothing.
The whole is sized in one of two ways:

- `tokens`: the total that training sees. A source with nothing set takes what the others leave; several such sources
  divide it in proportion to what they have, so a mixture that names only the total is the natural one.
- `epochs` (default 1): passes over the mixture. `tokens` and `repeats` of a source then count for one pass; a source
  with nothing set has one repeat a pass.

OLMoE's own mixture is the natural proportion of its seven sources with `tokens: 5.133e12` (1.26 epochs of 4.07T) and
`reshuffle_last_tokens: 100e9`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated

from pydantic import Field, model_validator

from stages.errors import UserError
from stages.step import Settings
from stages.units import Count

# Up to 4 epochs of repeated data are nearly as good as new data (Muennighoff et al. 2023, "Scaling Data-Constrained
# Language Models", section 5).
MAX_REPEATS = 4.0
SHARE_ROUNDING = 0.005  # shares of a complete table may miss 1 by this, as printed tables do; they are scaled to 1


class MixtureError(UserError):
    """A mixture that cannot be had; the text shows the arithmetic."""


Tokens = Annotated[Count, Field(ge=0)]


class SourceMix(Settings):
    """What the mixture asks of one source: at most one of `tokens`, `share` and `repeats`."""

    tokens: Tokens | None = None
    """Tokens to take from it."""
    share: float | None = Field(default=None, ge=0, le=1)
    """Share of the mixture's tokens."""
    repeats: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """How often all of it is seen; 0 leaves it out."""
    max_repeats: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """How often it may be seen at most; left out, the mixture's `max_repeats`."""

    @model_validator(mode="after")
    def _one_way(self) -> SourceMix:
        given = [name for name in ("tokens", "share", "repeats") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are both set; one of them says how much is wanted")
        return self


class Mixture(Settings):
    """How much of each source training sees, and in which order."""

    tokens: Tokens | None = None
    """Tokens that training sees in all."""
    epochs: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """Passes over the mixture, in place of `tokens`; with neither, one."""
    seed: int = Field(default=0, ge=0)
    """Of the order of training."""
    max_repeats: float = Field(MAX_REPEATS, gt=0, allow_inf_nan=False)
    """How often a source may be seen at most; more is an error."""
    reshuffle_last_tokens: Tokens = 0
    """The last so many tokens are drawn from a fresh shuffle (OLMoE: 100e9)."""
    per_source: dict[str, SourceMix] = Field(default_factory=dict)
    """What is asked of single sources, by name; the others share what is left."""

    @model_validator(mode="after")
    def _one_size(self) -> Mixture:
        if self.tokens is not None and self.epochs is not None:
            raise ValueError("tokens and epochs are both set; one of them says how long training is")
        return self


def with_repeats(mixture: Mixture, repeats: Mapping[str, float]) -> Mixture:
    """The mixture with what parts of sources say of their repeats (by member), where it asks nothing of a member itself."""
    asked = dict(mixture.per_source)
    for name, times in repeats.items():
        mine = asked.get(name, SourceMix())
        if mine.tokens is None and mine.share is None and mine.repeats is None:
            asked[name] = mine.model_copy(update={"repeats": times})
    return mixture.model_copy(update={"per_source": asked}) if repeats else mixture


@dataclass(frozen=True)
class Budget:
    """What the mixture takes from one source."""

    source: str
    available: int  # training tokens that exist
    asked: int  # training tokens over all of training: the manifest's budget_tokens
    max_repeats: float
    share: float  # of the mixture

    @property
    def repeats(self) -> float:
        """How often the source is seen; 0 where it has no tokens."""
        return self.asked / self.available if self.available else 0.0


def compile_mixture(mixture: Mixture, available: Mapping[str, int]) -> list[Budget]:
    """Tokens asked of each source, in the order of `available` (source -> training tokens that exist).

    Whole numbers that sum up to the total exactly. Raises MixtureError, with the numbers, for a source that is not
    there, for parts that do not make up the total, and where a source would repeat more often than it may.
    """
    wanted = _wanted(mixture, available)
    exact = (
        _by_total(mixture, wanted, available) if mixture.tokens is not None else _by_epochs(mixture, wanted, available)
    )
    asked = _round(exact)
    total = sum(asked.values())
    budgets = [
        Budget(
            source=name,
            available=available[name],
            asked=asked[name],
            max_repeats=wanted[name].max_repeats or mixture.max_repeats,
            share=asked[name] / total if total else 0.0,
        )
        for name in available
    ]
    over = [budget for budget in budgets if budget.asked > Fraction(budget.max_repeats) * budget.available]
    if over:
        raise MixtureError("the mixture asks for more than there is: " + "; ".join(map(_arithmetic, over)))
    return budgets


def check_mixture(mixture: Mixture, sources: Iterable[str]) -> None:
    """Raise MixtureError for a mixture that no number of tokens in its sources could give; nothing is known of them yet.

    What depends on how much there is (a total that needs too many repeats, say) shows in `compile_mixture`.
    """
    wanted = _wanted(mixture, sources)
    shares = _shares(wanted)
    if mixture.tokens is None:
        if shares and (sum(shares.values()) >= 1 or len(shares) == len(wanted)):
            raise _shares_alone(shares)
        passes = Fraction(str(mixture.epochs)) if mixture.epochs is not None else Fraction(1)
    else:
        total, passes = Fraction(mixture.tokens), Fraction(1)
        known = {name: Fraction(mix.tokens) for name, mix in wanted.items() if mix.tokens is not None}
        known |= {name: share * total for name, share in shares.items()}
        _check_total(known, total, complete=len(known) == len(wanted))
    for name, mix in wanted.items():
        most = mix.max_repeats or mixture.max_repeats
        times = Fraction(str(mix.repeats)) if mix.repeats is not None else None
        if times is None and mixture.tokens is None and mix.tokens is None and mix.share is None:
            times = Fraction(1)
        if times is not None and times * passes > Fraction(str(most)):
            raise MixtureError(
                f"{name}: {float(times):g} repeats in each of {float(passes):g} epochs are {float(times * passes):g}, "
                f"and {most:g} are allowed (max_repeats)"
            )


def _wanted(mixture: Mixture, sources: Iterable[str]) -> dict[str, SourceMix]:
    names = list(sources)
    unknown = [name for name in mixture.per_source if name not in names]
    if unknown:
        raise MixtureError(
            f"mixture.per_source.{unknown[0]}: there is no such source; the sources are {', '.join(names)}"
        )
    return {name: mixture.per_source.get(name, SourceMix()) for name in names}


def _fixed(wanted: Mapping[str, SourceMix], available: Mapping[str, int]) -> dict[str, Fraction]:
    """Sources whose tokens or repeats are named."""
    fixed = {}
    for name, mix in wanted.items():
        if mix.tokens is not None:
            fixed[name] = Fraction(mix.tokens)
        elif mix.repeats is not None:
            fixed[name] = Fraction(str(mix.repeats)) * available[name]
    return fixed


def _shares(wanted: Mapping[str, SourceMix]) -> dict[str, Fraction]:
    """Shares as named; scaled to 1 where they are a complete table that misses it by rounding."""
    shares = {name: Fraction(str(mix.share)) for name, mix in wanted.items() if mix.share is not None}
    total = sum(shares.values())
    if len(shares) == len(wanted) and shares:
        if abs(total - 1) > SHARE_ROUNDING:
            raise MixtureError(
                f"every source has a share, and they sum up to {float(total):.4f}, not 1: {_list(shares)}"
            )
        return {name: share / total for name, share in shares.items()}
    if total > 1:
        raise MixtureError(f"the shares sum up to {float(total):.4f}, above 1: {_list(shares)}")
    return shares


def _by_total(mixture: Mixture, wanted: Mapping[str, SourceMix], available: Mapping[str, int]) -> dict[str, Fraction]:
    total = Fraction(mixture.tokens or 0)
    exact = _fixed(wanted, available) | {name: share * total for name, share in _shares(wanted).items()}
    left = total - sum(exact.values())
    free = [name for name in wanted if name not in exact]
    _check_total(exact, total, complete=not free)
    if not free:
        return exact
    there = sum(available[name] for name in free)
    if there == 0 and left > 0:
        raise MixtureError(
            f"{_number(left)} of the {_number(total)} tokens are left to {', '.join(free)}, which have no tokens"
        )
    return exact | {name: left * available[name] / there if there else Fraction(0) for name in free}


def _check_total(parts: Mapping[str, Fraction], total: Fraction, complete: bool) -> None:
    """Raise MixtureError where parts exceed the total or, being `complete`, fall short of it."""
    asked = sum(parts.values(), Fraction(0))
    sum_up = " + ".join(f"{name} {_number(tokens)}" for name, tokens in parts.items()) + f" = {_number(asked)}"
    if asked > total:
        raise MixtureError(f"the sources ask for more than the total: {sum_up}, mixture.tokens is {_number(total)}")
    if complete and total - asked >= 1:
        raise MixtureError(
            f"the sources ask for less than the total: {sum_up}, mixture.tokens is {_number(total)}; leave one source "
            "open, or give epochs in place of tokens"
        )


def _shares_alone(shares: Mapping[str, Fraction]) -> MixtureError:
    return MixtureError(f"shares alone ({_list(shares)}) do not say how many tokens are wanted; set mixture.tokens")


def _by_epochs(mixture: Mixture, wanted: Mapping[str, SourceMix], available: Mapping[str, int]) -> dict[str, Fraction]:
    epochs = Fraction(str(mixture.epochs)) if mixture.epochs is not None else Fraction(1)
    shares = _shares(wanted)
    one = {name: Fraction(available[name]) for name in wanted if name not in shares} | _fixed(wanted, available)
    counted, rest = sum(one.values(), Fraction(0)), 1 - sum(shares.values(), Fraction(0))
    if shares and (rest <= 0 or counted == 0):
        raise _shares_alone(shares)
    total = counted / rest
    return {name: epochs * (shares[name] * total if name in shares else one[name]) for name in wanted}


def _round(exact: Mapping[str, Fraction]) -> dict[str, int]:
    """Whole numbers that sum up to the rounded-down total, each within 1 of the exact one (largest remainders)."""
    floors = {name: int(value) for name, value in exact.items()}
    missing = int(sum(exact.values())) - sum(floors.values())
    order = sorted(exact, key=lambda name: exact[name] - floors[name], reverse=True)  # stable: the recipe's order
    return {name: floors[name] + (name in order[:missing]) for name in exact}


def _arithmetic(budget: Budget) -> str:
    if budget.available == 0:
        return f"{budget.source}: {budget.asked:,} tokens are asked for, and it has none"
    return (
        f"{budget.source}: {budget.asked:,} asked / {budget.available:,} available = {budget.repeats:.4g} repeats, "
        f"{budget.max_repeats:g} allowed (at most {int(budget.max_repeats * budget.available):,} tokens)"
    )


def _list(shares: Mapping[str, Fraction]) -> str:
    return ", ".join(f"{name} {float(share):g}" for name, share in shares.items())


def _number(value: Fraction) -> str:
    return f"{int(value):,}"
