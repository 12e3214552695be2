"""Scores on request files while a model trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from trainer.config import Config
from trainer.errors import TrainerError
from trainer.inference import context_of
from trainer.objective import Evaluation, Source
from trainer.olmes import plain, together, told
from trainer.processes import Processes
from trainer.tasks import Scorer, find_tasks, plain_task, run_task

if TYPE_CHECKING:
    from tokenizers import Tokenizer


class TaskWatch:
    """The tasks that `evaluate.tasks` names, scored by all processes together."""

    def __init__(self, config: Config, source: Source[Any], processes: Processes) -> None:
        """Raises TrainerError where there are no such tasks, or where the model or its data cannot answer them."""
        self.config, self.source, self.processes = config, source, processes
        self.folders = find_tasks(Path(config.evaluate.tasks)) if config.evaluate.tasks else []
        self.tokenizer: Tokenizer | None = None
        if not self.folders:
            return
        if config.model.routing == "expert_choice":
            raise TrainerError("evaluate.tasks: with expert choice a model cannot be scored on answers; leave it out")
        if source.tokenizer is None:
            raise TrainerError("evaluate.tasks: the data has no tokenizer.json, by which requests become tokens")
        from tokenizers import Tokenizer

        self.tokenizer = Tokenizer.from_file(str(source.tokenizer))

    def look(self, model: nn.Module, stopped: Callable[[], bool]) -> Evaluation | None:
        """All tasks' scores; None if there are none, or if `stopped()` cut it short."""
        if self.tokenizer is None:
            return None
        eos_id, context = self.source.identity["eos_id"], context_of(self.config, self.source.identity)
        scorer = Scorer(model, self.tokenizer, eos_id, context, self.processes, stopped)
        found, was_training = [], model.training
        model.eval()
        try:
            for folder in self.folders:
                task = run_task(scorer, folder, self.config.evaluate.task_documents)
                if task is None:
                    return None
                found.append(task)
        finally:
            model.train(was_training)
            if hasattr(model, "reshard"):
                model.reshard()  # a pass without gradient leaves FSDP's outer parameters whole
        everything = together(found)
        line = {"forms": {task.name: plain_task(task) for task in found}, **plain(everything)}
        return Evaluation(f"tasks: {told(everything)}", line)
