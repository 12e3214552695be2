"""`python -m trainer eval` of several checkpoints: one table, and one picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import checkpoint
from trainer.plot import Curve, Panel, draw_panels
from trainer.report import PairsAsked, TasksAsked, keep, scores_of, without_documents

WIDEST = 24  # characters of a checkpoint's name in the table
PANELS = {
    "held-out": "held-out bits per byte",
    "text": "raw text's bits per byte",
    "accuracy": "accuracy",
    "bits": "tasks' bits per byte",
    "answers": "answers",
}


@dataclass(frozen=True)
class Measure:
    """One score of a checkpoint."""

    panel: str  # of PANELS: what is drawn together
    name: str
    value: float
    standard_error: float | None = None


def compare_checkpoints(
    paths: Sequence[Path],
    data_dir: Path | None,
    tasks: TasksAsked | None,
    limit: int | None,
    as_json: bool,
    device: str | None,
    pairs: PairsAsked | None,
    png: Path | None,
    text: Sequence[Path] = (),
    out: Path | None = None,
) -> Path:
    """Score each checkpoint, one after another; print a table, or JSON, and draw a picture: its file.

    `out`: a JSON file that keeps the scores. The picture goes to `png`, else to eval.png in the folder of the last
    checkpoint's training. Raises TrainerError.
    """
    found = [checkpoint.find(path) for path in paths]
    results = []
    for path in found:
        results.append(scores_of(path, data_dir, tasks, limit, False, device, pairs, text))
        if not as_json:
            print(f"{path}: scored")
    names, seen = names_of(found), [checkpoint.read_state(path)["tokens"] for path in found]
    measures = [measures_of(result) for result in results]
    keep({"checkpoints": results}, out)
    if as_json:
        print(json.dumps({"checkpoints": [without_documents(one) for one in results]}, indent=1))
    else:
        for line in table(names, seen, measures):
            print(line)
    target = png or _training_of(found[-1]) / "eval.png"
    draw_panels(panels(names, seen, measures), target)
    if not as_json:
        print(target)
    return target


def names_of(paths: Sequence[Path]) -> list[str]:
    """A short name of each checkpoint: its step's, with its training's before it where steps alone would not tell."""
    short = [path.name for path in paths]
    return short if len(set(short)) == len(short) else [f"{_training_of(path).name}/{path.name}" for path in paths]


def measures_of(result: dict[str, Any]) -> list[Measure]:
    """What the table and the picture show of `scores_of`'s result."""
    found = []
    for source, one in result.get("held_out", {}).get("sources", {}).items():
        found.append(Measure("held-out", source, one["bits_per_byte"]))
    for name, one in result.get("text", {}).items():
        found.append(Measure("text", name, one["bits_per_byte"], one["standard_error"]))
    together = result.get("olmes", {})
    for name, one in together.get("tasks", {}).items():
        panel = "accuracy" if one["metric"].startswith("acc") else "bits"
        found.append(Measure(panel, name, one["score"], one["standard_error"]))
    for kind, one in together.get("macro", {}).items():
        panel = "accuracy" if kind == "accuracy" else "bits"
        found.append(Measure(panel, "macro average", one["score"], one["standard_error"]))
    for name, one in result.get("pairs", {}).get("scores", {}).items():
        found.append(Measure("answers", name, one["mean"], one["standard_error"]))
    return found


def table(names: Sequence[str], seen: Sequence[int], measures: Sequence[list[Measure]]) -> list[str]:
    """A line a measure, a column a checkpoint; standard errors in brackets."""
    rows = list(dict.fromkeys((one.panel, one.name) for column in measures for one in column))
    rows.sort(key=lambda row: list(PANELS).index(row[0]))
    cells = [{(one.panel, one.name): _cell(one) for one in column} for column in measures]
    columns = [
        [name[-WIDEST:], f"{tokens:,}", *(cell.get(row, "") for row in rows)]
        for name, tokens, cell in zip(names, seen, cells, strict=True)
    ]
    heads = ["", "tokens seen", *(f"{PANELS[panel]}: {name}" for panel, name in rows)]
    widths = [max(map(len, column)) for column in (heads, *columns)]
    lines = []
    for number, head in enumerate(heads):
        values = (column[number].rjust(width) for column, width in zip(columns, widths[1:], strict=True))
        lines.append("  ".join([head.ljust(widths[0]), *values]).rstrip())
    return lines


def _cell(one: Measure) -> str:
    return f"{one.value:.4f}" + ("" if one.standard_error is None else f" ({one.standard_error:.4f})")


def panels(names: Sequence[str], seen: Sequence[int], measures: Sequence[list[Measure]]) -> list[Panel]:
    """A panel for each kind of measure, over the tokens seen; over the names, where those are not all different."""
    by_tokens = len(set(seen)) == len(seen)
    found = []
    for panel, title in PANELS.items():
        curves: dict[str, Curve] = {}
        for place, column in enumerate(measures):
            for one in column:
                if one.panel == panel:
                    curve = curves.setdefault(one.name, Curve(one.name, [], [], [], one.name == "macro average"))
                    curve.x.append(seen[place] if by_tokens else place)
                    curve.y.append(one.value)
                    curve.errors.append(one.standard_error or 0.0)
        if curves:
            found.append(
                Panel(title, "tokens" if by_tokens else None, list(curves.values()), [] if by_tokens else list(names))
            )
    return found


def _training_of(path: Path) -> Path:
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent
