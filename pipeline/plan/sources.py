"""Where a source's files lie, and how they are cut into splits: what one task reads."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline import storage
from pipeline.jobs.cut import Gathered, Range
from pipeline.jobs.inputs import SourceFile
from pipeline.plan.lists import LIST, parse_list, read_list, root_of
from pipeline.recipe.recipe import Recipe
from pipeline.storage.uri import as_written, located
from stages.cache import cache_root
from stages.errors import UserError
from stages.read import ReadSpec
from stages.read.compression import compression_of

SAMPLE = "sample:"
SPLITS = 1024
LEAST_SPLIT, MOST_SPLIT = 8 << 20, 256 << 20  # bytes
LEAST_SPLITS = 16  # of a source that has as many files
MOST_IN_MEMBER, ENOUGH_PARTS = 8, 64  # of compressed files that can only be read from their beginning


def sample_folder() -> Path:
    """Where the sample corpus lies on this machine, collected when it is first asked for."""
    return cache_root() / "sample"


def list_files(source: str, paths: Sequence[str], folder: str | None = None) -> list[SourceFile]:
    """All files of a source in canonical order: patterns as the recipe orders them, names sorted within each.

    folder: of the recipe, that relative paths are relative to; documents name files without it. Raises UserError for a
    pattern that matches nothing: a source that silently is empty ruins a mixture.
    """
    files: dict[str, SourceFile] = {}
    for pattern in paths:
        found = _list_pattern(source, pattern, folder)
        if not found:
            raise UserError(f"sources.{source}.read.paths: nothing found at {_where(pattern, folder)}")
        for file in found:
            known = files.setdefault(file.name, file)
            if known.uri != file.uri and known.version != file.version:
                raise UserError(
                    f"sources.{source}.read.paths: two addresses are {file.name} but for a password or signature, and lead to "
                    "different files: documents would not know which is theirs; give one of the files another address"
                )
    root = common_folder([_fixed_folder(storage.public_name(pattern), files) for pattern in paths])
    return [replace(file, label=file.name.removeprefix(root)) for file in files.values()]


def common_folder(folders: Sequence[str]) -> str:
    """The longest folder, with its slash, that all of these begin with; "" where there is none."""
    split = [folder.split("/")[:-1] for folder in folders]
    same = 0
    while all(len(parts) > same and parts[same] == split[0][same] for parts in split):
        same += 1
    return "".join(f"{part}/" for part in split[0][:same])


def _fixed_folder(pattern: str, files: Mapping[str, SourceFile]) -> str:
    """The folder, with its slash, below which all files of a pattern lie, as documents name files."""
    if pattern.startswith(LIST):  # the same for every part of a list
        return root_of(parse_list(pattern).uri)
    pattern = pattern.removeprefix("file://")
    wild = re.search(r"[*?\[{]", pattern)
    fixed = pattern[: wild.start()] if wild else pattern
    if wild is None and pattern not in files:  # a folder, or a file under another spelling of its name
        names = [name for name in files if name.startswith(pattern.rstrip("/") + "/")]
        fixed = pattern.rstrip("/") + "/" if names else next(iter(files))
    return fixed[: fixed.rfind("/") + 1]


def _list_pattern(source: str, pattern: str, folder: str | None) -> list[SourceFile]:
    if pattern.startswith(SAMPLE):
        return _list_sample(pattern)
    return _list_named(source, pattern, folder) if pattern.startswith(LIST) else _list_stored(pattern, folder)


def _list_named(source: str, pattern: str, folder: str | None) -> list[SourceFile]:
    """The files that a list of paths names. Raises UserError where one is not there."""
    wanted = parse_list(pattern)
    full = located(wanted.uri, folder)
    uris = read_list(wanted._replace(uri=full))
    found = storage.find_files(uris)
    missing = [uri for uri, entry in zip(uris, found, strict=True) if entry is None]
    if missing:
        raise UserError(
            f"sources.{source}.read.paths: of {len(uris):,} paths in {storage.public_name(pattern)}, {len(missing):,} lead to no "
            f"file, the first to {storage.public_name(missing[0])}; check the list, or the address before it"
        )
    return [_source_file(entry, folder if full != wanted.uri else None) for entry in found if entry is not None]


def _list_stored(pattern: str, folder: str | None) -> list[SourceFile]:
    full = located(pattern, folder)
    if full == pattern or folder is None:
        return [_source_file(entry) for entry in storage.list_files(pattern)]
    if not storage.local_path(full).exists():  # a pattern, which the folder's own name is none of
        full = located(pattern, re.sub(r"[*?\[{]", r"[\g<0>]", folder))
    return [_source_file(entry, folder) for entry in storage.list_files(full)]


def _source_file(entry: storage.Entry, folder: str | None = None) -> SourceFile:
    """folder: which documents' file names go without."""
    name = as_written(entry.name, folder)
    return SourceFile(entry.uri, name, entry.size, entry.version, entry.witness, whole=entry.size)


