"""The search, from finished runs to a mixture that is written and measured; it goes on where it was broken off."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from pipeline.ablate.compare import Difference, Loss, Z, difference, score
from pipeline.ablate.data import exact_mixture, near_texts, spare_tokens
from pipeline.ablate.run import evaluation_hash, evaluation_names, evaluation_texts, trainer_config
from pipeline.ablate.train import Plan, train_all
from pipeline.engine.place import Placement
from pipeline.mixture.mix import Mixed, MixOptions, mix
from pipeline.mixture_search.draw import draw
from pipeline.mixture_search.fit import LogLinear, choose, rank_correlation
from pipeline.mixture_search.reuse import Known, contents, known_proxies
from pipeline.mixture_search.show import Law, Measured, Predicted, Proxy, SearchResult, Source, draw_result, table_of
from pipeline.mixture_search.solve import best_mixture
from pipeline.run_folder.folder import MIXTURE, read_mark
from pipeline.run_folder.manifest import read_corpus
from stages.errors import UserError
from stages.tokens.shard_format import write_bytes

NATURAL, BEST = "natural", "best"
MARGIN = 1e-4  # of what may be repeated: shares are rounded
FRESH = 2  # mixtures at least that are drawn for each source that earlier proxies do not know


@dataclass(frozen=True)
class Search:
    """What is asked for. target: tokens that the mixture is for; weights: of evaluation files by name (empty: all alike);
    proxies: in all, those of `reuse` among them (None: four a source); max_repeats: None for what the runs' own mixture allows;
    training: of the models that are compared at last, and but for their seeds of all proxies."""

    runs: tuple[str, ...]
    target: int
    proxies: int | None
    weights: Mapping[str, float]
    max_repeats: float | None
    strength: tuple[float, float]
    stay: float
    seed: int
    reuse: tuple[Path, ...]
    out: Path
    training: Plan


@dataclass(frozen=True)
class _Data:
    """A mixture to be trained on: its folder below the search's, its fingerprint, its shares by source."""

    folder: str
    fingerprint: str
    shares: dict[str, float]


@dataclass(frozen=True)
class _Space:
    """The sources that are mixed: names, tokens, shares of them all, caps of shares, and what tells their contents. others: those
    that the runs' mixture leaves out."""

    names: list[str]
    available: list[int]
    natural: np.ndarray
    caps: np.ndarray
    contents: dict[str, str]
    others: list[str]
    tokenizer: str


def search(asked: Search, placement: Placement, say: Callable[[str], None]) -> SearchResult:
    """Carry out a search, or what is left of it; its result is also written to `asked.out` as search.json, .csv and .png, and the
    mixture to `asked.out/best`. Raises UserError for what the user can mend, before the first training where that can be told."""
    training = asked.training
    config = trainer_config(training.config, training.settings, training.tokens)
    texts = evaluation_texts(training.evaluation)
    weights = _weights(asked, evaluation_names(training.evaluation))
    space = _space(asked, config.data.sequence_length)
    identity = f"{training.identity(evaluation_hash(texts))}-{space.tokenizer}"
    known = known_proxies(asked.reuse, identity)
    shares = _drawn(asked, space, known)
    asked.out.mkdir(parents=True, exist_ok=True)

    data = {NATURAL: _mixed(asked, space, NATURAL, space.natural, config.data.sequence_length)}
    for number, one in enumerate(shares):
        data[f"drawn-{number:03d}"] = _mixed(asked, space, f"drawn-{number:03d}", one, config.data.sequence_length)
    there = {proxy.fingerprint for proxy in known.proxies} if known else set()
    new = {name: one for name, one in data.items() if one.fingerprint not in there}
    losses = train_all(replace(training, seeds=(0,)), new, asked.out, evaluation_hash(texts), placement, say)
    proxies = [*(known.proxies if known else []), *(_proxy(space, name, data[name], losses[name]) for name in new)]
    laws, columns = _laws(proxies, list(weights))
    ours = [columns.index(space.contents[name]) for name in space.names]
    mine = {file: LogLinear(law.floor, np.array(law.weights)[ours], law.ridge) for file, law in laws.items()}
    best, gap = best_mixture(list(mine.values()), np.array(list(weights.values())), space.natural, space.caps, asked.stay)

    two = {NATURAL: data[NATURAL], BEST: _mixed(asked, space, BEST, best, config.data.sequence_length)}
    both = train_all(training, two, asked.out, evaluation_hash(texts), placement, say)
    measured = _measured(mine, _missed(proxies, laws), weights, space, two, both)
    near = near_texts(asked.out / two[NATURAL].folder, texts).documents
    found = SearchResult(
        runs=list(asked.runs),
        fingerprints={run: read_corpus(run)["fingerprint"] for run in asked.runs},
        config=training.config,
        settings=list(training.settings),
        identity=identity,
        tokens=training.tokens,
        target=asked.target,
        seeds=len(training.seeds),
        weights=weights,
        stay=asked.stay,
        sources={name: _source(space, place, best, asked.target) for place, name in enumerate(space.names)},
        columns=columns,
        proxies=proxies,
        laws=laws,
        gap=gap,
        measured=measured,
        best=str(asked.out / BEST),
        fingerprint=_write_best(asked, space, two[BEST]).fingerprint,
        mix=_command(asked, space, best),
        near_documents=near,
        notes=_notes(asked, laws, measured, known, len(shares), near, _beyond(space, proxies, best)),
    )
    _write(found, asked.out)
    return found


