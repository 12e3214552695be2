"""A first recipe for files of one's own: what they hold is found by looking at them."""

from __future__ import annotations

import os
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import orjson

from pipeline import storage
from pipeline.jobs.inputs import SourceFile
from pipeline.program import program
from pipeline.recipe.describe import pages
from pipeline.recipe.look import look
from pipeline.run_folder.folder import CLAIM, MADE_BY
from stages.errors import UserError
from stages.extract.extract import Extract
from stages.quality.language import packaged_model
from stages.read import ReadSpec
from stages.read.names import suffixes
from stages.read.sniff import Looks, looks_of
from stages.units import show_bytes

NO_RECORDS = frozenset({"tokenizer.json", "package.json", "package-lock.json", "tsconfig.json", "requirements.txt"})
LISTED = 12  # files that a recipe names one by one; more stand as a pattern
NO_TEXT = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")  # words that YAML takes for something else
PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9./*_-]*")


@dataclass(frozen=True)
class Asked:
    """What the user says: the recipe's name; the language to keep (None: that of most web pages; "any": all); tokenizer."""

    name: str
    language: str | None = None
    tokenizer: str | None = None


@dataclass(frozen=True)
class Found:
    """Files that make one source: they lie in one folder, and look alike. languages: of the first documents."""

    name: str
    paths: tuple[str, ...]
    files: tuple[SourceFile, ...]
    format: str
    looks: Looks | None
    language: str | None

    @property
    def amount(self) -> str:
        """How many files, and how large."""
        return f"{len(self.files):,} file{'s' * (len(self.files) > 1)}, {show_bytes(sum(file.size for file in self.files))}"


def find(places: Sequence[str], home: Path) -> tuple[list[Found], list[str]]:
    """The sources in files and folders, and a sentence for each file that is left out. home: of the recipe-to-be.

    Raises UserError where there is no such file, or none that can be read.
    """
    notes: list[str] = []
    groups: dict[tuple[str, str, Looks | None], list[SourceFile]] = {}
    for file in _files(places, notes):
        format = ReadSpec().format_of(file.name)  # by its name alone
        try:
            looks = None if format in ("warc", "text") else _looks(file, format)
            if looks is not None and looks.text is None:
                raise UserError(f"{file.name}: none of its fields holds text ({', '.join(looks.fields[:12])})")
        except UserError as error:
            notes.append(f"left out: {error}")
            continue
        like = looks and Looks((), looks.text, looks.id, looks.url, looks.delimiter)
        groups.setdefault((str(PurePosixPath(file.name).parent), format, like), []).append(file)
    if not groups:
        raise UserError(
            f"no file in {', '.join(places)} can be read" + "".join(f"; {note}" for note in notes[:3]) + "; name files or "
            "folders that hold JSON lines, CSV, Parquet, WARC or plain text"
        )
    named = _names([(folder, format, files) for (folder, format, _), files in groups.items()])
    found = []
    for name, ((_, format, looks), files) in zip(named, groups.items(), strict=True):
        paths = _paths(files, [file for other in groups.values() if other is not files for file in other], home)
        found.append(Found(name, paths, tuple(files), format, looks, _language(files[0], format, looks)))
    return found, notes


def _files(places: Sequence[str], notes: list[str]) -> Iterator[SourceFile]:
    for place in places:
        listed = storage.list_files(place)
        if not listed:
            raise UserError(f"{place}: there is no such file or folder" if not storage.exists(place) else f"{place}: is empty")
        names = {entry.uri: entry.name.removeprefix("./") for entry in listed}
        runs = {str(PurePosixPath(name).parent) for name in names.values() if storage.name_of(name) in (CLAIM, *MADE_BY)}
        for entry in listed:
            name = names[entry.uri]
            if any(name.startswith(f"{run}/") for run in runs) or storage.name_of(name) in NO_RECORDS:
                continue
            try:
                ReadSpec().format_of(name)
            except UserError:
                continue  # recipes, programs, pictures
            if entry.size == 0:
                notes.append(f"left out: {name}: is empty")
                continue
            yield SourceFile(entry.uri, name, entry.size, entry.version, entry.witness)


def _looks(file: SourceFile, format: str) -> Looks:
    with storage.open_random(file.uri) if format == "parquet" else storage.open_stream(file.uri) as stream:
        return looks_of(stream, file.name, format)


def _names(groups: Sequence[tuple[str, str, list[SourceFile]]]) -> list[str]:
    """A name for each group, all different: its file's where it has one, else its folder's, or the format's."""
    found: list[str] = []
    for folder, format, files in groups:
        plain = PurePosixPath(files[0].name).name.split(".")[0] if len(files) == 1 else PurePosixPath(folder).name
        name = re.sub(r"[^A-Za-z0-9_-]+", "-", plain).strip("-_").lower() or format
        name = name if name != "all" else f"all-{format}"
        options = [name, f"{name}-{format}", *(f"{name}-{number}" for number in range(2, 1000))]
        found.append(next(option for option in options if option not in found))
    return found


def _paths(files: Sequence[SourceFile], others: Sequence[SourceFile], home: Path) -> tuple[str, ...]:
    """The files as the recipe names them: by a pattern where that matches no others, relative to its folder."""
    folder = PurePosixPath(files[0].name).parent
    endings = {"".join(f".{s.lstrip('.')}" for s in suffixes(file.name)) for file in files}
    if len(files) > 1 and all(PurePosixPath(file.name).name.endswith(tuple(endings)) for file in files):
        patterns = [str(folder / f"*{ending}") for ending in sorted(endings)]
        taken = {entry.name for pattern in patterns for entry in storage.list_files(pattern)}
        whole = {file.name for file in files} == taken and not taken & {file.name for file in others}
        if whole or len(files) > LISTED:
            return tuple(_from_home(pattern, home) for pattern in patterns)
    return tuple(_from_home(file.name, home) for file in files)


def _from_home(path: str, home: Path) -> str:
    if not storage.is_local(path) or path.startswith(("/", "~", "file:")):
        return path
    return PurePosixPath(os.path.relpath(path, home)).as_posix()


def _language(file: SourceFile, format: str, looks: Looks | None) -> str | None:
    """The language of most of the first documents; None where it cannot be told."""
    settings = {"delimiter": looks.delimiter, "text_field": looks.text} if looks else {}
    read = ReadSpec.model_validate(settings)
    pages = format == "warc" and read.holds_pages(file.name)
    try:
        found = look(file, read, Extract(engine="blocks") if pages else None).languages
    except UserError:
        return None
    counts = Counter(dict(found or ()))
    counts.pop("none", None)
    return counts.most_common(1)[0][0] if counts else None


# ---- the recipe


def recipe_text(found: Sequence[Found], asked: Asked, path: str) -> str:
    """A recipe for these sources, with comments that say what each line does."""
    lines = [
        f"# Written by `{program()} init` for the files that it found. Change what you like, then:",
        f"#   {program()} validate {path}     checks everything without running it, and shows the first documents",
        f"#   {program()} run {path}          makes token shards; --train olmoe_tiny trains a tiny model on them",
        f"# `{program()} steps` lists all there is, `{program()} steps NAME` tells all of one. Paths are relative to this file.",
        "",
        f"name: {asked.name}",
        "",
        "sources:",
    ]
    for one in found:
        lines += _source(one, asked)
    lines += ["", "tokenizer:", *_tokenizer(asked.tokenizer), ""]
    lines += [
        "shards: {bytes: 64MiB, held_out: 0.02}    # size of a token file; share of documents kept for measuring loss",
        "",
        "mixture:",
        "  epochs: 1    # passes over the whole mixture; or `tokens: 1B`, how many training sees in all",
        f"  # per_source: {{{found[0].name}: {{repeats: 2}}}}    # this source twice as often; `share: 0.3` asks for a share",
        "",
        "# run: {failures: {documents: 0.01, files: 1}}    # let so many records and files be unreadable before a run stops",
    ]
    return "\n".join(lines) + "\n"


def _source(one: Found, asked: Asked) -> list[str]:
    lines = [f"  {one.name}:    # {one.amount}, {one.format}", "    read:"]
    lines.append(f"      paths: [{', '.join(map(_text, one.paths))}]")
    if one.looks is not None:
        usual = ReadSpec()
        for key, value, default in (
            ("text_field", one.looks.text, usual.text_field),
            ("id_field", one.looks.id, usual.id_field),
            ("url_field", one.looks.url, usual.url_field),
            ("delimiter", one.looks.delimiter, None),
        ):
            if value != default:
                lines.append(f"      {key}: {'null' if value is None else _text(value)}")
    return [*lines, "    steps:", *(f"      {line}" for line in _steps(one, asked))]


def _steps(one: Found, asked: Asked) -> list[str]:
    web = one.format == "warc"
    language = asked.language or (one.language if web else None)
    lines = []
    if web and ReadSpec().holds_pages(one.files[0].name):
        lines.append(_step("extract", "extract"))
    wanted = language not in (None, "any") and _has_model()
    label = language if language not in (None, "any") else one.language or "en"
    lines.append(("" if wanted else "# ") + _step(f"language: {{label: [{label}]}}", "language"))
    # Gopher's stop words are English ones: of another language no document would have them.
    quality = "gopher_quality" if label == "en" else "gopher_quality: {stop_words: 0}"
    lines += [("" if web else "# ") + _step(text, text.partition(":")[0]) for text in (quality, "repetition")]
    method = "minhash" if web else "exact"
    return [*lines, _step(f"dedup: {{method: {method}}}", method)]


def _has_model() -> bool:
    try:
        return bool(packaged_model())
    except UserError:
        return False


def _step(text: str, page: str) -> str:
    return f"- {text:28} # {textwrap.shorten(pages()[page].line, 90, placeholder=' ...')}"


def _tokenizer(asked: str | None) -> list[str]:
    options = {
        "train": "train: {vocab_size: 8192}    # learned from these documents",
        "path": "path: tokenizer.json          # a file of your own",
        "hub": "hub: allenai/OLMoE-1B-7B-0924 # a model on the Hugging Face hub",
    }
    chosen = "train"
    if asked not in (None, "train"):
        is_file = str(asked).endswith(".json") or storage.exists(str(asked))
        chosen = "path" if is_file else "hub"
        options[chosen] = f"{chosen}: {_text(str(asked))}"
    return [f"  {options.pop(chosen)}", *(f"  # {line}" for line in options.values())]


def _text(value: str) -> str:
    """A text as YAML has it within brackets."""
    plain = PLAIN.fullmatch(value) and not value.startswith(("*", "-", ".")) and value.lower() not in NO_TEXT
    return value if plain else orjson.dumps(value).decode()