def _where(pattern: str, folder: str | None) -> str:
    """A path that leads nowhere, where that is, and what may be meant."""
    shown, full = storage.public_name(pattern), located(pattern, folder)
    if folder is None or full == pattern:
        return f"{shown}; check the path or pattern"
    text = f"{shown} in {folder}, the recipe's folder, which its paths are relative to"
    if storage.list_files(pattern):
        return f"{text}; it is there in the current folder: write {os.path.relpath(pattern, folder)}"
    head, _, name = full.rpartition("/")
    if not Path(head).is_dir():
        return f"{text}; there is no folder {head}" if not re.search(r"[*?\[{]", head) else f"{text}; check the pattern"
    near = difflib.get_close_matches(name, [path.name for path in Path(head).iterdir()], 1)
    return f"{text}" + (f"; did you mean {pattern.removesuffix(name)}{near[0]}?" if near else "; check the path or pattern")


def _list_sample(pattern: str) -> list[SourceFile]:
    """Files of the sample corpus: named without this machine's paths, and told apart by their checksums."""
    from stages.sample.write import write_sample

    folder = sample_folder()
    report = write_sample(folder)
    digests = {name: digest for source in report["sources"].values() for name, digest in source["files"].items()}
    found = storage.list_files(f"{folder}/{pattern.removeprefix(SAMPLE)}")
    names = {entry.uri: entry.uri.removeprefix(f"{folder}/") for entry in found}
    return [SourceFile(e.uri, SAMPLE + names[e.uri], e.size, digests[names[e.uri]], e.witness) for e in found]


