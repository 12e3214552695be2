"""What the folders that a mixture is made of say of themselves: what was asked when they were made, and what they hold out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.folder import IMPORT, MIXTURE, RUN, HeldOutRule, ImportMark, MixtureMark, RunRecipe, read_mark
from pipeline.members import repeats_of_parts
from pipeline.recipe import dump
from stages.tokens.mixture import Mixture, with_repeats


def mixture_of(run: str) -> dict[str, Any]:
    """What was asked when the folder was made, parts of sources by what they say of their repeats; an import asks for nothing."""
    if (mark := read_mark(run, MIXTURE, MixtureMark)) is not None:
        return mark.mixture
    if (recipe := read_mark(run, RUN, RunRecipe)) is None:
        return {}
    repeats = repeats_of_parts({name: source.split or () for name, source in recipe.sources.items()})
    return dump(with_repeats(Mixture.model_validate(recipe.mixture), repeats)) if repeats else recipe.mixture


def held_out_rules(runs: Sequence[str]) -> list[HeldOutRule]:
    """By what rules these folders hold documents out, each with the first folder that has it; one that tells nothing has none."""
    known: list[HeldOutRule] = []
    for run in runs:
        if (mark := read_mark(run, MIXTURE, MixtureMark)) is not None:
            known += mark.held_out
        elif (mark := read_mark(run, IMPORT, ImportMark)) is not None:
            known.append(HeldOutRule(mark.settings.salt, mark.settings.held_out, run))
        elif (mark := read_mark(run, RUN, RunRecipe)) is not None:
            known.append(HeldOutRule(*mark.held_out, run))
    found: dict[tuple[str, float], HeldOutRule] = {}
    for rule in known:
        found.setdefault((rule.salt, rule.share), rule)
    return list(found.values())


def held_out_note(rules: list[HeldOutRule]) -> str:
    """A note on folders that hold out by several rules."""
    return (
        f"{rules[0].folder} and {rules[1].folder} hold out by rules of their own: a text that is in both may be held out of one "
        "and trained on from the other; `import --held-out-as` lets an import hold out what a run does"
    )
