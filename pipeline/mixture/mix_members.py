"""The members of a mixture by the folders that it is made of, and what these say of themselves: what was asked when they were
made, what they hold out, and the files that shards are ranges of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.mixture.resplit import Split
from pipeline.recipe.members import repeats_of_parts
from pipeline.recipe.recipe import dump
from pipeline.run_folder.folder import IMPORT, MIXTURE, RUN, HeldOutRule, ImportMark, MixtureMark, RunRecipe, read_mark
from pipeline.run_folder.manifest import read_corpus
from stages.errors import UserError
from stages.tokens.manifest_shape import Manifest, ShardEntry, SourceEntry, WholeFile
from stages.tokens.mixture import Mixture, with_repeats


@dataclass(frozen=True)
class Member:
    """One source of the mixture, and the folder that it is taken from. folder: where its shards lie, in that or apart."""

    name: str  # in the mixture
    run: str  # as the user named it
    source: str  # its name there
    entry: SourceEntry  # of that folder's manifest
    folder: str


@dataclass(frozen=True)
class WholeOf:
    """Token files of a folder that shards of the mixture are ranges of. known, name: of their list there, and in the mixture."""

    run: str
    known: str
    name: str
    files: Sequence[WholeFile]

    def place(self, number: int) -> str:
        """Where a file lies in the mixture's folder."""
        return f"tokens/whole/{self.name}/{number:05d}.npy"

    def listed(self) -> list[WholeFile]:
        """The list as the mixture's manifest has it."""
        return [WholeFile(**{**file, "path": self.place(number)}) for number, file in enumerate(self.files)]


def members_of_run(run: str, manifest: Manifest, splits: Mapping[tuple[str, str], Split]) -> list[Member]:
    """The members that a folder brings, under the names they have there: in place of a source that is split anew, its parts."""
    found: dict[str, Member] = {}
    for name in manifest["mixture"]["sources"]:
        entry = manifest["sources"][name]
        split = splits.get((run, entry.get("of", name)))
        if split is None:
            found[name] = Member(name, run, name, entry, run)
        else:
            found |= {part: Member(part, run, part, one, split.folder) for part, one in split.entries.items()}
    return list(found.values())


def ranged(member: Member) -> Iterator[ShardEntry]:
    """The shards of a member that are ranges of other files."""
    for split in (member.entry, member.entry["held_out"]):
        yield from (shard for shard in split["shards"] if "ranges" in shard)


def whole_files(
    members: Sequence[Member], manifests: Mapping[str, Manifest], splits: Mapping[tuple[str, str], Split]
) -> list[WholeOf]:
    """The files that shards of the members are ranges of, each list once and under a name of its own."""
    known = {(run, name): files for (run, _), split in splits.items() for name, files in split.whole.items()}
    known |= {(run, name): files for run, one in manifests.items() for name, files in one.get("whole", {}).items()}
    used = dict.fromkeys((member.run, shard["whole"]) for member in members for shard in ranged(member) if "whole" in shard)
    found: dict[str, WholeOf] = {}
    for run, name in used:
        number, own = 1, name
        while own in found:
            number += 1
            own = f"{name}_{number}"
        found[own] = WholeOf(run, name, own, known[run, name])
    return list(found.values())


def mixture_of(run: str) -> dict[str, Any]:
    """What was asked when the folder was made, parts of sources by what they say of their repeats; an import asks for nothing."""
    if (mark := read_mark(run, MIXTURE, MixtureMark)) is not None:
        return mark.mixture
    if (recipe := read_mark(run, RUN, RunRecipe)) is None:
        return {}
    repeats = repeats_of_parts({name: source.split or () for name, source in recipe.sources.items()})
    return dump(with_repeats(Mixture.model_validate(recipe.mixture), repeats)) if repeats else recipe.mixture


def mixture_of_run(folder: str, run: Manifest, name: str) -> Manifest:
    """The manifest of a mixture that was made of a run. name: what the run is called. Raises UserError where it was not."""
    mark = read_mark(folder, MIXTURE, MixtureMark)
    if mark is None or run["fingerprint"] not in [one.fingerprint for one in mark.made_of]:
        raise UserError(f"{folder}: is no mixture that was made of {name} as it is now; `python -m pipeline mix` makes one")
    return read_corpus(folder)


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
