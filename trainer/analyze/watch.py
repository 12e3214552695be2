"""A look at the routers while a model trains: the experts of the same held-out tokens, time after time.

Shapes: L layers, N tokens, K experts of a token, E experts.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from trainer import checkpoint
from trainer.analyze.measures import Saturation, coactivation, together
from trainer.analyze.routing import recorded
from trainer.config import Config
from trainer.objective import Evaluation, Objective, P
from trainer.processes import Processes


class RouterWatch:
    """Router saturation against the last checkpoint that stays for good, and expert co-activation (docs/analysis.md).

    Every process calls the same methods, and gets the same from them.
    """

    def __init__(self, config: Config, objective: Objective[P], processes: Processes) -> None:
        model = config.model
        watched = bool(model.n_experts) and model.routing == "token_choice"
        self.tokens = config.evaluate.routing_tokens if watched else 0
        self.size, self.model, self.objective, self.processes = config.train.micro_batch, model, objective, processes
        self._kept: tuple[str, np.ndarray] | None = None  # the checkpoint's name, and the choices there
        self._last: tuple[int, np.ndarray | None] = (-1, None)  # the step, and the choices at it

    def look(self, model: nn.Module, step: int, stopped: Callable[[], bool]) -> Evaluation | None:
        """What the routers do now; None where there is nothing to look at, or where `stopped()`."""
        now_LNK = self.choices(model, step, stopped)
        if now_LNK is None:
            return None
        share_LEE = coactivation(np.stack([together(own_NK, self.model.n_experts) for own_NK in now_LNK]))
        partner_LE = share_LEE.max(2)
        pairs_L = [divmod(int(share_EE.argmax()), self.model.n_experts) for share_EE in share_LEE]
        line = {
            "coactivation": _rounded(partner_LE.mean(1)),
            "coactivation_max": _rounded(partner_LE.max(1)),
            "most_coactive": [f"{one}+{other}" for one, other in pairs_L],
        }
        told = f"co-activation {partner_LE.mean():.1%}"
        if self._kept is not None and self._kept[1].shape == now_LNK.shape:
            saturation = Saturation(len(now_LNK))
            saturation.add(now_LNK, self._kept[1])
            line |= {"against": self._kept[0], "saturation": _rounded(saturation.all())}
            line |= {"saturation_first": _rounded(saturation.first())}
            told += f", saturation {saturation.all().mean():.1%} against {self._kept[0]}"
        return Evaluation(f"routers: {told}", line)

    @torch.no_grad()
    def choices(self, model: nn.Module, step: int, stopped: Callable[[], bool]) -> np.ndarray | None:
        """The experts of the watched tokens at this step, int16 [L, N, K]; padding is left out."""
        if self._last[0] == step:
            return self._last[1]
        count = self.objective.watched() if self.tokens else 0
        if not count:
            return None
        was_training, found = model.training, []
        model.eval()
        try:
            for first in range(0, count, self.size * self.processes.count):
                if stopped():
                    return None
                found.append(self._together(model, first, count))
        finally:
            model.train(was_training)
            if hasattr(model, "reshard"):
                model.reshard()  # a pass without gradient leaves FSDP's outer parameters whole
        choices_LNK = np.concatenate(found, axis=1)
        self._last = step, choices_LNK[:, choices_LNK[0, :, 0] >= 0]
        return self._last[1]

    def _together(self, model: nn.Module, first: int, count: int) -> np.ndarray:
        """The choices for `size` instances of each process, in order; -1 for padding and where there is no instance."""
        mine = first + self.size * self.processes.rank
        rows = range(mine, min(mine + self.size, count)) if mine < count else range(1)  # a spare pass counts nothing
        with recorded(model) as found:
            held_N = self.objective.watch(model, rows)
        chosen_LNK = torch.stack(found).to(torch.int32) + 1
        if held_N is not None:
            chosen_LNK *= held_N[None, :, None]
        length = chosen_LNK.shape[1] // len(rows)
        all_of_them = chosen_LNK.new_zeros(len(found), self.processes.count * self.size * length, chosen_LNK.shape[2])
        if mine < count:
            at = (mine - first) * length
            all_of_them[:, at : at + chosen_LNK.shape[1]] = chosen_LNK
        return (self.processes.sum(all_of_them).cpu().numpy() - 1).astype(np.int16)

    def keep(self, model: nn.Module, step: int) -> np.ndarray | None:
        """Compare with this step's choices from now on, and return them: its checkpoint is to hold them."""
        choices_LNK = self.choices(model, step, lambda: False)
        self._kept = None if choices_LNK is None else (checkpoint.step_name(step), choices_LNK)
        return choices_LNK

    def go_on(self, resumed: Path) -> None:
        """Compare with the last checkpoint that stays for good up to the one that is resumed, if it tells its choices,
        and of as many tokens as now."""
        stay = [path for path in checkpoint.all_checkpoints(resumed.parent) if checkpoint.stays(path)]
        stay = [path for path in stay if path.name <= resumed.name and (path / checkpoint.CHOICES).is_file()]
        if not stay or not self.tokens:
            return
        self._kept = stay[-1].name, np.load(stay[-1] / checkpoint.CHOICES)


def _rounded(values_L: np.ndarray) -> list[float]:
    return [round(float(value), 5) for value in values_L]
