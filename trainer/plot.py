"""Pictures of a training from its metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trainer import metrics
from trainer.errors import TrainerError


def plot(folder: Path) -> list[Path]:
    """Write loss.png and load.png (the latter if experts were routed) into a training's folder; returns the files.

    Raises TrainerError if there is nothing to draw, or matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise TrainerError("plot draws with matplotlib, which is not installed: pip install 'headrace[plots]'") from None
    lines = metrics.read(folder / "metrics.jsonl")
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_kind.setdefault(line["kind"], []).append(line)
    if not by_kind.get("step"):
        raise TrainerError(f"{folder / 'metrics.jsonl'}: holds no training steps to draw; name a training's folder")
    figures = {"loss.png": Figure((9, 8), layout="constrained")}
    _draw_loss(figures["loss.png"], by_kind)
    if by_kind.get("routing"):
        figures["load.png"] = Figure((11, 8), layout="constrained")
        _draw_load(figures["load.png"], by_kind["routing"])
    written = []
    for name, figure in figures.items():
        FigureCanvasAgg(figure).print_png(folder / name)
        written.append(folder / name)
    return written


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