def split_size(total: int, wanted: int | None) -> int:
    """Bytes that one task reads, about, of a source of `total` bytes: as the recipe wants it, else a thousandth of the source.

    So a source of a gigabyte or more keeps hundreds of cores busy to its end; a task is not so small that its start counts,
    nor so large that what a lost node had in hand does.
    """
    return wanted or min(MOST_SPLIT, max(LEAST_SPLIT, total // SPLITS))


def parts_in_member(files: int) -> int:
    """Into how many parts a compressed file of a source of so many is cut at most, where it can only be read from its
    beginning: each part decompresses what stands before it, and only few files leave cores idle. 1: it is not cut."""
    return max(1, min(MOST_IN_MEMBER, ENOUGH_PARTS // max(1, files)))


def is_cut(file: SourceFile, read: ReadSpec, split_bytes: int, in_member: int) -> bool:
    """Whether a file is large and can be read from its middle: Parquet, JSON lines; compressed ones where few files are there
    and they lie near, as they are read more than once."""
    if file.size <= split_bytes:
        return False
    kind = read.format_of(file.name)
    plain = read.compression == "none" or (read.compression is None and compression_of(file.name) is None)
    return kind == "parquet" or (kind == "jsonl" and (plain or (in_member > 1 and not is_outside(file.uri))))


def is_outside(uri: str) -> bool:
    """Whether a file lies on the hub or on a web server, which count requests and bytes."""
    return uri.removeprefix(LIST).startswith(("hf://", "http://", "https://"))


def gather_size(total: int, wanted: int | None, split_bytes: int) -> int:
    """Bytes of small files that one task reads, about: a source of a few small ones has a task for each, so that one more
    makes none of these anew."""
    return split_bytes if wanted else min(split_bytes, -(-total // LEAST_SPLITS))


@dataclass(frozen=True)
class Piece:
    """A file, or a range of it: the `number`th that it was cut into."""

    file: SourceFile
    number: int = 0

    @property
    def place(self) -> tuple[str, int]:
        """What it is known by, whatever else a source holds."""
        return self.file.name, self.number


def pieces_of(files: Sequence[SourceFile], ranges: Mapping[str, Sequence[Range]]) -> list[Piece]:
    """Files in order, those that are cut (by `ranges`, by URI) range by range."""
    found: list[Piece] = []
    for file in files:
        cut = [_range(file, one) for one in ranges.get(file.uri, ())]
        found += [Piece(one, number) for number, one in enumerate(cut or [file])]
    return found


def _range(file: SourceFile, one: Range) -> SourceFile:
    return replace(file, size=one.size, lines=one.lines, row_groups=one.row_groups, member=one.member)


def gather(
    pieces: Sequence[Piece], size: int, earlier: Sequence[Gathered] = (), most: int = 0
) -> list[tuple[Piece, ...]]:
    """Consecutive pieces in groups of about `size` bytes.

    earlier: groups that were made before. Each whose ends are still there stays as it is, with what has come between; what has
    come before or behind is in groups of its own. So few tasks run again for files that are added. Groups of several pieces that
    hold more than `most` bytes are gathered anew.
    """
    places = {piece.place: number for number, piece in enumerate(pieces)}
    ends: dict[int, int] = {}
    for one in earlier:
        first, last = places.get(one.first, -1), places.get(one.last, -1)
        if 0 <= first <= last and (first == last or _bytes(pieces[first : last + 1]) <= most):
            ends[first] = last + 1
    groups: list[list[Piece]] = []
    room, number = -1, 0
    while number < len(pieces):
        if end := ends.get(number):
            groups.append(list(pieces[number:end]))
            room, number = -1, end
            continue
        piece = pieces[number]
        if piece.file.size > room:
            groups.append([])
            room = size
        groups[-1].append(piece)
        room -= piece.file.size
        number += 1
    return [tuple(group) for group in groups]


def _bytes(pieces: Sequence[Piece]) -> int:
    return sum(piece.file.size for piece in pieces)


def unversioned(files: Mapping[str, Sequence[SourceFile]], check: str) -> list[str]:
    """A sentence about the files of which their server tells the size alone, unless bytes are compared (`check`)."""
    found = [file.name for listed in files.values() for file in listed if storage.is_size_only(file.version)]
    if not found or check == "content":
        return []
    others = f" and {len(found) - 1} more" if len(found) > 1 else ""
    return [
        f"{found[0]}{others}: the server tells neither an ETag nor a date, so another file of the same size is not noticed; "
        "set run.check_inputs to content, or copy it to a disk or bucket"
    ]


def by_content(files: Mapping[str, Sequence[SourceFile]], run: str) -> dict[str, list[SourceFile]]:
    """The files with a digest of their bytes for a version (`run.check_inputs: content`); sample files have one already."""
    stored = [file for listed in files.values() for file in listed if not file.name.startswith(SAMPLE)]
    digests = dict(zip(stored, storage.ContentDigests(run).of(stored), strict=True)) if stored else {}
    return {
        source: [replace(file, version=digests.get(file, file.version)) for file in listed]
        for source, listed in files.items()
    }


def list_all(recipe: Recipe) -> dict[str, list[SourceFile]]:
    """`list_files` for every source."""
    return {name: list_files(name, source.read.paths, recipe.folder) for name, source in recipe.sources.items()}
