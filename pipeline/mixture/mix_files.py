"""Writing a mixture's folder: a manifest, the tokenizer, and shards as links to the files that they are."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from pipeline import storage
from pipeline.mixture.mix_members import Member, WholeOf
from pipeline.recipe.recipe import dump
from pipeline.run_folder.folder import (
    MIXTURE,
    HeldOutRule,
    MadeOf,
    MemberOf,
    MixtureMark,
    absolute,
    check_fresh,
    write_mark,
)
from pipeline.run_folder.manifest import SPLITS, shards_of, token_rules
from pipeline.storage.local import sync_folder
from stages.errors import UserError
from stages.tokens.manifest import TOKENIZER_PATH
from stages.tokens.manifest_shape import Manifest, ShardEntry
from stages.tokens.mixture import Mixture
from stages.tokens.shard_format import MANIFEST, manifest_bytes, ranges_bytes

Files = Literal["link", "symlink", "copy"]


@dataclass(frozen=True)
class Written:
    """All that a mixture's folder is made of. manifest: that of the mixture; manifests: of the folders of its members."""

    members: Sequence[Member]
    manifests: Mapping[str, Manifest]
    manifest: Manifest
    mixture: Mixture
    rules: list[HeldOutRule]
    wholes: Sequence[WholeOf]


@dataclass(frozen=True)
class _File:
    """A file to be brought into the folder. made: it was written for this mixture, and is not left where it lies."""

    uri: str
    name: str
    size: int | None = None
    made: bool = False


def write_mixture(out: str, asked: Written, files: Files) -> None:
    """Put the shards, the tokenizer and last the manifest under `out`. Raises UserError where a shard is not whole."""
    out = absolute(out)
    found = list(_files(asked))
    for file in found:
        if file.size is not None and (size := storage.stat(file.uri).size) != file.size:
            raise UserError(f"{file.uri}: has {size:,} bytes, the manifest says {file.size:,}; inspect it")
    with storage.RunLock(out):
        check_fresh(out, MIXTURE)
        mark = MixtureMark(
            mixture=dump(asked.mixture),
            made_of=[MadeOf(run, known["fingerprint"]) for run, known in asked.manifests.items()],
            sources={member.name: MemberOf(member.run, member.source) for member in asked.members},
            held_out=asked.rules,
            token_rules={one.name: token_rules(one.run, [one.source])[one.source] for one in asked.members},
        )
        write_mark(out, MIXTURE, mark)
        storage.clear_scratch(out)  # what was left where this was broken off
        for file in found:
            _place(file.uri, storage.join(out, file.name), "copy" if file.made else files)
        if storage.is_local(out):  # the links have landed before the manifest that vouches for them
            for folder in {storage.local_path(storage.join(out, file.name)).parent for file in found}:
                sync_folder(folder)
        storage.write_bytes(storage.join(out, MANIFEST), manifest_bytes(asked.manifest))
        write_mark(out, MIXTURE, msgspec.structs.replace(mark, finished=True))


def _files(asked: Written) -> Iterator[_File]:
    """Everything but the manifest."""
    width = 2 if asked.manifest["dtype"] == "uint16" else 4
    for member in asked.members:
        made = member.folder != member.run
        for split in SPLITS:
            theirs = member.entry if split == "train" else member.entry["held_out"]
            for known, ours in zip(theirs["shards"], shards_of(asked.manifest, member.name, split), strict=True):
                size = _size(ours, asked.manifest, width)
                yield _File(absolute(storage.join(member.folder, known["path"])), ours["path"], size, made)
                yield _File(absolute(storage.join(member.folder, known["index"])), ours["index"], made=made)
    for whole in asked.wholes:
        for number, file in enumerate(whole.files):
            yield _File(absolute(storage.join(whole.run, file["path"])), whole.place(number), file["tokens"] * width)
    run, first = next(iter(asked.manifests.items()))
    yield _File(absolute(storage.join(run, first["tokenizer"]["path"])), TOKENIZER_PATH)


def _size(shard: ShardEntry, manifest: Manifest, width: int) -> int:
    if "ranges" in shard and "whole" in shard:
        return ranges_bytes(shard["ranges"], len(manifest.get("whole", {})[shard["whole"]]))
    return shard["tokens"] * width


def _place(source: str, target: str, files: Files) -> None:
    """Let `target` be the file `source`, over what is there."""
    if files == "copy":
        with storage.open_output(target) as path:
            storage.copy_to(source, path)
        return
    if not (storage.is_local(source) and storage.is_local(target)):
        raise UserError(f"{source} cannot be linked to {target}: only local files can; --files copy copies them")
    here, there = storage.local_path(source).resolve(), storage.local_path(target)
    there.parent.mkdir(parents=True, exist_ok=True)
    there.unlink(missing_ok=True)  # of a mixture that was broken off: there is no manifest yet
    try:
        if files == "link":
            there.hardlink_to(here)
        else:
            there.symlink_to(os.path.relpath(here, there.parent.resolve()))
    except OSError as error:
        raise UserError(
            f"{source} cannot be linked to {target} ({error.strerror}): hard links need one file system; choose another --out, "
            "or --files symlink (then the run must stay as it is) or --files copy"
        ) from None
