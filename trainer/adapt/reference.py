"""The reference of DPO and KTO: the model that fine-tuning starts from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from trainer import checkpoint
from trainer.adapt.objectives import log_probs_of
from trainer.adapt.packed import Packed
from trainer.adapt.source import PairPart, PairSource, part_of
from trainer.inference import open_trained
from trainer.processes import Processes


class Reference:
    """A second model, opened when it is first needed."""

    def __init__(self, path: Path, processes: Processes, precision: str, chunk_mib: int) -> None:
        self.path, self.processes, self.precision, self.chunk_mib = path, processes, precision, chunk_mib
        self._model: torch.nn.Module | None = None

    def __call__(self, part: PairPart) -> Tensor:
        """log-probability of each sequence's answers, fp32 [S]."""
        if self._model is None:
            model = open_trained(self.path, self.processes.device.type).model
            model.dtype = getattr(torch, self.precision)
            self._model = model.to(self.processes.device)
        return log_probs_of(self._model, part, self.chunk_mib)

    def close(self) -> None:
        """Let the model go; it is opened again if it is needed."""
        self._model = None


def stored_log_probs(
    source: PairSource, name: Literal["train", "held_out"], reference: Reference, out: Path, micro_batch: int
) -> np.ndarray:
    """The reference's log-probabilities of one split, fp32 [units, 2]: from `out`/reference-SPLIT.npy if they are there
    and of this model and data, else worked out, by all processes together, and written there."""
    path, processes = out / f"reference-{name}.npy", reference.processes
    split = source.train if name == "train" else source.held_out
    files = checkpoint.read_state(reference.path)["files"]
    of = {
        "pairs": source.pairs.fingerprint,
        "method": source.config.adapt.method,
        "sequence_length": source.instance_tokens,
        "precision": reference.precision,
        "model": sorted(facts["sha256"] for name, facts in files.items() if name.startswith("model-")),
    }
    mark = path.with_suffix(".json")
    known = path.is_file() and mark.is_file() and json.loads(mark.read_text()) == of
    processes.wait()
    if known:
        return np.load(path)
    processes.say(f"working out the reference's log-probabilities of {split.units:,} {name} pairs")
    found = _work_out(split, reference, micro_batch)
    if processes.first:
        out.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(".part.npy")
        mark.unlink(missing_ok=True)
        np.save(beside, found)
        beside.rename(path)
        mark.write_text(json.dumps(of))
    processes.wait()
    return found


def _work_out(split: Packed, reference: Reference, micro_batch: int) -> np.ndarray:
    processes = reference.processes
    found = torch.zeros(split.units, 2, dtype=torch.float32)
    for start in range(processes.rank * micro_batch, len(split), processes.count * micro_batch):
        rows = np.arange(start, min(start + micro_batch, len(split)))
        part = part_of(split.read(rows), processes.device, start, "units", None).to(processes.device)
        log_probs = reference(part).cpu()
        second = np.zeros(len(part.unit_S), np.int64)
        second[1:] = part.unit_S[1:] == part.unit_S[:-1]
        found[part.unit_S, second] = log_probs
    return processes.sum(found.to(processes.device)).cpu().numpy()
