"""What a plan is made from besides its recipe: the files of its sources, and the models, lists and tokenizers that it names.

All of it is looked up before the first task: a path that is wrong is told at once, and not hours later.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from pipeline import storage
from pipeline.jobs.inputs import SourceFile
from pipeline.plan.corpus import Inputs
from pipeline.plan.lists import LIST
from pipeline.plan.node import Named
from pipeline.plan.sources import list_all
from pipeline.recipe.against import check_against
from pipeline.recipe.recipe import Recipe
from pipeline.storage.uri import as_written
from stages.dedup.spec import AnyDedup
from stages.errors import UserError
from stages.marks import named_files
from stages.step import Step
from stages.tokens.tokenizer import TokenizerError, check_tokenizer


def look_up(recipe: Recipe, run: str, files: Mapping[str, list[SourceFile]] | None = None, *, inline: bool = False) -> Inputs:
    """List the sources (where `files` does not say what they hold), and find every file that the recipe names.

    Raises UserError, with the recipe's key, for one that is not there.
    """
    for key, item in dedups_of(recipe):
        check_against(key, item)
    named, sizes = named_versions(recipe, inline)
    check_code(recipe)
    return Inputs(run, files or list_all(recipe), named, sizes)


def dedups_of(recipe: Recipe) -> Iterator[tuple[str, AnyDedup]]:
    """The recipe's dedups, each with its key."""
    for source, settings in recipe.sources.items():
        yield from ((f"sources.{source}.steps.{name}", item) for name, item in settings.steps if not isinstance(item, Step))
    yield from ((f"dedup.{name}", item) for name, item in recipe.dedup)


def check_code(recipe: Recipe) -> None:
    """Raise UserError, with the recipe's key, for a function or class of somebody's own that is not found."""
    for source, settings in recipe.sources.items():
        for name, step in settings.steps:
            try:
                if isinstance(step, Step):
                    step.code()
            except UserError as error:
                raise UserError(f"sources.{source}.steps.{name}: {error}") from None


def named_versions(recipe: Recipe, inline: bool = False) -> tuple[dict[str, Named], dict[str, int]]:
    """Versions and sizes, by URI, of the tokenizer, models, lists and saved filters that a recipe names.

    The tokenizer is also read: one that does not load, or lacks the end token, would be found after all other work. Where
    the tasks are `inline`, in this process, they need not read it again. Raises UserError.
    """
    named: dict[str, Named] = {}
    sizes: dict[str, int] = {}
    for key, uri in named_files_of(recipe):
        try:
            of_run, seen = key.startswith("tokenizer."), uri in named
            if not seen:
                stat = storage.stat(uri)
                named[uri], sizes[uri] = Named(uri, stat.version, stat.witness), stat.size
            if of_run or (key.endswith(".tokenizer") and not seen):
                with storage.Cache(storage.cache_folder(), recipe.run.cache_bytes) as cache:
                    path = storage.fetch(uri, cache, version=named[uri].witness)
                    tokens = (recipe.tokenizer.eos_token, recipe.tokenizer.pad_token) if of_run else ()
                    check_tokenizer(path, *tokens, keep=inline and of_run)
        except (storage.StorageError, TokenizerError) as error:
            raise UserError(f"{key}: {error}{_relative(uri, recipe, error)}") from None
    return named, sizes


def addresses_of(recipe: Recipe) -> list[str]:
    """Every address in a recipe: patterns of its sources, and the files that it names."""
    patterns = [pattern.removeprefix(LIST) for source in recipe.sources.values() for pattern in source.read.paths]
    return patterns + [uri for _, uri in named_files_of(recipe)]


def _relative(uri: str, recipe: Recipe, error: Exception) -> str:
    """What to say of a file that is missing under a path relative to the recipe."""
    if not isinstance(error, storage.MissingError) or as_written(uri, recipe.folder) == uri:
        return ""
    return f"; paths in a recipe are relative to its folder, {recipe.folder}"


def named_files_of(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """The recipe's keys that name files, each with a URI."""
    steps: dict[str, tuple[tuple[str, BaseModel], ...]] = {
        **{f"sources.{name}.steps.": source.steps for name, source in recipe.sources.items()},
        "dedup.": recipe.dedup,
    }
    for where, items in steps.items():
        for name, item in items:
            for field, uris in named_files(item).items():
                yield from ((f"{where}{name}.{field}", uri) for uri in uris)
    if recipe.tokenizer.train is None:
        yield f"tokenizer.{'path' if recipe.tokenizer.path else 'hub'}", recipe.tokenizer.uri()