def _write(found: SearchResult, out: Path) -> None:
    write_bytes(out / "search.json", msgspec.json.format(msgspec.json.encode(found), indent=1))
    write_bytes(out / "search.csv", table_of(found))
    draw_result(found, out / "search.png")


def _space(asked: Search, length: int) -> _Space:
    """The members of the runs' mixture that it takes tokens of. Raises UserError where there is nothing to mix, or too little."""
    told = mix(list(asked.runs), MixOptions(assignments=_repeats(asked)))
    names = [name for name, one in told.sources.items() if one.asked and one.available]
    if len(names) < 2:
        raise UserError(f"{', '.join(asked.runs)}: there is one source alone, and nothing to mix: split it, or name several runs")
    manifests = [read_corpus(run) for run in asked.runs]
    available = np.array([told.sources[name].available for name in names], float)
    most = np.array([told.sources[name].max_repeats for name in names]) * available
    size = max(asked.training.tokens + spare_tokens(manifests, length, max(most / available)), asked.target)
    if most.sum() * (1 - MARGIN) < size:
        raise UserError(
            f"sources may be repeated to {int(most.sum()):,} tokens, and {size:,} are asked for (with what is left over of each "
            "shard): ask for fewer, or allow more (--max-repeats)"
        )
    return _Space(
        names,
        [int(one) for one in available],
        available / available.sum(),
        np.minimum(1.0, most * (1 - MARGIN) / size),
        contents(manifests),
        [name for name in told.sources if name not in names],
        told.tokenizer["sha256"][:12],
    )


def _repeats(asked: Search) -> list[str]:
    return [] if asked.max_repeats is None else [f"max_repeats={asked.max_repeats:g}"]


def _drawn(asked: Search, space: _Space, known: Known | None) -> np.ndarray:
    """The mixtures to be tried: as many as are left to the number that is asked for. Where earlier proxies know some sources,
    those are drawn in which the others have at least their natural share."""
    new = np.array([not known or space.contents[name] not in known.columns for name in space.names])
    wanted = (asked.proxies or 4 * len(space.names)) - 1 - (len(known.proxies) if known else 0)
    count = max(wanted, FRESH * int(new.sum()) if known else 1, 0)
    if not known or not new.any() or new.all():
        return draw(space.natural, space.caps, count, asked.strength, asked.seed) if count else np.empty((0, len(space.names)))
    many = draw(space.natural, space.caps, 50 * count, asked.strength, asked.seed)
    held = many[:, new].sum(axis=1)
    return many[np.argsort(held < space.natural[new].sum(), kind="stable")][:count]


