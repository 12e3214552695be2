"""Recipes that come with Headrace, found by name from wherever a command is run, in a checkout and in an installation."""

from __future__ import annotations

import difflib
import os
import sysconfig
from pathlib import Path

from pipeline.recipe.overrides import RecipeError

INSTALLED = Path("share", "headrace")


def folders() -> list[Path]:
    """Where the project's own recipes may lie: beside the code, and where an installation puts them."""
    root = Path(__file__).parents[2]
    data = [Path(sysconfig.get_path("data", scheme)) for scheme in (sysconfig.get_default_scheme(), f"{os.name}_user")]
    places = [root, *(base / INSTALLED for base in (root, *data))]
    return [folder for place in places if (folder := place / "configs").is_dir()]


def shipped() -> dict[str, Path]:
    """The recipes by name, `dclm_mix`; the first of a name counts."""
    found: dict[str, Path] = {}
    for folder in folders():
        for file in sorted(folder.glob("*.yaml")):
            found.setdefault(file.stem, file)
    return found


def is_shipped(file: Path) -> bool:
    """Whether a file is one of the project's own recipes."""
    return file.resolve() in {own.resolve() for own in shipped().values()}


def find_recipe(path: str | Path) -> Path:
    """The file that is meant: this one, or the shipped recipe of this name (`dclm_mix`, `configs/dclm_mix.yaml`).

    Raises RecipeError, with the nearest name, where there is none.
    """
    file = Path(path).expanduser()
    if file.exists():
        return file
    own = shipped()
    if str(path) in {form for name in own for form in (name, f"{name}.yaml", f"configs/{name}.yaml")}:
        return own[file.stem]
    beside = [other.name for other in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
    if near := difflib.get_close_matches(file.name, beside, 1):
        hint = f"did you mean {file.parent / near[0]}?"
    elif near := difflib.get_close_matches(file.stem, list(own), 1):
        hint = f"did you mean {near[0]}, which comes with Headrace?"
    else:
        hint = f"`init` writes one for your own files, and {', '.join(own)} come with Headrace"
    raise RecipeError(f"recipe {path} does not exist; {hint}")
