"""What a run needs late is looked up before it starts: hours in, a mistyped path is dear."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline import storage
from pipeline.plan.segments import file_fields
from pipeline.recipe import Recipe
from stages.errors import UserError
from stages.step import Step
from stages.tokens.tokenizer import TokenizerError, check_tokenizer


def check_named_files(recipe: Recipe, inline: bool = False) -> None:
    """Raise UserError, with the recipe's key, for a tokenizer, model, list or saved filter that is not there.

    The tokenizer is also read: one that does not load, or lacks the end token, would be found after all other work. Where
    the tasks are `inline`, in this process, they need not read it again.
    """
    for key, uri in _named_files(recipe):
        try:
            storage.stat(uri)
            of_run = key.startswith("tokenizer.")
            if of_run or key.endswith(".tokenizer"):
                with storage.Cache(storage.cache_folder(), recipe.run.cache_bytes) as cache:
                    path = storage.fetch(uri, cache)
                    named = (recipe.tokenizer.eos_token, recipe.tokenizer.pad_token) if of_run else ()
                    check_tokenizer(path, *named, keep=inline and of_run)
        except (storage.StorageError, TokenizerError) as error:
            raise UserError(f"{key}: {error}") from None


def _named_files(recipe: Recipe) -> Iterator[tuple[str, str]]:
    steps = {f"sources.{name}.steps.": source.steps for name, source in recipe.sources.items()} | {"dedup.": recipe.dedup}
    for where, items in steps.items():
        for name, item in items:
            of_dedup = {key: [uri] for key in ("load", "tokenizer") if (uri := getattr(item, key, None))}
            fields = file_fields(item) if isinstance(item, Step) else of_dedup
            for field, uris in fields.items():
                yield from ((f"{where}{name}.{field}", uri) for uri in uris)
    if recipe.tokenizer.path:
        yield "tokenizer.path", recipe.tokenizer.path
    if recipe.tokenizer.hub:
        yield "tokenizer.hub", f"hf://{recipe.tokenizer.hub}/tokenizer.json"
