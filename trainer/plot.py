"""Pictures of a training from its metrics.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import metrics
from trainer.errors import TrainerError


@dataclass(frozen=True)
class Curve:
    """Points with their standard errors (0: not known)."""

    name: str
    x: list[float]
    y: list[float]
    errors: list[float]
    bold: bool = False


@dataclass(frozen=True)
class Panel:
    """Curves over one axis."""

    title: str
    axis: str | None  # what x counts
    curves: list[Curve]
    names: list[str]  # of x = 0, 1, ..., where it counts nothing


def draw_panels(panels: Sequence[Panel], path: Path) -> None:
    """Write one picture of them. Raises TrainerError without matplotlib."""
    figure_of, write = _matplotlib()
    figure = figure_of((9, 3.6 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        for curve in panel.curves:
            width = 2.2 if curve.bold else 1.0
            axis.errorbar(
                curve.x, curve.y, curve.errors, marker="o", markersize=3, linewidth=width, capsize=2, label=curve.name
            )
        axis.set(title=panel.title, xlabel=panel.axis)
        if panel.names:
            axis.set_xticks(range(len(panel.names)), panel.names, rotation=20, ha="right", fontsize="small")
        axis.legend(fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    write(figure, path)


def _matplotlib() -> tuple[Any, Any]:
    """Its class of figures, and a function that writes one as PNG."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise TrainerError(
            "plot draws with matplotlib, which is not installed: pip install 'headrace[plots]'"
        ) from None
    return Figure, lambda figure, path: FigureCanvasAgg(figure).print_png(path)


def plot(folder: Path) -> list[Path]:
    """Write loss.png into a training's folder, and, where there is something for it, load.png (experts were routed),
    experts.png (they were watched) and tasks.png; returns the files.

    Raises TrainerError if there is nothing to draw, or matplotlib is not installed.
    """
    figure_of, write = _matplotlib()
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for line in metrics.read(folder / "metrics.jsonl"):
        by_kind.setdefault(line["kind"], []).append(line)
    if not by_kind.get("step"):
        raise TrainerError(f"{folder / 'metrics.jsonl'}: holds no training steps to draw; name a training's folder")
    figures = {"loss.png": figure_of((9, 8), layout="constrained")}
    _draw_loss(figures["loss.png"], by_kind)
    if by_kind.get("routing"):
        figures["load.png"] = figure_of((11, 8), layout="constrained")
        _draw_load(figures["load.png"], by_kind["routing"])
    for name, figure in figures.items():
        write(figure, folder / name)
    written = [folder / name for name in figures]
    for name, panels in (("experts.png", _of_experts(by_kind)), ("tasks.png", _of_tasks(by_kind))):
        if panels:
            draw_panels(panels, folder / name)
            written.append(folder / name)
    return written


def _of_experts(by_kind: dict[str, list[dict[str, Any]]]) -> list[Panel]:
    """A curve a layer: how steady routing is, and how often experts are chosen together."""
    found = []
    for key, title in (
        ("saturation", "experts shared with the last checkpoint that stays for good"),
        ("coactivation", "co-activation: share of an expert's tokens that its most frequent partner has too, mean"),
    ):
        told = [line for line in by_kind.get("experts", []) if key in line]
        x = [line["tokens"] for line in told]
        layers = range(len(told[0][key]) if told else 0)
        curves = [Curve(f"layer {n}", x, [line[key][n] for line in told], [0.0] * len(x)) for n in layers]
        if curves:
            found.append(Panel(title, "tokens", curves, []))
    return found


def _of_tasks(by_kind: dict[str, list[dict[str, Any]]]) -> list[Panel]:
    """A curve a task, with the macro average, for accuracies and for bits per byte."""
    told, found = by_kind.get("tasks", []), []
    for kind, title, accuracy in (("accuracy", "accuracy", True), ("bits_per_byte", "bits per byte", False)):
        curves: dict[str, Curve] = {}
        for line in told:
            tasks = {n: one for n, one in line["tasks"].items() if one["metric"].startswith("acc") == accuracy}
            average = {"macro average": line["macro"][kind]} if kind in line["macro"] else {}
            for name, one in {**tasks, **average}.items():
                curve = curves.setdefault(name, Curve(name, [], [], [], name == "macro average"))
                curve.x.append(line["tokens"])
                curve.y.append(one["score"])
                curve.errors.append(one["standard_error"] or 0.0)
        if curves:
            found.append(Panel(title, "tokens", list(curves.values()), []))
    return found


def _draw_loss(figure: Any, by_kind: dict[str, list[dict[str, Any]]]) -> None:
    steps, evaluations = by_kind["step"], by_kind.get("eval", [])
    loss, bits = figure.subplots(2, 1, sharex=True)
    loss.plot([s["tokens"] for s in steps], [s["loss"] for s in steps], linewidth=0.8, label="training")
    loss.plot([e["tokens"] for e in evaluations], [e["loss"] for e in evaluations], "o-", label="held-out")
    for start in by_kind.get("start", []):
        loss.axhline(start["unigram_entropy"], linestyle="--", color="gray", label="unigram entropy")
    loss.set_ylabel("loss (nats per token)")
    loss.legend()
    for source in evaluations[-1]["sources"] if evaluations else ():
        points = [(e["tokens"], e["sources"][source]["bits_per_byte"]) for e in evaluations if source in e["sources"]]
        bits.plot(*zip(*points, strict=True), "o-", markersize=3, label=source)
    bits.set_ylabel("held-out bits per byte")
    bits.set_xlabel("tokens")
    if evaluations:
        bits.legend(fontsize="small")


def _draw_load(figure: Any, routing: list[dict[str, Any]]) -> None:
    (heat, largest), (entropy, losses) = figure.subplots(2, 2)
    steps = [line["step"] for line in routing]
    image = heat.imshow(routing[-1]["load"], aspect="auto", cmap="RdBu_r", vmin=0, vmax=2, interpolation="nearest")
    heat.set(title=f"load at step {steps[-1]} (1: balanced)", xlabel="expert", ylabel="layer")
    figure.colorbar(image, ax=heat)
    layers = range(len(routing[-1]["load"]))
    heat.set_yticks(layers)
    for axis, key, title in (
        (largest, "max_load", "largest load of an expert"),
        (entropy, "router_entropy", "router entropy (nats)"),
        (losses, "load_balancing", "load-balancing loss (1: balanced)"),
    ):
        for layer in layers:
            axis.plot(steps, [line[key][layer] for line in routing], linewidth=1, label=f"layer {layer}")
        axis.set(title=title, xlabel="step")
    largest.legend(fontsize="small")
