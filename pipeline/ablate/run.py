"""An experiment from its arms to its result."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from pipeline.ablate.arms import Arm, arms_of
from pipeline.ablate.compare import Loss, difference, score
from pipeline.ablate.data import ArmData, Asked, prepare
from pipeline.ablate.show import ArmResult, Result, draw, table_of
from pipeline.ablate.train import Plan, train_all
from pipeline.place import Placement
from pipeline.recipe import Recipe, load_recipe
from stages.errors import UserError
from stages.quality.classifier import Quality
from stages.tokens.shard_format import write_bytes


@dataclass(frozen=True)
class Experiment:
    """What is asked for: a recipe, a plan of arms, evaluation files, and how models are trained."""

    recipe: str
    profile: str | None
    assignments: tuple[str, ...]
    arms: str
    evaluation: tuple[Path, ...]
    tokens: int
    seeds: int
    config: str
    settings: tuple[str, ...]
    out: Path
    jobs: int
    threads: int
    device: str | None


def ablate(asked: Experiment, placement: Placement, say: Callable[[str], None]) -> Result:
    """Carry out an experiment, or what is left of it; its result, which is also written to `asked.out` as ablation.json, .csv
    and .png. Raises UserError for what the user can mend, before the first run where that can be told."""
    config = _config(asked)
    texts = _texts(asked.evaluation)
    recipe = load_recipe(asked.recipe, asked.profile, asked.assignments)
    arms = arms_of(asked.arms, recipe)
    _check(arms, asked)
    asked.out.mkdir(parents=True, exist_ok=True)
    data_asked = Asked(asked.recipe, asked.profile, asked.assignments, asked.tokens, config.data.sequence_length)
    data = prepare(arms, data_asked, asked.out, placement, texts)
    files = tuple(path.absolute() for path in asked.evaluation)
    plan = Plan(asked.config, asked.settings, asked.tokens, asked.seeds, files, asked.jobs, asked.threads, asked.device)
    losses = train_all(plan, data, asked.out, _hash(texts), say)
    found = _result(asked, recipe, arms, data, losses)
    write_bytes(asked.out / "ablation.json", msgspec.json.format(msgspec.json.encode(found), indent=1))
    write_bytes(asked.out / "ablation.csv", table_of(found))
    draw(found, asked.out / "ablation.png")
    return found


def _config(asked: Experiment) -> Any:
    """The trainer's configuration. Raises UserError where it is none, or cannot train on exactly so many tokens."""
    errors = import_module("trainer.errors")
    try:
        config = import_module("trainer.config").load(Path(asked.config), list(asked.settings))
    except errors.TrainerError as error:
        raise UserError(str(error)) from None
    batch = config.train.batch_tokens
    if asked.tokens < batch or asked.tokens % batch:
        near = max(1, round(asked.tokens / batch)) * batch
        raise UserError(
            f"--tokens {asked.tokens:,}: is no multiple of a batch's {batch:,} (train.batch_tokens); {near:,} is the nearest"
        )
    return config


def _texts(files: Sequence[Path]) -> list[str]:
    texts, errors = import_module("trainer.texts"), import_module("trainer.errors")
    try:
        named = texts.text_files(list(files))
        return [one.text for name, path in named.items() for one in texts.read_texts(name, path) if one.text]
    except errors.TrainerError as error:
        raise UserError(str(error).replace("--text", "--eval")) from None


def _hash(texts: Sequence[str]) -> str:
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
    asked: Experiment, recipe: Recipe, arms: Sequence[Arm], data: dict[str, ArmData], losses: dict[str, list[list[Loss]]]
) -> Result:
    base = arms[0].name
    files = list(dict.fromkeys(one.file for one in losses[base][0]))
    results = {}
    for arm in arms:
        scores = {file: score(losses[arm.name], file) for file in files}
        against = {} if arm.name == base else {file: difference(losses[arm.name], losses[base], file) for file in files}
        results[arm.name] = ArmResult(data[arm.name], scores, against)
    return Result(
        recipe=recipe.name,
        profile=recipe.profile or "",
        config=asked.config,
        settings=list(asked.settings),
        tokens=asked.tokens,
        seeds=asked.seeds,
        tokenizer=hashlib.sha256((asked.out / "tokenizer.json").read_bytes()).hexdigest(),
        notes=_notes(recipe, base, data, asked.seeds),
        arms=results,
    )


def _notes(recipe: Recipe, base: str, data: dict[str, ArmData], seeds: int) -> list[str]:
    found = []
    if recipe.tokenizer.train is not None:
        found.append(
            f"all arms have the tokenizer that was trained on documents of {base}, of whose training documents "
            f"{data[base].near_documents:,} are near copies of the evaluation text"
        )
    for source, settings in recipe.sources.items():
        for name, step in settings.steps:
            if isinstance(step, Quality) and step.train is not None:
                read = ", ".join(dict.fromkeys((*step.train.positive, *step.train.negative)))
                where = f"sources.{source}.steps.{name}"
                found.append(f"{where}: its classifier is trained in each arm, on documents of {read} as they are before it")
    if seeds == 1:
        found.append("with one seed intervals hold what other documents would change, and nothing of what other seeds would")
    return found