def _assignments(asked: Search, space: _Space, shares: np.ndarray) -> list[str]:
    """A mixture as `mix --set` says it: shares in millionths of all sources, whatever the runs' own mixture asks of them."""
    parts = np.round(shares * 1e6).astype(int)
    parts[np.argmax(parts)] += 1_000_000 - parts.sum()
    found = [f"per_source.{name}.share={part / 1e6:.6f}" for name, part in zip(space.names, parts.tolist(), strict=True)]
    return [
        *found,
        *(f"per_source.{name}.share=0" for name in space.others),
        *_repeats(asked),
        "reshuffle_last_tokens=0",
    ]


def _mixed(asked: Search, space: _Space, name: str, shares: np.ndarray, length: int) -> _Data:
    options = MixOptions(assignments=_assignments(asked, space, shares), name=name)
    folder, told = exact_mixture(asked.runs, options, asked.training.tokens, length, asked.out / "arms" / name)
    own = {source: told.sources[source].share for source in space.names}
    return _Data(str(folder.relative_to(asked.out)), told.fingerprint, own)


def _weights(asked: Search, files: Sequence[str]) -> dict[str, float]:
    """The weight of each evaluation file, summing up to 1. Raises UserError for a file that there is not."""
    if unknown := [name for name in asked.weights if name not in files]:
        raise UserError(f"--weights {unknown[0]}: there is no such evaluation file; they are {', '.join(files)}")
    found = {file: asked.weights.get(file, 0.0) if asked.weights else 1.0 for file in files}
    return {file: weight / sum(found.values()) for file, weight in found.items() if weight}


def _proxy(space: _Space, name: str, data: _Data, losses: Sequence[Sequence[Loss]]) -> Proxy:
    shares = {space.contents[source]: share for source, share in data.shares.items()}
    files = dict.fromkeys(one.file for one in losses[0])
    return Proxy(name, data.fingerprint, shares, {file: score(losses, file).mean for file in files})


def _laws(proxies: Sequence[Proxy], files: Sequence[str]) -> tuple[dict[str, Law], list[str]]:
    """The law of each file, and the columns that its weights are of: every source, by its content, that a proxy has seen."""
    columns = list(dict.fromkeys(column for proxy in proxies for column in proxy.shares))
    shares = np.array([[proxy.shares.get(column, 0.0) for column in columns] for proxy in proxies])
    found = {}
    for file in files:
        losses = np.array([proxy.losses[file] for proxy in proxies])
        law, predicted = choose(shares, losses)
        error = float(np.sqrt(np.mean(np.square(predicted - losses))))
        ranks = rank_correlation(predicted, losses)
        floor, ridge, spread = float(law.floor), float(law.ridge), float(np.std(losses))
        found[file] = Law(floor, law.weights.tolist(), ridge, error, spread, float(ranks), predicted.tolist())
    return found, columns


def _missed(proxies: Sequence[Proxy], laws: Mapping[str, Law]) -> dict[str, np.ndarray]:
    """By how much the law of each file misses each proxy that it was not fitted on."""
    return {file: np.array(law.predicted) - [one.losses[file] for one in proxies] for file, law in laws.items()}


def _beyond(space: _Space, proxies: Sequence[Proxy], best: np.ndarray) -> str:
    """Which source has most more of the best mixture than of any that was tried; "" where none has."""
    contents = [space.contents[name] for name in space.names]
    most = np.array([max(proxy.shares.get(content, 0.0) for proxy in proxies) for content in contents])
    place = int(np.argmax(best - most))
    if best[place] <= most[place]:
        return ""
    return f"; {space.names[place]} has {best[place]:.0%} of it, and {most[place]:.0%} at most of a mixture that was tried"


