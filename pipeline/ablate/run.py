"""An experiment from its arms to its result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from pipeline.ablate.arms import BY_MEASURE, QUANTILES, Arm, By, arms_of, by_of
from pipeline.ablate.compare import Loss, difference, score
from pipeline.ablate.composition import Explained, explained
from pipeline.ablate.data import ArmData, Asked, prepare
from pipeline.ablate.show import ArmResult, Result, draw, table_of
from pipeline.ablate.train import Plan, train_all
from pipeline.engine.place import Placement
from pipeline.recipe.recipe import Recipe, load_recipe
from stages.errors import UserError
from stages.quality.classifier import Quality
from stages.tokens.shard_format import write_bytes

SORTS = 0.5  # of the order by a score, told by something else: from here on a note says that it is


@dataclass(frozen=True)
class Experiment:
    """What is asked for: a recipe, a plan of arms, and how models are trained."""

    recipe: str
    profile: str | None
    assignments: tuple[str, ...]
    arms: str
    out: Path
    training: Plan
    by: str | None = None
    quantiles: tuple[float, ...] = QUANTILES


def ablate(asked: Experiment, placement: Placement, say: Callable[[str], None]) -> Result:
    """Carry out an experiment, or what is left of it; its result, which is also written to `asked.out` as ablation.json, .csv
    and .png. Raises UserError for what the user can mend, before the first run where that can be told."""
    training = asked.training
    config = trainer_config(training.config, training.settings, training.tokens)
    texts = evaluation_texts(training.evaluation)
    recipe = load_recipe(asked.recipe, asked.profile, asked.assignments)
    by = by_of(recipe, asked.by, asked.quantiles) if asked.arms in BY_MEASURE else None
    arms = arms_of(asked.arms, recipe, by)
    _check(arms, asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    data_asked = Asked(asked.recipe, asked.profile, asked.assignments, training.tokens, config.data.sequence_length)
    data = prepare(arms, data_asked, asked.out, placement, texts)
    losses = train_all(training, data, asked.out, evaluation_hash(texts), placement, say)
    told = explained(asked.out / "runs" / arms[0].name, by.source, by.column) if by else None
    found = _result(asked, recipe, arms, data, losses, by, told)
    write_bytes(asked.out / "ablation.json", msgspec.json.format(msgspec.json.encode(found), indent=1))
    write_bytes(asked.out / "ablation.csv", table_of(found))
    draw(found, asked.out / "ablation.png")
    return found


def trainer_config(path: str, settings: Sequence[str], tokens: int) -> Any:
    """The trainer's configuration. Raises UserError where it is none, or cannot train on exactly so many tokens."""
    errors = import_module("trainer.errors")
    try:
        config = import_module("trainer.config").load(Path(path), list(settings))
    except errors.TrainerError as error:
        raise UserError(str(error)) from None
    batch = config.train.batch_tokens
    if tokens < batch or tokens % batch:
        near = max(1, round(tokens / batch)) * batch
        raise UserError(
            f"--tokens {tokens:,}: is no multiple of a batch's {batch:,} (train.batch_tokens); {near:,} is the nearest"
        )
    return config


def evaluation_texts(files: Sequence[Path]) -> list[str]:
    """The texts of evaluation files. Raises UserError for one that cannot be read."""
    texts, errors = import_module("trainer.texts"), import_module("trainer.errors")
    try:
        named = texts.text_files(list(files))
        return [one.text for name, path in named.items() for one in texts.read_texts(name, path) if one.text]
    except errors.TrainerError as error:
        raise UserError(str(error).replace("--text", "--eval")) from None


def evaluation_names(files: Sequence[Path]) -> list[str]:
    """What evaluation files are called in results."""
    return list(import_module("trainer.texts").text_files(list(files)))


def evaluation_hash(texts: Sequence[str]) -> str:
    """What tells evaluation texts from others: the same for the same texts in the same order."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        digest.update(len(text.encode()).to_bytes(8, "little") + text.encode())
    return digest.hexdigest()


def _check(arms: Sequence[Arm], asked: Experiment) -> None:
    """Raise UserError for a recipe of an arm that is none: all are looked at before the first runs."""
    if len(arms) < 2:
        raise UserError(f"--arms {asked.arms}: there is one arm alone, and nothing to compare it with")
    for arm in arms:
        path, profile = (asked.recipe, asked.profile) if arm.recipe is None else (arm.recipe, arm.profile)
        try:
            load_recipe(path, profile, [*asked.assignments, *arm.assignments])
        except UserError as error:
            raise UserError(f"arm {arm.name}: {error}") from None


def _result(
    asked: Experiment,
    recipe: Recipe,
    arms: Sequence[Arm],
    data: dict[str, ArmData],
    losses: dict[str, list[list[Loss]]],
    by: By | None,
    told: Explained | None,
) -> Result:
    base = arms[0].name
    files = list(dict.fromkeys(one.file for one in losses[base][0]))
    results = {}
    for arm in arms:
        scores = {file: score(losses[arm.name], file) for file in files}
        against = {} if arm.name == base else {file: difference(losses[arm.name], losses[base], {file: 1.0}) for file in files}
        results[arm.name] = ArmResult(data[arm.name], scores, against)
    return Result(
        recipe=recipe.name,
        profile=recipe.profile or "",
        config=asked.training.config,
        settings=list(asked.training.settings),
        tokens=asked.training.tokens,
        seeds=len(asked.training.seeds),
        tokenizer=hashlib.sha256((asked.out / "tokenizer.json").read_bytes()).hexdigest(),
        by=f"{by.source}.{by.column}" if by else "",
        explained=told,
        notes=[*_notes(recipe, base, data, len(asked.training.seeds)), *_of_score(by, told)],
        arms=results,
    )


def _of_score(by: By | None, told: Explained | None) -> list[str]:
    """What domain and length say of the score by which arms were cut: where much, the arms may differ by nothing else."""
    if by is None or told is None:
        return []
    parts = {"domain": told.by_domain, "length": told.by_length}
    known = ", ".join(f"{name} {part:.0%}" for name, part in parts.items() if part is not None) or "neither: too few documents"
    what = f"{by.source}.{by.column}"
    found = [f"of the order of {told.documents:,} documents by {what} is told by their domain and their length alone: {known}"]
    for name, part in parts.items():
        if part is not None and part >= SORTS:
            found.append(f"{what} sorts by {name}, mostly: a cut by {name} gives nearly the same")
    return found


def _notes(recipe: Recipe, base: str, data: dict[str, ArmData], seeds: int) -> list[str]:
    found = []
    if recipe.tokenizer.train is not None:
        found.append(
            f"all arms have the tokenizer that was trained on documents of {base}, of which "
            f"{sum(data[base].near.sources.values()):,} are near copies of the evaluation text"
        )
    for source, settings in recipe.sources.items():
        for name, step in settings.steps:
            if isinstance(step, Quality) and step.train is not None:
                read = list(dict.fromkeys((*step.train.positive, *step.train.negative)))
                near = max(sum(one.near.sources.get(other, 0) for other in read) for one in data.values())
                where = f"sources.{source}.steps.{name}"
                found.append(
                    f"{where}: its classifier is trained in each arm that has it, on documents of {', '.join(read)} as they are "
                    f"before it; of those that an arm keeps {near:,} at most are near copies of the evaluation text"
                )
    if seeds == 1:
        found.append("with one seed intervals hold what other documents would change, and nothing of what other seeds would")
    return found
