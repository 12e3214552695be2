"""The training loop: set up, then step after step, whatever is learned from (`Source`) and minimised (`Objective`).

Everything that a step does is a function of the configuration, the data and the position, so that a resumed run
repeats what an uninterrupted one would have done, to the bit on the CPU. Where a training stands is its position, in
instances; steps are only counted, so that a batch of another size may go on from any position.
"""

from __future__ import annotations

import math
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Self

import torch
from torch import Tensor

from trainer import checkpoint, kernels, low, metrics, optim
from trainer import processes as procs
from trainer.analyze.watch import RouterWatch
from trainer.config import Config, plain
from trainer.errors import TrainerError
from trainer.failures import Doing
from trainer.host import torchrun_too_hasty
from trainer.model import Olmoe, flops_per_token, parameter_counts
from trainer.objective import Evaluation, Objective, P, Source, Totals
from trainer.remote import Remote
from trainer.resume import resumable, startable
from trainer.task_watch import TaskWatch


@dataclass(frozen=True)
class Progress:
    """Where a training stands."""

    step: int = 0
    updates: int = 0  # of the optimizer, those before `start_from` included
    position: int = 0  # instances learned from

    def after(self, instances: int) -> Progress:
        """After one more step over so many instances."""
        return Progress(self.step + 1, self.updates + 1, self.position + instances)


