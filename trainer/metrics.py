"""What training tells: a status line a step, a JSON line a step, and TensorBoard or Weights & Biases if installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import time
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

PEAK_FLOPS = {
    "H100 PCIe": 756e12, "H100 NVL": 835e12, "H100": 989e12, "H800": 989e12, "H200": 989e12, "GH200": 989e12,
    "H20": 148e12, "B200": 2250e12, "GB200": 2500e12, "A100": 312e12, "A800": 312e12, "A40": 150e12, "A30": 165e12,
    "L40S": 362e12, "L40": 181e12, "L4": 121e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
    "MI250X": 191e12, "MI300A": 981e12, "MI300X": 1307e12, "MI325X": 1307e12, "MI350X": 2307e12, "MI355X": 2517e12,
}  # fmt: skip
"""Dense bf16 operations per second of a device, by words of its name (vendor data sheets; MI250X: one of its two
halves, which count as a device each). The first name that fits counts."""


FILE = "metrics.jsonl"


class Metrics:
    """The run's metrics.jsonl and whatever else listens. Lines past `step` (from before a resume) are dropped."""

    def __init__(self, folder: Path, step: int, name: str, config: dict[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / FILE
        kept = [line for line in read(self.path) if line["step"] <= step] if step else []
        beside = self.path.with_suffix(".part")
        beside.write_text("".join(json.dumps(line) + "\n" for line in kept))
        beside.rename(self.path)
        self._file = self.path.open("a", buffering=1)
        self._board: Any = None
        self._wandb: Any = None
        if importlib.util.find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        # Only where the user has set it up: without a key its start asks questions.
        if importlib.util.find_spec("wandb") and os.environ.get("WANDB_PROJECT"):
            import wandb

            mark = folder / "wandb_id"  # a resumed training goes on with its own record, a new one gets a new one
            if not (step and mark.is_file()):
                mark.write_text(uuid.uuid4().hex)
            self._wandb = wandb.init(name=name, dir=str(folder), config=config, id=mark.read_text(), resume="allow")

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; it has at least `kind` and `step`."""
        self._file.write(json.dumps(line) + "\n")
        if self._board is None and self._wandb is None:
            return
        rest = {key: value for key, value in line.items() if key not in ("kind", "step")}
        numbers = dict(_series(line["kind"], rest))
        if self._board is not None:
            for key, value in numbers.items():
                self._board.add_scalar(key, value, line["step"])
        if self._wandb is not None:
            self._wandb.log(numbers, step=line["step"])

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def read(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics file; a last line cut off by a kill is left out."""
    lines = []
    if path.exists():
        for text in path.read_text().splitlines():
            try:
                lines.append(json.loads(text))
            except ValueError:
                break
    return lines


class Speed:
    """Tokens per second over the last steps, and the time left."""

    def __init__(self, window: int = 20) -> None:
        self._marks: deque[tuple[float, int]] = deque(maxlen=window + 1)
        self._paused = 0.0

    def mark(self, tokens: int) -> None:
        """Note how many tokens have been seen by now."""
        self._marks.append((time.monotonic() - self._paused, tokens))

    def pause(self, seconds: float) -> None:
        """Leave this time (an evaluation, a save) out of the rate."""
        self._paused += seconds

    @property
    def rate(self) -> float:
        """Tokens per second; 0 before the second mark."""
        if len(self._marks) < 2:
            return 0.0
        (start, before), (end, after) = self._marks[0], self._marks[-1]
        return (after - before) / max(end - start, 1e-9)


def routing_numbers(totals: dict[str, torch.Tensor], top_k: int) -> dict[str, Any]:
    """Per layer: largest and mean load, dead experts, entropy, raw losses. Loads are parts of the balanced load."""
    counts_LE = totals["counts"]
    share_LE = counts_LE / counts_LE.sum(1, keepdim=True) * counts_LE.shape[1]
    return {
        "max_load": _rounded(share_LE.amax(1)),
        "dead_experts": (counts_LE == 0).sum(1).tolist(),
        "router_entropy": _rounded(totals["entropy"]),
        "load_balancing": _rounded(totals["load_balancing"]),
        "router_z": _rounded(totals["router_z"]),
        "load": [_rounded(row) for row in share_LE],
    }


def utilisation(tokens_per_second: float, flops_per_token: int, device: torch.device, count: int) -> float | None:
    """Model FLOPs utilisation, where the device's peak is known."""
    peak = peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None
    return None if peak is None else tokens_per_second * flops_per_token / (peak * count)


def peak_flops(name: str) -> float | None:
    """Dense bf16 operations per second of the device of this name; None if it is not known."""
    return next((peak for words, peak in PEAK_FLOPS.items() if re.search(rf"\b{words}\b", name)), None)


SHORT = {"load_balancing": ("lb", ".3f"), "router_z": ("z", ".2f")}
"""How the status line calls and writes a number, if not by its name."""


def status(step: int, steps: int, numbers: dict[str, Any], seconds_left: float) -> str:
    """One step as a line: the common numbers, then what the objective adds."""
    text = (
        f"step {step}/{steps}  loss {numbers['loss']:.4f}  lr {numbers['lr']:.2e}  grad {numbers['grad_norm']:.2f}  "
        f"{numbers['tokens_per_s']:,.0f} tokens/s"
    )
    if numbers.get("mfu") is not None:
        text += f"  MFU {numbers['mfu']:.1%}"
    common = ("loss", "lr", "grad_norm", "tokens_per_s", "mfu", "tokens")
    for name in (name for name in numbers if name not in common):
        short, form = SHORT.get(name, (name, "#.4g"))
        text += f"  {short} {numbers[name]:{form}}"
    return f"{text}  left {duration(seconds_left)}"


def duration(seconds: float) -> str:
    """Seconds as 45s, 3m 20s, 2h 5m or 4d 3h."""
    for unit, smaller, size, step in (("d", "h", 86400, 3600), ("h", "m", 3600, 60), ("m", "s", 60, 1)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit} {int(seconds % size // step)}{smaller}"
    return f"{seconds:.0f}s"


def _series(name: str, value: Any) -> Iterator[tuple[str, float]]:
    """Every number in a line with the path to it: kind/key, kind/key/layer, eval/sources/SOURCE/key."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _series(f"{name}/{key}", part)
    elif isinstance(value, list):
        for number, part in enumerate(value):
            yield from _series(f"{name}/{number}", part)
    elif isinstance(value, int | float):
        yield name, value


def _rounded(values: torch.Tensor) -> list[float]:
    return [round(float(value), 5) for value in values]
