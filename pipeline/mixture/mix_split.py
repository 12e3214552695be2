"""Sources of finished runs that a mixture splits anew: `mix --split`, and what a recipe that it is made by says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from pipeline import storage
from pipeline.mixture.resplit import Split, resplit
from pipeline.recipe.explain import explain
from pipeline.recipe.members import Split as Axes
from pipeline.recipe.members import members_of as check_members
from pipeline.recipe.overrides import nearest, read_yaml
from pipeline.recipe.recipe import Recipe
from pipeline.run_folder.finished import read_recipe
from pipeline.run_folder.folder import MADE_BY, RUN
from pipeline.run_folder.manifest import members_of
from stages.errors import UserError
from stages.marks import in_key
from stages.tokens.manifest_shape import Manifest
from stages.tokens.split import Axis

Asked = dict[tuple[str, str], tuple[Axis, ...]]
"""By run and source, how it is split."""


def splits_asked(manifests: Mapping[str, Manifest], written: Sequence[str], recipe: Recipe | None) -> Asked:
    """What is to be split, and how: by `--split`, else by the recipe, where it splits a source otherwise than the run did.

    written: `SOURCE=AXES` or `FOLDER/SOURCE=AXES`, or a YAML file that holds them. Raises UserError.
    """
    found: Asked = {}
    for name, source in recipe.sources.items() if recipe else ():
        for run, manifest in manifests.items():
            if source.split and members_of(manifest, name) and storage.exists(storage.join(run, RUN)):
                there = read_recipe(run).sources.get(name)
                if there is None or in_key(there.split) != in_key(source.split):
                    found[run, name] = source.split
    for place, axes in (one for text in written for one in _written(text)):
        found[_place(manifests, place)] = axes
    for (run, source), axes in found.items():
        _check(run, source, axes)
    return found


def _written(text: str) -> Iterator[tuple[str, tuple[Axis, ...]]]:
    place, equals, value = text.partition("=")
    try:
        if equals:
            data: Any = {place: yaml.safe_load(value)}
        elif Path(text).is_file():
            data = read_yaml(Path(text))
        else:
            raise UserError(f"--split {text}: is no file; write SOURCE={{by: STEP.MEASURE, at: [...]}}, or name a file")
        yield from TypeAdapter(dict[str, Axes]).validate_python(data).items()
    except yaml.YAMLError as error:
        raise UserError(f"--split {text}: is no YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise UserError(f"--split {explain(error, dict[str, Axes])}") from None


def _place(manifests: Mapping[str, Manifest], place: str) -> tuple[str, str]:
    """The run and the source that a place names."""
    folder, _, source = place.rpartition("/")
    runs = [run for run in manifests if not folder or run.rstrip("/") == folder.rstrip("/")]
    found = [run for run in runs if members_of(manifests[run], source)]
    if len(found) == 1:
        return found[0], source
    if found:
        raise UserError(f"--split {place}: a source of {' and of '.join(found)}; write {found[0].rstrip('/')}/{source}")
    known = dict.fromkeys(e.get("of", name) for run in runs for name, e in manifests[run]["sources"].items())
    raise UserError(f"--split {place}: there is no source {source!r}{nearest(source, list(known))}")


def _check(run: str, source: str, axes: Sequence[Axis]) -> None:
    """Raise UserError where a source cannot be split so: no run, or no such measure."""
    if not storage.exists(storage.join(run, RUN)):
        made = next((command for name, command in MADE_BY.items() if storage.exists(storage.join(run, name))), "an older version")
        raise UserError(
            f"--split {source}: {run} was made by `{made}` and has no record of documents; name the run that has read them"
        )
    recipe = read_recipe(run)
    steps = recipe.sources[source].steps
    others = {name: (one.split, one.steps) for name, one in recipe.sources.items() if name != source}
    try:
        check_members({**others, source: (tuple(axes), steps)}, recipe.dedup)
    except PydanticCustomError as error:
        path, text = (error.context or {})["path"], (error.context or {})["text"]
        raise UserError(f"{run}: {'.'.join(path)}: {text}") from None


def split_all(manifests: Mapping[str, Manifest], asked: Asked, scratch: Path) -> dict[tuple[str, str], Split]:
    """Each source split as it is asked; files are written to `scratch`."""
    found = {}
    for number, ((run, source), axes) in enumerate(asked.items()):
        folder = scratch / str(number)
        folder.mkdir()
        found[run, source] = resplit(run, manifests[run], source, axes, folder)
    return found