class Training(Generic[P]):
    """One training in one process, or this process's part of it. Use it as a context: leaving it ends what is being
    written. `received` collects signals (host.signals)."""

    def __init__(
        self,
        config: Config,
        source: Source[P],
        objective: Objective[P],
        processes: procs.Processes,
        out: Path,
        received: list[int],
    ) -> None:
        self.config, self.source, self.objective = config, source, objective
        self.processes, self.out, self.received = processes, out, received
        self.batch, self.share = config.batch_instances, config.batch_instances // processes.count
        self.progress = Progress()
        self.speed = metrics.Speed()
        self.flops = flops_per_token(config.model, source.instance_tokens)
        self.routers, self.tasks = RouterWatch(config, objective, processes), TaskWatch(config, source, processes)
        self.line: metrics.Metrics | None = None  # in the first process
        self.doing = Doing.SET_UP
        self._warned = False
        self._saved = -1  # the last step that has a checkpoint
        if source.instances < self.batch:
            raise TrainerError(
                f"{source.instances * source.instance_tokens:,} tokens to train on are less than one batch of "
                f"{config.train.batch_tokens:,}; lower train.batch_tokens or raise the data's budget"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if hasattr(self, "saver"):
            self.saver.join()
        if self.line:
            self.line.close()

    # Set-up

    def set_up(self, resume: bool | Path = False) -> None:
        """Build the model and the optimizer, and fill them: from a checkpoint, from `start_from`, or anew."""
        config, processes = self.config, self.processes
        self.bare = build_model(config, processes)
        self.optimizer = optim.build_optimizer(self.bare, config.optimizer)
        asked = config.checkpoint
        folder = self.out / "checkpoints"
        copy_to = Remote(asked.copy_to) if asked.copy_to else None
        self.saver = checkpoint.Saver(
            folder, asked.keep, processes, asked.asynchronous, asked.keep_every_tokens, copy_to
        )
        begun = self._begin(resume)
        low.refresh(self.bare)
        processes.wait()
        if begun is not None and processes.first:
            self._set_aside(begun)
        self.model = procs.replicate(self.bare, config, processes)
        if processes.first:
            self.line = metrics.Metrics(self.out, self.progress.step, config.name, plain(config))
        self._introduce()

    def _begin(self, resume: bool | Path) -> Path | None:
        """Fill model and optimizer, and find where to go on. Returns the checkpoint that is resumed, if one is."""
        config, processes, identity = self.config, self.processes, self.source.identity
        found = resume if isinstance(resume, Path) else checkpoint.latest(self.out / "checkpoints")
        if found is None and self.saver.copy_to and (names := self.saver.copy_to.checkpoints()):
            found = checkpoint.find(Path(str(self.saver.copy_to))) if resume else Path(str(self.saver.copy_to), names[-1])
        if found is not None and not resume:
            raise TrainerError(f"{self.out}: already holds {found.name}; add --resume to go on, or name another --out")
        if found is not None:
            state = resumable(found, config, identity, processes, processes.say)
            checkpoint.load(found, self.bare, self.optimizer)
            self.progress = Progress(state["step"], state["updates"], state["position"])
            self._saved = self.progress.step
            self.routers.go_on(found)
            processes.say(f"resuming from {found}")
        elif config.start_from is not None:
            start, kept = checkpoint.find(Path(config.start_from)), config.start_optimizer == "keep"
            state = startable(start, config, identity, processes)
            self.progress = Progress(updates=state["updates"] if kept else 0)
            checkpoint.load(start, self.bare, self.optimizer if kept else None)
            processes.say(f"starting from the weights of {start}{'' if kept else ', with a new optimizer'}")
        else:
            self.bare.init_weights(config.train.seed)
            if resume:
                processes.say(f"{self.out} holds no checkpoint: starting from the beginning")
        return found

    def _set_aside(self, begun: Path) -> None:
        """Keep what was trained after the checkpoint that this training goes on from, under another name; the metrics
        then go on from those of that checkpoint's own history."""
        aside = self.saver.copy_to.set_aside(checkpoint.step_name(self.progress.step)) if self.saver.copy_to else None
        if aside:
            self.processes.say(f"note: later steps on S3 are of another history: kept in {self.saver.copy_to}/{aside}")
        left, lines = checkpoint.set_aside(self.saver.folder, begun, self.progress.step), self.out / metrics.FILE
        if left is not None:
            names = ", ".join(path.name for path in sorted(left.iterdir()))
            if lines.is_file():
                shutil.copyfile(lines, left / metrics.FILE)
            self.processes.say(f"note: {names} and their metrics are of another history than {begun}: kept in {left}")
        if begun.resolve().parent != self.saver.folder.resolve():
            lines.unlink(missing_ok=True)
            for folder in (begun.parent, begun.parent.parent):
                if (folder / metrics.FILE).is_file():
                    shutil.copyfile(folder / metrics.FILE, lines)
                    break

    def _introduce(self) -> None:
        config, say = self.config, self.processes.say
        total, active = parameter_counts(config.model)
        place = self.processes.device.type
        say(f"{config.name}: {total:,} parameters, {active:,} active; {self.processes.count} process(es) on {place}")
        say(f"{self.steps_left} steps of {self.batch * self.source.instance_tokens:,} tokens to go{self._remainder()}")
        for note in self.source.notes():
            say(note)
        if self.line and not self.progress.step:
            facts = {"parameters": total, "active": active, **self.source.facts()}
            self.line.write({"kind": "start", "step": 0, **facts})

    # The loop

    @property
    def steps_left(self) -> int:
        """Whole batches between here and the end of the data."""
        return (self.source.instances - self.progress.position) // self.batch

    def _remainder(self) -> str:
        """What is said of the end of the data that fills no batch."""
        rest = (self.source.instances - self.progress.position) % self.batch
        return f"; the last {rest * self.source.instance_tokens:,} tokens fill no batch and are not trained on" if rest else ""

    @property
    def tokens(self) -> int:
        """Tokens learned from by now."""
        return self.progress.position * self.source.instance_tokens

    def run(self) -> int:
        """Train to the end, or until told to stop. Returns the exit status: 0, or 128 + the signal that stopped it."""
        if not self.steps_left:
            end = f"the end of its data{self._remainder()}"
            self.processes.say(f"{self.out}: already trained to step {self.progress.step}, {end}")
            return 0
        if not self.progress.step:
            self._look(always=True)
        self.model.train()
        self.speed.mark(self.tokens)
        for parts in self._ahead():
            if not self.train_step(parts):
                return self._stop(parts)
            ended = not self.steps_left
            self._look(ended)
            self.saver.raise_failure()
            self._warn_of_torchrun()
            if self._crossed(self.config.checkpoint.every_tokens) or ended:
                self.save(parts)
        self.saver.wait()
        done, last = f"{self.progress.step} steps, {self.tokens:,} tokens", checkpoint.latest(self.saver.folder)
        self.processes.say(f"done: {done}; checkpoint {last}")
        return 0

    def _ahead(self) -> Iterator[list[P]]:
        """The parts of each batch that are this process's; the next batch is read while the model works on this one."""
        begin, count = self.progress.position + self.processes.rank * self.share, self.steps_left

        def read(number: int) -> list[P]:
            return self.source.read(begin + number * self.batch, self.share, self.config.train.micro_batch)

        with ThreadPoolExecutor(1, "data", initializer=self.processes.use_device) as pool:
            waiting = pool.submit(read, 0)
            for number in range(count):
                ready = waiting.result()
                if number + 1 < count:
                    waiting = pool.submit(read, number + 1)
                yield ready

    def train_step(self, parts: list[P]) -> bool:
        """One update from a batch, and its line of metrics. False, and nothing has changed, if told to stop before it."""
        self.doing = Doing.STEP
        here = float(sum(part.counted for part in parts))
        counted = self.processes.sum(torch.full((), here, device=self.processes.device)).clamp(min=1)
        totals = self._accumulate(parts, counted)
        if totals is None:
            self.optimizer.zero_grad()
            return False
        norm = self._norm()
        sums = totals.finish(self.processes)
        numbers = {"loss": sums["loss"].item() / counted.item(), **self.objective.numbers(sums), "grad_norm": norm.item()}
        after = self.progress.after(self.batch)
        self._check_finite(after, numbers["loss"], numbers["grad_norm"])
        rate = self._learning_rate(after)
        optim.update(self.optimizer, norm, self.config.optimizer.clip)
        self.optimizer.zero_grad()
        low.refresh(self.bare)
        self.progress = after
        self.speed.mark(self.tokens)
        self._tell(numbers, rate, sums)
        return True

    def _accumulate(self, parts: list[P], counted: Tensor) -> Totals | None:
        """The gradient of a batch, part by part. None if any process was told to stop before the last part was begun."""
        totals, each = Totals(), self.config.train.reduce == "micro_batch"
        for number, part in enumerate(parts):
            if self.stopped():
                return None
            weight = part.instances / self.share
            with procs.gradients_shared(self.model, last=number == len(parts) - 1, each=each):
                loss = self.objective.loss(self.model, part.to(self.processes.device))
                (loss.summed * (self.processes.count / counted) + weight * loss.regular).backward()
            totals.add(loss, weight / self.processes.count)
        return totals

    def _norm(self) -> Tensor:
        """The norm of the gradient, which is the sum over all processes from here on."""
        procs.finish_gradients(self.bare, self.config, self.processes)
        return optim.gradient_norm(self.bare)

    def stopped(self) -> bool:
        """Whether any process has been told to stop. All processes call it, and all get the same answer."""
        return self.processes.any(bool(self.received))

    def _learning_rate(self, at: Progress) -> float:
        """Set the learning rate of the update that leads to `at`, and return it."""
        length = self.source.instance_tokens
        rate = optim.learning_rate(self.config.schedule, at.position * length, self.source.instances * length)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        return rate

    # What is told

    def _tell(self, numbers: dict[str, float], rate: float, sums: dict[str, Tensor]) -> None:
        if not self.line:
            return
        step, left, train = self.progress.step, self.steps_left, self.config.train
        mfu = metrics.utilisation(self.speed.rate, self.flops, self.processes.device, self.processes.count)
        told: dict[str, Any] = {**numbers, "tokens": self.tokens, "lr": rate}
        told |= {"tokens_per_s": round(self.speed.rate, 1), "mfu": mfu}
        if step % train.log_every == 0 or not left:
            seconds = left * self.batch * self.source.instance_tokens / max(self.speed.rate, 1e-9)
            self.processes.say(metrics.status(step, step + left, told, seconds))
        self.line.write({"kind": "step", "step": step} | told)
        details = self.objective.details(sums) if step % train.routing_every == 0 or not left else None
        if details is not None:
            self.line.write({"kind": "routing", "step": step} | details)

    def _look(self, always: bool) -> None:
        """What is evaluated at this step: the held-out loss and the routers, the tasks, or, if `always`, all of them."""
        asked = self.config.evaluate
        evaluated = always or self._crossed(asked.every_tokens)
        if evaluated:
            self._evaluate("eval", lambda: self.objective.evaluate(self.bare, self.stopped))
            self._evaluate("experts", lambda: self.routers.look(self.bare, self.progress.step, self.stopped))
        if self._crossed(asked.tasks_every_tokens) or (evaluated and (always or asked.tasks_every_tokens is None)):
            self._evaluate("tasks", lambda: self.tasks.look(self.bare, self.stopped))

    def _evaluate(self, kind: str, look: Callable[[], Evaluation | None]) -> None:
        """Look at the model, and tell what is found, if anything is."""
        self.doing = Doing.EVALUATION
        begun, step = time.monotonic(), self.progress.step
        found = look()
        self.speed.pause(time.monotonic() - begun)
        if found is not None and self.line:
            self.processes.say(f"step {step}: {found.told}")
            self.line.write({"kind": kind, "step": step, "tokens": self.tokens, **found.line})

    # Checkpoints

    def save(self, parts: list[P]) -> None:
        """Write a checkpoint of this step, after a look at whether the model is worth keeping (`parts`: of any batch)."""
        if self._saved == self.progress.step:
            return
        begun, length = time.monotonic(), self.source.instance_tokens
        self.doing = Doing.STEP
        self._check_model(parts[-1])
        self.doing = Doing.SAVING
        self.saver.wait()
        choices = None
        if self.processes.any(self.processes.first and self.saver.for_good(self.tokens)):
            choices = self.routers.keep(self.bare, self.progress.step)
        state = {**asdict(self.progress), "tokens": self.progress.position * length}
        state |= {"config": plain(self.config), "data": self.source.identity}
        self.saver.save(self.bare, self.optimizer, state, self.source.tokenizer, choices)
        self._saved = self.progress.step
        self.speed.pause(time.monotonic() - begun)

    def _warn_of_torchrun(self) -> None:
        """Say once that torchrun would not wait for as long as the last save took."""
        if self._warned or not (took := torchrun_too_hasty(self.saver.seconds)):
            return
        self._warned = True
        self.processes.say(f"note: {took}")

    def _check_model(self, part: P) -> None:
        """An update can ruin the model, which only the next step would tell, and what is kept must be good: so that a
        part of a batch is seen once more. Raises TrainerError if its loss or gradient is not finite."""
        with procs.gradients_shared(self.model, last=True):
            loss = self.objective.loss(self.model, part.to(self.processes.device)).summed
            loss.backward()
        norm = self._norm().item()
        self.optimizer.zero_grad()
        self._check_finite(self.progress, self.processes.sum(loss.detach().double()).item(), norm)

    def _check_finite(self, at: Progress, loss: float, norm: float) -> None:
        if math.isfinite(loss) and math.isfinite(norm):
            return
        self.saver.wait()
        good = checkpoint.latest(self.saver.folder)
        kept = f"the last good checkpoint is {good}" if good else "no checkpoint had been saved"
        raise TrainerError(
            f"step {at.step}: the loss is {loss} and the norm of its gradient {norm} (instances "
            f"{at.position - self.batch} to {at.position}); training stops, {kept}; a lower schedule.peak often helps"
        )

    def _stop(self, parts: list[P]) -> int:
        """Save the last whole step, if there is one. Returns the exit status of the signal."""
        number = self.received[0] if self.received else signal.SIGTERM
        told = f"told to stop by {signal.Signals(number).name}"
        if self.progress.step:
            self.processes.say(f"{told}: saving step {self.progress.step}")
            self.save(parts)
            self.saver.wait()
            self.processes.wait()  # torchrun stops the others as soon as one has ended
            self.processes.say(f"{told}: saved step {self.progress.step}; go on with --resume")
        else:
            self.processes.say(f"{told} before the first step: there is nothing to save")
        return 128 + number

    def _crossed(self, every: int | None) -> bool:
        """Whether this step crossed a multiple of `every` tokens."""
        before = self.tokens - self.batch * self.source.instance_tokens
        return every is not None and self.tokens // every > before // every


def build_model(config: Config, processes: procs.Processes) -> Olmoe:
    """The model, spread over the processes, on their devices; its parameters are not yet filled."""
    with torch.device("meta"):
        model = Olmoe(config.model, config.train.loss_chunk_mib, config.train.recompute)
    for told in kernels.use(model, config, processes):
        processes.say(told)
    model.dtype = getattr(torch, config.train.precision)
    if config.train.compile:
        for layer in model.layers:
            layer.compile()  # all layers are alike, so one is compiled for all
    procs.spread(model, config, processes)
    whole = processes.count == 1 or config.train.parallel == "ddp"
    if low.worthwhile(config.train, config.batch_instances // processes.count, whole):
        low.keep(model, model.dtype)
    model.to_empty(device=processes.device)
    return model
