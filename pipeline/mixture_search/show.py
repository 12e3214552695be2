"""A search's result for people and programs: a table, JSON, CSV and a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from pipeline.ablate.compare import Difference
from pipeline.tables import plain_table
from stages.units import show_count


class Source(msgspec.Struct, frozen=True):
    """A source: its content, its tokens, its natural share, the share that repeats allow; share and repeats in the best."""

    content: str
    available: int
    natural: float
    cap: float
    share: float
    repeats: float


class Proxy(msgspec.Struct, frozen=True):
    """A model of a mixture: shares by source (NAME@CONTENT), and bits per byte by evaluation file."""

    name: str
    fingerprint: str
    shares: dict[str, float]
    losses: dict[str, float]


class Law(msgspec.Struct, frozen=True):
    """A fitted law of a file: its parameters, the root mean square of its errors on mixtures that it was not fitted on, the
    standard deviation of the losses, the rank correlation of the two, and what it predicted of each proxy so."""

    floor: float
    weights: list[float]
    ridge: float
    error: float
    spread: float
    ranks: float
    predicted: list[float]


class Predicted(msgspec.Struct, frozen=True):
    """The difference of the best to the natural mixture by the laws, with a 95% interval by what they miss left-out mixtures
    by. far: fresh models give another one than the two intervals explain."""

    difference: float
    low: float
    high: float
    far: bool


class Measured(msgspec.Struct, frozen=True):
    """Bits per byte of the natural and the best mixture, as predicted and of fresh models, and these two's difference: paired
    where it is measured."""

    predicted_natural: float
    predicted_best: float
    natural: float
    best: float
    predicted: Predicted
    difference: Difference


class SearchResult(msgspec.Struct, frozen=True, kw_only=True):
    """A search. identity: what decides a proxy's losses besides its mixture. gap: how much better a mixture could be by the laws
    at most. best: the folder of its mixture; mix: the command that writes it again."""

    runs: list[str]
    fingerprints: dict[str, str]
    config: str
    settings: list[str]
    identity: str
    tokens: int
    target: int
    seeds: int
    weights: dict[str, float]
    stay: float
    sources: dict[str, Source]
    columns: list[str]
    proxies: list[Proxy]
    laws: dict[str, Law]
    gap: float
    measured: dict[str, Measured]
    best: str
    fingerprint: str
    mix: str
    near_documents: int
    notes: list[str]


def show_search(found: SearchResult, console: Console) -> None:
    """Print the mixture that was found, how well losses are predicted, and what fresh models say."""
    console.print(_title(found), style="bold", markup=False)
    heads = ("source<", "available", "natural share", "at most", "best share", "repeats")
    table = plain_table(f"the best mixture of {show_count(found.target)} tokens", *heads)
    for name, one in found.sources.items():
        shares = (f"{one.natural:.2%}", f"{one.cap:.2%}", f"{one.share:.2%}")
        table.add_row(name, show_count(one.available), *shares, f"{one.repeats:.3g}")
    console.print(table)
    heads = ("file<", "weight", "error", "spread of losses", "rank correlation")
    table = plain_table(f"losses of {len(found.proxies)} proxies as predicted without them, bits per byte", *heads)
    for file, law in found.laws.items():
        table.add_row(file, f"{found.weights[file]:.2f}", f"{law.error:.4f}", f"{law.spread:.4f}", f"{law.ranks:.2f}")
    console.print(table)
    heads = (
        "file<",
        "natural, predicted",
        "measured",
        "best, predicted",
        "measured",
        "difference, predicted",
        "95% interval",
        "measured",
        "95% interval",
        "<",
    )
    table = plain_table(f"fresh models, {found.seeds} seeds: bits per byte", *heads)
    for file, one in found.measured.items():
        told = [f"{v:.4f}" for v in (one.predicted_natural, one.natural, one.predicted_best, one.best)]
        by, law = one.difference, one.predicted
        told += [f"{law.difference:+.4f}", f"{law.low:+.4f} to {law.high:+.4f}"]
        verdict = "within noise" if by.noise else "better" if by.difference < 0 else "worse"
        verdict += ", far from the prediction" if law.far else ""
        table.add_row(file, *told, f"{by.difference:+.4f}", f"{by.low:+.4f} to {by.high:+.4f}", verdict)
    console.print(table)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)


def _title(found: SearchResult) -> str:
    return f"{', '.join(found.runs)}: {len(found.proxies)} proxies of {show_count(found.tokens)} tokens, {found.config}"


def table_of(found: SearchResult) -> bytes:
    """A row a proxy and file, as CSV, with the shares of all sources."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("proxy", "fingerprint", "file", "bits_per_byte", "predicted", *found.columns))
    for number, proxy in enumerate(found.proxies):
        shares = [proxy.shares.get(column, 0.0) for column in found.columns]
        for file, law in found.laws.items():
            writer.writerow((proxy.name, proxy.fingerprint, file, proxy.losses[file], law.predicted[number], *shares))
    return text.getvalue().encode()


def draw_result(found: SearchResult, path: Path) -> None:
    """A picture: of each file, measured against predicted losses of all proxies and of the fresh models; and the shares."""
    figure = Figure(figsize=(3.4 * len(found.laws) + 3.6, 3.4), dpi=150, layout="constrained", facecolor="white")
    *axes, last = figure.subplots(1, len(found.laws) + 1, squeeze=False)[0]
    for axis, (file, law) in zip(axes, found.laws.items(), strict=True):
        losses, one = [proxy.losses[file] for proxy in found.proxies], found.measured[file]
        axis.plot(law.predicted, losses, "o", color="0.5", markersize=3, label="proxies")
        axis.plot([one.predicted_natural], [one.natural], "s", color="tab:blue", label="natural")
        axis.plot([one.predicted_best], [one.best], "^", color="tab:green", label="best")
        axis.axline((losses[0], losses[0]), slope=1, color="0.7", linewidth=0.7)
        axis.set(title=file, xlabel="predicted, bits per byte", ylabel="measured")
    axes[0].legend(fontsize=7)
    names = list(found.sources)
    places = range(len(names))
    last.barh([p - 0.2 for p in places], [found.sources[n].natural for n in names], 0.4, color="tab:blue", label="natural")
    last.barh([p + 0.2 for p in places], [found.sources[n].share for n in names], 0.4, color="tab:green", label="best")
    last.set_yticks(places, names, fontsize=7)
    last.set(title="shares")
    last.invert_yaxis()
    figure.suptitle(_title(found), fontsize="medium")
    figure.supxlabel(
        f"best: {found.fingerprint[:16]}; " + ", ".join(f"{r} {f[:8]}" for r, f in found.fingerprints.items()),
        fontsize=6,
    )
    FigureCanvasAgg(figure).print_png(str(path))
