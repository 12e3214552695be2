"""All figures of the page about a finished run: `python -m pipeline report DIR --json` prints them.

What comes from the ledger, the manifest and the dedups is of the whole run. Measures, lengths and samples are read from the
parts, of each source at most so many, evenly chosen; `parts` of a source says how many of how many.
"""

from __future__ import annotations

import msgspec
import numpy as np
from msgspec import Struct

from pipeline import storage
from pipeline.mixture.grid import Grid, grids
from pipeline.mixture.mix_members import mixture_of_run
from pipeline.questions.clusters import Cluster, DedupClusters, Piece, clusters
from pipeline.questions.compare import Comparison, compare
from pipeline.recipe.recipe_text import recipe_text
from pipeline.report.books import SourceBooks, Totals, source_books, totals
from pipeline.report.distributions import LabelFigures, NumberFigures, measures_of
from pipeline.report.domains import Domains, domains_of
from pipeline.report.lengths import Lengths, lengths_of
from pipeline.report.samples import Samples, samples_of
from pipeline.report.work import Failures, Speed, failures, speed
from pipeline.run_folder.finished import FinishedRun, SourceParts, open_finished
from pipeline.run_folder.run_summary import read_summary
from stages.tokens.manifest_shape import Manifest, ShardEntry, TokenizerEntry

PARTS = 64  # of a source that are read for measures, lengths and samples, unless more are asked for
EACH = 2  # documents shown for a reason
CHARS = 1200  # of a text
CLUSTERS = 3  # of a dedup that are shown
SHARDS = 48  # of a source that are listed one by one; more are listed in as many runs of neighbours


class PartsRead(Struct, frozen=True):
    """How many of a source's parts the figures come from."""

    read: int
    of: int


class SourceFigures(SourceBooks, frozen=True, kw_only=True):
    """All of one source. missing: sentences on what the run let go."""

    parts: PartsRead
    measures: list[NumberFigures | LabelFigures]
    lengths: Lengths
    samples: Samples
    domains: Domains
    missing: list[str]


class Shards(Struct, frozen=True):
    """Tokens of each shard, or the mean of so many neighbours where there are many; the count, the least and the greatest."""

    count: int
    least: int
    most: int
    tokens: list[int]


class Member(Struct, frozen=True, kw_only=True):
    """A source as a member of the mixture."""

    source: str
    available: int
    held_out: int
    budget: int
    share: float
    repeats: float
    max_repeats: float
    documents: int
    text_bytes: int
    shards: Shards


class MixtureFigures(Struct, frozen=True):
    """What training is to see."""

    tokens: int
    seed: int
    sources: list[Member]
    grids: list[Grid]


class Figures(Struct, frozen=True, kw_only=True):
    """All that the page shows. tokenizer: the manifest's entry."""

    run: str
    name: str
    profile: str
    fingerprint: str
    recipe_hash: str
    seed: int
    dtype: str
    tokenizer: TokenizerEntry
    keep: str
    recipe: str  # as YAML, without what is a default
    balances: bool
    totals: Totals
    sources: dict[str, SourceFigures]
    dedups: list[DedupClusters]
    mixture: MixtureFigures
    speed: Speed
    failures: Failures
    notes: list[str]
    compared: Comparison | None = None  # another run as `one`, this one as `two`


