"""An analysis as pictures: curves, heat maps and bars, one look for all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from trainer.analyze.measures import most_coactive
from trainer.analyze.run import Analysis
from trainer.errors import TrainerError

INK, GRID, UNIFORM = "#222222", "#dddddd", "#888888"
LAYERS = "viridis"  # by depth
HEAT = "Reds"
SHOWN_LAYERS = 4  # in pictures with a panel a layer: the first, the last and some between


def draw_pictures(found: Analysis, out: Path) -> dict[str, Path]:
    """Write the pictures as PNG into `out`: title -> file. Raises TrainerError without matplotlib."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise TrainerError("pictures need matplotlib, which is not installed: pip install 'headrace[plots]'") from None
    pictures = {
        "Load per expert": ("load", _load, (9, 4)),
        "Domain specialisation": ("domains", _domains, (11, 2.6 * len(_shown(found)))),
        "Expert co-activation": ("coactivation", _coactivation, (11, 5.5 * -(-len(_shown(found)) // 2))),
        "Vocabulary specialisation": ("vocabulary", _vocabulary, (7, 4)),
    }
    if len(found.names) > 1:
        pictures = {"Router saturation": ("saturation", _saturation, (11, 4)), **pictures}
    written = {}
    with matplotlib.rc_context(
        {"font.size": 9, "axes.edgecolor": GRID, "axes.spines.top": False, "axes.spines.right": False}
    ):
        for title, (name, paint, size) in pictures.items():
            figure = Figure(size, layout="constrained")
            paint(figure, found)
            FigureCanvasAgg(figure).print_png(out / f"{name}.png")
            written[title] = out / f"{name}.png"
    return written


def _shown(found: Analysis) -> list[int]:
    layers = found.counts.layers
    return sorted({round(place) for place in np.linspace(0, layers - 1, min(SHOWN_LAYERS, layers))})


def _color(layer: int, layers: int) -> Any:
    import matplotlib

    return matplotlib.colormaps[LAYERS](0.9 * layer / max(1, layers - 1))


def _saturation(figure: Any, found: Analysis) -> None:
    panels = figure.subplots(1, 2, sharey=True)
    x = range(len(found.names))
    for panel, (k, values) in zip(panels, ((found.top_k, "all"), (1, "first")), strict=True):
        curves = np.array([getattr(one, values)() for one in found.saturation])
        for layer in range(found.counts.layers):
            panel.plot(
                x, 100 * curves[:, layer], "o-", markersize=3, color=_color(layer, found.counts.layers), label=layer
            )
        panel.axhline(100 * k / found.counts.experts, linestyle=":", color=UNIFORM)
        panel.set(title=f"k = {k}", xlabel="tokens seen", ylim=(0, 103))
        panel.set_xticks(list(x), [_short(tokens) for tokens in found.tokens_seen])
    panels[0].set_ylabel("experts shared with the last checkpoint (%)")
    panels[1].legend(title="layer", ncols=2, fontsize="small")


def _short(tokens: int) -> str:
    for unit, size in (("T", 10**12), ("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if tokens >= size:
            return f"{tokens / size:.3g}{unit}"
    return str(tokens)


def _load(figure: Any, found: Analysis) -> None:
    panel = figure.subplots()
    image = panel.imshow(found.counts.load(), aspect="auto", cmap="RdBu_r", vmin=0, vmax=2, interpolation="nearest")
    panel.set(xlabel="expert", ylabel="layer", title="tokens routed, in parts of the balanced load (1)")
    panel.set_yticks(range(found.counts.layers))
    figure.colorbar(image, ax=panel)


def _domains(figure: Any, found: Analysis) -> None:
    shares, shown = found.counts.domain_specialisation(), _shown(found)
    panels = np.atleast_1d(figure.subplots(len(shown), 1, sharex=True))
    width = 0.8 / len(found.sources)
    for panel, layer in zip(panels, shown, strict=True):
        for number, source in enumerate(found.sources):
            places = np.arange(found.counts.experts) + (number - len(found.sources) / 2 + 0.5) * width
            panel.bar(places, 100 * shares[layer, number], width, label=source)
        panel.axhline(100 * found.top_k / found.counts.experts, linestyle="--", linewidth=0.8, color=UNIFORM)
        panel.set_ylabel(f"layer {layer}\n% of tokens")
    panels[-1].set_xlabel("expert (dashed: uniform)")
    panels[0].legend(fontsize="small", ncols=4, loc="upper right")


def _coactivation(figure: Any, found: Analysis) -> None:
    matrices, shown = found.counts.coactivation(), _shown(found)
    panels = np.atleast_1d(figure.subplots(-(-len(shown) // 2), min(2, len(shown)))).reshape(-1)
    for panel in panels[len(shown) :]:
        panel.set_axis_off()
    image: Any = None
    for panel, layer in zip(panels, shown, strict=False):
        experts = most_coactive(matrices[layer])
        image = panel.imshow(
            100 * matrices[layer][np.ix_(experts, experts)], cmap=HEAT, vmin=0, vmax=100, interpolation="nearest"
        )
        panel.set_title(f"layer {layer}")
        panel.set_xticks(range(len(experts)), experts, rotation=90, fontsize=6)
        panel.set_yticks(range(len(experts)), experts, fontsize=6)
    figure.colorbar(image, ax=list(panels), label="of the row's tokens, share that activates the column too (%)")


def _vocabulary(figure: Any, found: Analysis) -> None:
    panel = figure.subplots()
    for kind, name in (("input", "by input token"), ("output", "by predicted token")):
        panel.plot(100 * found.counts.vocabulary_specialisation(kind), "o-", label=name)
    panel.axhline(100 / found.counts.experts, linestyle="--", color=UNIFORM, label="uniform")
    panel.set(xlabel="layer", ylabel="largest share of a token's occurrences\nwith one expert, mean (%)")
    panel.set_xticks(range(found.counts.layers))
    panel.legend(fontsize="small")
