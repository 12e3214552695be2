"""Arms of an experiment: a recipe with steps left out, or what a file of arms says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from pipeline.recipe.overrides import RecipeError, read_yaml
from pipeline.recipe.recipe import Recipe
from pipeline.recipe.shipped import folders
from stages.errors import UserError
from stages.quality.classifier import Quality
from stages.step import Settings, Step

PLANS = ("all-but-one", "cumulative", "dedup", "extraction", "cutoffs", "buckets")
BY_MEASURE = ("cutoffs", "buckets")
QUANTILES = (0.25, 0.5, 0.75)
NAME = re.compile(r"[A-Za-z0-9+][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Arm:
    """One arm: a recipe (None: the experiment's) with changes, and changes of the mixture of its tokens."""

    name: str
    assignments: tuple[str, ...] = ()  # of the recipe, as `--set` has them
    mixture: tuple[str, ...] = ()  # of the mixture, as `mix --set` has them
    recipe: str | None = None
    profile: str | None = None


class _WrittenArm(Settings):
    """An arm as a file writes it."""

    recipe: str | None = None
    profile: str | None = None
    set: tuple[str, ...] = ()
    mixture: tuple[str, ...] = ()


class _Written(Settings):
    arms: dict[str, _WrittenArm | None] = Field(min_length=2)


@dataclass(frozen=True)
class By:
    """The measure whose documents' buckets are arms: of which source and step, and the quantiles that part them."""

    source: str
    step: str
    measure: str
    quantiles: tuple[float, ...]

    @property
    def column(self) -> str:
        """The measure as documents have it: `quality.score`."""
        return f"{self.step}.{self.measure}"


def arms_of(plan: str, recipe: Recipe, by: By | None = None) -> list[Arm]:
    """The arms of a ready plan, or of a file; all others are compared with the first. by: of `cutoffs` and `buckets` (None: what
    `by_of` finds). Raises UserError."""
    if plan == "all-but-one":
        return [Arm("all"), *(Arm(f"no-{name}", _without(recipe, [name])) for name in _steps(recipe))]
    if plan == "cumulative":
        names = _steps(recipe)
        found = [Arm("raw", _without(recipe, names))]
        for number, name in enumerate(names, start=1):
            found.append(Arm(f"+{name}", _without(recipe, names[number:])))
        return found
    if plan == "dedup":
        names = _steps(recipe, dedups=True)
        if not names:
            raise UserError("--arms dedup: the recipe has no dedup in its sources' steps")
        return [Arm("with-dedup"), Arm("without-dedup", _without(recipe, names))]
    if plan == "extraction":
        return _extraction(recipe)
    if plan in BY_MEASURE:
        return _by_measure(plan, by or by_of(recipe))
    return _read(plan)


def by_of(recipe: Recipe, named: str | None = None, quantiles: Sequence[float] = QUANTILES) -> By:
    """What `--by SOURCE.STEP.MEASURE` and `--at` say; without a name the first score of a classifier. Raises UserError."""
    if not quantiles or any(not 0 < q < 1 for q in quantiles) or list(quantiles) != sorted(set(quantiles)):
        raise UserError(
            f"--at {' '.join(f'{q:g}' for q in quantiles)}: shares of the documents are needed, rising, above 0, below 1"
        )
    if named is not None:
        parts = named.split(".")
        if len(parts) != 3 or parts[0] not in recipe.sources:
            raise UserError(f"--by {named}: write SOURCE.STEP.MEASURE; the sources are {', '.join(recipe.sources)}")
        return By(parts[0], parts[1], parts[2], tuple(quantiles))
    for source, settings in recipe.sources.items():
        for name, item in settings.steps:
            if isinstance(item, Quality):
                return By(source, name, "score", tuple(quantiles))
    raise UserError("the recipe has no step `quality`: name the measure, as in --by web.gopher_quality.words")


def _by_measure(plan: str, by: By) -> list[Arm]:
    """Arms of the parts of a source below, between and above quantiles of a measure, or above each; no limit drops any."""
    axis = f"{{by: {by.column}, quantiles: [{', '.join(f'{q:g}' for q in by.quantiles)}]}}"
    settings = (f"sources.{by.source}.steps.{by.column}=null", f"sources.{by.source}.split=[{axis}]")
    parts = [f"{by.source}-{by.measure}{number}" for number in range(1, len(by.quantiles) + 2)]
    found = [Arm("all", settings)]
    for number, part in enumerate(parts):
        if plan == "buckets":
            found.append(Arm(part.removeprefix(f"{by.source}-"), settings, _left_out([one for one in parts if one != part])))
        elif number:
            found.append(Arm(f"above-{by.quantiles[number - 1]:g}", settings, _left_out(parts[:number])))
    return found


def _left_out(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"per_source.{part}.repeats=0" for part in parts)


def _extraction(recipe: Recipe) -> list[Arm]:
    """Arms of the extraction engines that come with Headrace, and of pages whose whole text is taken."""
    where = [f"sources.{s}.steps.{n}" for s, settings in recipe.sources.items() for n, item in settings.steps if _takes(item)]
    if not where:
        raise UserError("--arms extraction: the recipe has no step `extract` in its sources' steps")
    ways = {
        "resiliparse": ("engine=resiliparse", "main_content=true"),
        "blocks": ("engine=blocks", "main_content=true"),
        "whole-page": ("engine=resiliparse", "main_content=false"),
    }
    return [Arm(name, tuple(f"{place}.{one}" for place in where for one in own)) for name, own in ways.items()]


def _takes(item: object) -> bool:
    return bool(getattr(item, "takes_pages", False))


def _steps(recipe: Recipe, dedups: bool = False) -> list[str]:
    """Names of the steps that may be left out, as sources have them one after another: all but those that take text out."""
    found: dict[str, None] = {}
    for source in recipe.sources.values():
        for name, item in source.steps:
            if not _takes(item) and not (dedups and isinstance(item, Step)):
                found[name] = None
    return list(found)


def _without(recipe: Recipe, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"sources.{source}.steps.{name}=null"
        for source, settings in recipe.sources.items()
        for name, _ in settings.steps
        if name in names
    )


def _read(path: str) -> list[Arm]:
    """The arms of a file, or of one that comes with Headrace, by name: configs/ablations/NAME.yaml."""
    places = [Path(path), *(folder / "ablations" / f"{path}.yaml" for folder in folders())]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UserError(f"--arms {path}: is neither a file nor one of {', '.join(PLANS)}")
    try:
        written = TypeAdapter(_Written).validate_python(read_yaml(file))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path}: {where}: {first['msg'][0].lower()}{first['msg'][1:]}; a file of arms is `arms: {{NAME: {{recipe: FILE, "
            "profile: P, set: [a.b=c], mixture: [per_source.S.repeats=2]}, ...}`, two arms at least"
        ) from None
    except (RecipeError, yaml.YAMLError) as error:
        raise UserError(str(error)) from None
    if wrong := next((name for name in written.arms if not NAME.fullmatch(name)), None):
        raise UserError(f"{path}: arms.{wrong}: a name has letters, digits, + . _ and -")
    folder = file.resolve().parent
    found = []
    for name, arm in written.arms.items():
        arm = arm or _WrittenArm()
        recipe = str(folder / arm.recipe) if arm.recipe and (folder / arm.recipe).is_file() else arm.recipe
        found.append(Arm(name, arm.set, arm.mixture, recipe, arm.profile))
    return found