def gather(
    run: str,
    parts: int = PARTS,
    each: int = EACH,
    chars: int = CHARS,
    against: str | None = None,
    mixture: str | None = None,
) -> Figures:
    """The figures of a finished run. parts: read of each source, 0 for all. against: a run that it is compared with. mixture: a
    folder that `mix` made of it, whose mixture is shown in place of the run's own.

    Raises UserError where there is no finished run, or it was made by an older version.
    """
    finished = open_finished(run)
    finished.check_whole()
    summary = read_summary(run)
    ordinals = {name: _chosen(source, parts) for name, source in finished.sources.items()}
    sources = {
        name: _source(finished, source, ordinals[name], each, chars) for name, source in finished.sources.items()
    }
    manifest = finished.manifest
    shown = _mixture(manifest if mixture is None else mixture_of_run(mixture, manifest, run))
    return Figures(
        run=storage.redact(run),
        name=manifest["name"],
        profile=manifest["profile"],
        fingerprint=manifest["fingerprint"],
        recipe_hash=manifest["recipe_hash"],
        seed=manifest["seed"],
        dtype=manifest["dtype"],
        tokenizer=manifest["tokenizer"],
        keep=finished.recipe.run.keep,
        recipe=recipe_text(finished.recipe),
        balances=not any(source.problems for source in sources.values()),
        totals=msgspec.structs.replace(totals(finished, sources.values()), mixture_tokens=shown.tokens),
        sources=sources,
        dedups=[_redacted(one) for one in clusters(run, None, CLUSTERS).dedups] if summary.dedup else [],
        mixture=shown,
        speed=speed(finished, sources, summary.seconds),
        failures=failures(finished, ordinals),
        notes=list(summary.notes),
        compared=compare(against, run) if against else None,
    )


def _chosen(source: SourceParts, parts: int) -> list[int]:
    """Ordinals of the parts that are read: all, or so many, evenly over the source."""
    there = len(source.parts[0]) if source.parts else 0
    if not parts or there <= parts:
        return list(range(there))
    return np.unique(np.linspace(0, there - 1, parts).round().astype(int)).tolist()


def _source(run: FinishedRun, source: SourceParts, ordinals: list[int], each: int, chars: int) -> SourceFigures:
    measures, no_measures = measures_of(run, source, ordinals)
    lengths, no_lengths = lengths_of(run, source, ordinals)
    samples, no_samples = samples_of(run, source, ordinals, each, chars)
    return SourceFigures(
        **msgspec.structs.asdict(source_books(run, source)),
        parts=PartsRead(len(ordinals), len(source.parts[0]) if source.parts else 0),
        measures=measures,
        lengths=lengths,
        samples=samples,
        domains=domains_of(run, source, ordinals),
        missing=[*no_measures, *no_lengths, *no_samples],
    )


def _redacted(dedup: DedupClusters) -> DedupClusters:
    """A dedup with no secret in the names of files."""

    def piece(one: Piece) -> Piece:
        return msgspec.structs.replace(one, file=storage.redact(one.file))

    def cluster(one: Cluster) -> Cluster:
        return msgspec.structs.replace(one, kept=piece(one.kept), removed=[piece(p) for p in one.removed])

    return msgspec.structs.replace(dedup, largest=[cluster(one) for one in dedup.largest])


def _mixture(manifest: Manifest) -> MixtureFigures:
    mixture, total = manifest["mixture"], manifest["mixture"]["tokens"]
    entries = {name: manifest["sources"][name] for name in mixture["sources"]}
    members = [
        Member(
            source=name,
            available=entry["tokens"],
            held_out=entry["held_out"]["tokens"],
            budget=entry["budget_tokens"],
            share=entry["budget_tokens"] / total if total else 0.0,
            repeats=entry["budget_tokens"] / entry["tokens"] if entry["tokens"] else 0.0,
            max_repeats=entry["max_repeats"],
            documents=entry["documents"],
            text_bytes=entry["text_bytes"],
            shards=_shards(entry["shards"]),
        )
        for name, entry in entries.items()
    ]
    return MixtureFigures(total, mixture["seed"], members, grids(manifest))


def _shards(shards: list[ShardEntry]) -> Shards:
    tokens = np.array([shard["tokens"] for shard in shards], np.int64)
    if not len(tokens):
        return Shards(0, 0, 0, [])
    runs = np.array_split(tokens, min(len(tokens), SHARDS))
    return Shards(len(tokens), int(tokens.min()), int(tokens.max()), [round(float(run.mean())) for run in runs])