def _measured(
    laws: Mapping[str, LogLinear],
    missed: Mapping[str, np.ndarray],
    weights: Mapping[str, float],
    space: _Space,
    data: Mapping[str, _Data],
    losses: Mapping[str, list[list[Loss]]],
) -> dict[str, Measured]:
    """What was predicted of the best and of the natural mixture, and what fresh models say: of each file, and of all.

    missed: by how much the law of each file misses proxies that it was not fitted on; their mean square is the variance of what
    it predicts.
    """
    shares = {name: np.array([data[name].shares[source] for source in space.names]) for name in (NATURAL, BEST)}
    found = {}
    for name, parts in {**{file: {file: 1.0} for file in weights}, "all": dict(weights)}.items():
        predicted = {key: sum(w * float(laws[f].predict(shares[key])) for f, w in parts.items()) for key in shares}
        means = {key: sum(w * score(losses[key], f).mean for f, w in parts.items()) for key in shares}
        against = difference(losses[BEST], losses[NATURAL], parts)
        error = Z * float(np.sqrt(np.mean(np.square(sum(w * missed[file] for file, w in parts.items())))))
        law = _predicted(predicted[BEST] - predicted[NATURAL], error, against)
        found[name] = Measured(predicted[NATURAL], predicted[BEST], means[NATURAL], means[BEST], law, against)
    return found


def _predicted(value: float, error: float, measured: Difference) -> Predicted:
    """A predicted difference with half the width of its interval, beside the one that fresh models give."""
    together = float(np.hypot(error, (measured.high - measured.low) / 2))
    return Predicted(value, value - error, value + error, abs(value - measured.difference) > together)


def _source(space: _Space, place: int, best: np.ndarray, target: int) -> Source:
    share, available = float(best[place]), space.available[place]
    natural, cap = float(space.natural[place]), float(space.caps[place])
    return Source(space.contents[space.names[place]], available, natural, cap, share, share * target / available)


def _write_best(asked: Search, space: _Space, data: _Data) -> Mixed:
    """The best mixture, of as many tokens as it is for, as a folder with a manifest whose shards are links. That of an earlier
    search in the same folder gives way to it."""
    shares = np.array([data.shares[name] for name in space.names])
    options = MixOptions(assignments=[*_assignments(asked, space, shares), f"tokens={asked.target}"], name=BEST)
    target = asked.out / BEST
    if target.exists() and read_mark(str(target), MIXTURE) is not None:
        shutil.rmtree(target)
    return mix(list(asked.runs), replace(options, out=str(target)))


def _command(asked: Search, space: _Space, best: np.ndarray) -> str:
    own = [*_assignments(asked, space, best), f"tokens={asked.target}"]
    return f"python -m pipeline mix {' '.join(asked.runs)} --set {' '.join(repr(one) for one in own)} --out NEW"


def _notes(
    asked: Search,
    laws: Mapping[str, Law],
    measured: Mapping[str, Measured],
    known: Known | None,
    drawn: int,
    near: int,
    beyond: str,
) -> list[str]:
    found = []
    whole, law = measured["all"].difference, measured["all"].predicted
    if law.far:
        found.append(
            f"the prediction is far from what fresh models give: {law.difference:+.4f} bits per byte were foretold (95%: "
            f"{law.low:+.4f} to {law.high:+.4f}), and {whole.difference:+.4f} measured ({whole.low:+.4f} to {whole.high:+.4f})"
            f"{beyond}; more proxies, or a higher --stay, keep the mixture nearer to what is known"
        )
    if whole.noise:
        found.append(
            f"the search cannot tell its mixture from the natural one: {whole.difference:+.4f} bits per byte, and the 95% "
            f"interval ({whole.low:+.4f} to {whole.high:+.4f}) holds 0"
        )
    elif whole.difference > 0:
        found.append(f"the mixture that was found is worse than the natural one, by {whole.difference:.4f} bits per byte")
    for file, law in laws.items():
        if law.error >= law.spread:
            found.append(f"{file}: the regression predicts mixtures that it has not seen no better than their mean does")
    if len(asked.training.seeds) == 1:
        found.append("with one seed intervals hold what other documents would change, and nothing of what other seeds would")
    if asked.training.tokens < asked.target:
        found.append("proxies repeat sources less than training does: what repeats cost there, the search does not know")
    if known:
        found.append(f"{len(known.proxies)} proxies of earlier searches are used again, and {drawn} mixtures were drawn")
    if near:
        found.append(f"{near:,} training documents are near copies of the evaluation text")
    return found
