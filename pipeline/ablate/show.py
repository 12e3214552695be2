"""An experiment's result for people and programs: a table, JSON, CSV and a picture."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import msgspec
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from rich.console import Console

from pipeline.ablate.compare import Difference, Score
from pipeline.ablate.composition import Explained
from pipeline.ablate.data import ArmData
from pipeline.tables import plain_table
from stages.units import show_count

NAMED = 2  # domains of an arm, in the table


class ArmResult(msgspec.Struct, frozen=True):
    """An arm: its data, its scores by file, and how these differ from the first arm's (none of the first)."""

    data: ArmData
    scores: dict[str, Score]
    differences: dict[str, Difference]


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """An experiment. tokenizer: sha256 of the one that all arms share; by: the measure by which arms
    were cut (SOURCE.STEP.MEASURE, or ""); explained: what domain and length say of it."""

    recipe: str
    profile: str
    config: str
    settings: list[str]
    tokens: int
    seeds: int
    tokenizer: str
    by: str
    explained: Explained | None
    notes: list[str]
    arms: dict[str, ArmResult]


def show_result(found: Result, console: Console) -> None:
    """Print the table of arms, a file after another."""
    console.print(f"{_title(found)}, {found.config}", style="bold", markup=False)
    heads = ("arm<", "documents", "tokens there", "seen", "near the evaluation text", "fingerprint<")
    composition = plain_table("what each arm trains on", *heads)
    for name, arm in found.arms.items():
        there = sum(part.available for part in arm.data.sources.values() if part.asked)
        seen = found.tokens / there if there else 0.0
        cells = (
            f"{arm.data.documents:,}",
            show_count(there),
            f"{seen:.2f} times",
            f"{arm.data.near.documents:,} documents",
        )
        composition.add_row(name, *cells, arm.data.fingerprint[:12])
    console.print(composition)
    heads = ("arm<", "tokens a document: 10%", "half", "90%", "domains", "largest, of the tokens<")
    table = plain_table("what these documents are like", *heads)
    for name, arm in found.arms.items():
        made = arm.data.composition
        largest = ", ".join(f"{domain or 'none'} {share:.0%}" for domain, share in list(made.largest.items())[:NAMED])
        table.add_row(name, *(f"{length:,}" for length in made.lengths), f"{made.domains:,}", largest)
    console.print(table)
    files = list(next(iter(found.arms.values())).scores)
    for file in files:
        heads = ("arm<", "mean", "spread over seeds", "against the first", "95% interval", "<")
        table = plain_table(f"{file}: bits per byte", *heads)
        for name, arm in found.arms.items():
            score, other = arm.scores[file], arm.differences.get(file)
            spread = "" if score.spread is None else f"{score.spread:.4f}"
            told = ["", "", ""]
            if other:
                told = [f"{other.difference:+.4f}", f"{other.low:+.4f} to {other.high:+.4f}", _verdict(other)]
            table.add_row(name, f"{score.mean:.4f}", spread, *told)
        console.print(table)
    for note in found.notes:
        console.print(f"note: {note}", markup=False)


def _title(found: Result) -> str:
    profile = f" ({found.profile})" if found.profile else ""
    return f"{found.recipe}{profile}: {show_count(found.tokens)} tokens, {found.seeds} seeds"


def _verdict(found: Difference) -> str:
    return "within noise" if found.noise else "better" if found.difference < 0 else "worse"


def table_of(found: Result) -> bytes:
    """A row an arm, file and seed, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("recipe", "profile", "arm", "fingerprint", "file", "seed", "bits_per_byte", "difference", "low", "high"))
    for name, arm in found.arms.items():
        for file, score in arm.scores.items():
            other = arm.differences.get(file)
            told = (other.difference, other.low, other.high) if other else ("", "", "")
            for seed, value in enumerate(score.seeds):
                writer.writerow((found.recipe, found.profile, name, arm.data.fingerprint, file, seed, value, *told))
    return text.getvalue().encode()


def draw(found: Result, path: Path) -> None:
    """A picture: a panel a file, the arms with the bits per byte of each seed and their mean."""
    names = list(found.arms)
    files = list(found.arms[names[0]].scores)
    figure = Figure(figsize=(2 + 3.4 * len(files), 1.6 + 0.34 * len(names)), dpi=150, layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(files), squeeze=False, sharey=True)[0]
    for axis, file in zip(axes, files, strict=True):
        for place, name in enumerate(names):
            score = found.arms[name].scores[file]
            other = found.arms[name].differences.get(file)
            colour = "0.2" if other is None else "0.6" if other.noise else "tab:green" if other.difference < 0 else "tab:red"
            axis.plot(score.seeds, [place] * len(score.seeds), "o", color=colour, markersize=3, alpha=0.5)
            axis.plot([score.mean], [place], "|", color=colour, markersize=14, markeredgewidth=2)
        axis.set(title=file, xlabel="bits per byte")
        axis.grid(axis="x", linewidth=0.3)
    axes[0].set_yticks(range(len(names)), names)
    axes[0].invert_yaxis()
    prints = ", ".join(f"{name} {arm.data.fingerprint[:8]}" for name, arm in found.arms.items())
    figure.suptitle(_title(found), fontsize="medium")
    figure.supxlabel(f"grey: within noise of {names[0]}; {prints}", fontsize=6)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))
