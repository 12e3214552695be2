"""Arms of an experiment: a recipe with steps left out, or what a file of arms says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import Field, TypeAdapter, ValidationError

from pipeline.overrides import RecipeError, read_yaml
from pipeline.recipe import Recipe
from stages.errors import UserError
from stages.step import Settings, Step

PLANS = ("all-but-one", "cumulative", "dedup")
NAME = re.compile(r"[A-Za-z0-9+][A-Za-z0-9_.+-]*")


@dataclass(frozen=True)
class Arm:
    """One arm: a recipe (None: the experiment's) with changes, and changes of the mixture of its tokens.

    after: the arm whose work it goes on from (None: the first one's).
    """

    name: str
    assignments: tuple[str, ...] = ()  # of the recipe, as `--set` has them
    mixture: tuple[str, ...] = ()  # of the mixture, as `mix --set` has them
    recipe: str | None = None
    profile: str | None = None
    after: str | None = None


class _WrittenArm(Settings):
    """An arm as a file writes it."""

    recipe: str | None = None
    profile: str | None = None
    set: tuple[str, ...] = ()
    mixture: tuple[str, ...] = ()


class _Written(Settings):
    arms: dict[str, _WrittenArm | None] = Field(min_length=2)


def arms_of(plan: str, recipe: Recipe) -> list[Arm]:
    """The arms of a ready plan, or of a file; all others are compared with the first. Raises UserError."""
    if plan == "all-but-one":
        return [Arm("all"), *(Arm(f"no-{name}", _without(recipe, [name])) for name in _steps(recipe))]
    if plan == "cumulative":
        names = _steps(recipe)
        found = [Arm("raw", _without(recipe, names))]
        for number, name in enumerate(names, start=1):
            found.append(Arm(f"+{name}", _without(recipe, names[number:]), after=found[-1].name))
        return found
    if plan == "dedup":
        names = _steps(recipe, dedups=True)
        if not names:
            raise UserError("--arms dedup: the recipe has no dedup in its sources' steps")
        return [Arm("with-dedup"), Arm("without-dedup", _without(recipe, names))]
    return _read(plan)


def _steps(recipe: Recipe, dedups: bool = False) -> list[str]:
    """Names of the steps that may be left out, as sources have them one after another: all but those that take text out."""
    found: dict[str, None] = {}
    for source in recipe.sources.values():
        for name, item in source.steps:
            if not getattr(item, "takes_pages", False) and not (dedups and isinstance(item, Step)):
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
    if not Path(path).is_file():
        raise UserError(f"--arms {path}: is neither a file nor one of {', '.join(PLANS)}")
    try:
        written = TypeAdapter(_Written).validate_python(read_yaml(Path(path)))
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
    folder = Path(path).resolve().parent
    found = []
    for name, arm in written.arms.items():
        arm = arm or _WrittenArm()
        recipe = str(folder / arm.recipe) if arm.recipe and (folder / arm.recipe).is_file() else arm.recipe
        found.append(Arm(name, arm.set, arm.mixture, recipe, arm.profile))
    return found
