"""Training, from the first line to the last: set up, then step after step.

Everything that a step does is a function of the configuration, the data and the position, so that a resumed run
repeats what an uninterrupted one would have done, to the bit on the CPU.
"""

from __future__ import annotations

import contextlib
import functools
import math
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer import checkpoint, metrics, optim
from trainer import processes as procs
from trainer.config import Config, plain
from trainer.errors import TrainerError
from trainer.evaluate import as_tensor, evaluate, mixture_loss
from trainer.host import only_one, reuse_memory, signals
from trainer.loader.data import Data, open_data, unigram_entropy
from trainer.losses import IGNORED, next_tokens, repeats_ngram
from trainer.masking import documents
from trainer.model import Olmoe, flops_per_token, parameter_counts
from trainer.resume import resumable, startable


def train(config: Config, data_dir: Path, out: Path, resume: bool | Path = False, device: str | None = None) -> int:
    """Train to the end, or until told to stop. Returns the exit status: 0, or 128 + the signal that stopped it.

    `resume` continues from the newest checkpoint in `out` (from the start if there is none), or from the one given.
    Raises TrainerError for everything that the user can mend.
    """
    processes = procs.start(device)
    try:
        with contextlib.ExitStack() as stack:
            if processes.first:
                stack.enter_context(only_one(out))
            return _train(config, data_dir, out, resume, processes, stack)
    except OSError as error:
        raise TrainerError(f"{_failure(error.filename or out, error.strerror, out)}") from error
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if "alloc" not in str(error) and "out of memory" not in str(error):
            raise
        raise TrainerError(_failure(out, "out of memory; lower train.micro_batch", out)) from error
    finally:
        processes.close()


def _failure(where: Any, what: Any, out: Path) -> str:
    good = checkpoint.latest(out / "checkpoints")
    return f"{where}: {what}; {f'the last good checkpoint is {good}' if good else 'no checkpoint had been saved'}"


def _train(
    config: Config,
    data_dir: Path,
    out: Path,
    resume: bool | Path,
    processes: procs.Processes,
    stack: contextlib.ExitStack,
) -> int:
    told = stack.enter_context(signals())
    say = print if processes.first else _silent
    place, every = processes.device, config.train.log_every
    reuse_memory()

    # Data
    length = config.data.sequence_length
    if not processes.first:
        processes.wait()  # the first one makes what best-fit packing needs; the others find it
    data = open_data(data_dir, length, config.data.seed, config.train.tokens, config.data.packing)
    if processes.first:
        processes.wait()
    config = with_vocabulary(config, data, data_dir)
    training_tokens = len(data.train) * length
    batch = config.batch_instances
    steps = training_tokens // config.train.batch_tokens
    if not steps:
        raise TrainerError(
            f"{data_dir}: {training_tokens:,} tokens to train on are less than one batch of "
            f"{config.train.batch_tokens:,}; lower train.batch_tokens or raise the mixture's budget"
        )
    tokenizer = data_dir / "tokenizer" / "tokenizer.json"
    identity = {
        "fingerprint": data.fingerprint,
        "tokenizer_sha256": data.tokenizer_sha256,
        "vocab_size": data.vocab_size,
        "eos_id": data.eos_id,
        "pad_id": data.pad_id,
    }

    # Model and optimizer
    with torch.device("meta"):
        bare = Olmoe(config.model, config.train.loss_chunk_mib)
    bare.dtype = getattr(torch, config.train.precision)
    if config.train.compile:
        for layer in bare.layers:
            layer.compile()  # all layers are alike, so one is compiled for all
    procs.spread(bare, config, processes)
    bare.to_empty(device=place)
    optimizer = optim.build_optimizer(bare, config.optimizer)
    saver = checkpoint.Saver(out / "checkpoints", config.checkpoint.keep, processes, config.checkpoint.asynchronous)
    stack.callback(saver.join)  # whatever ends training, a checkpoint that is being written is finished first

    # Where to begin
    step, updates, position = 0, 0, 0
    begin = resume if isinstance(resume, Path) else checkpoint.latest(out / "checkpoints")
    if begin is not None and not resume:
        raise TrainerError(f"{out}: already holds {begin.name}; add --resume to go on, or name another --out")
    if begin is not None:
        state = resumable(begin, config, identity, processes, say)
        checkpoint.load(begin, bare, optimizer)
        step, updates, position = state["step"], state["updates"], state["position"]
        say(f"resuming from {begin}")
    elif config.start_from is not None:
        begin = checkpoint.find(Path(config.start_from))
        updates = startable(begin, config, identity, processes)["updates"]
        checkpoint.load(begin, bare, optimizer)
        say(f"starting from the weights of {begin}")
    else:
        bare.init_weights(config.train.seed)
        if resume:
            say(f"{out} holds no checkpoint: starting from the beginning")
    processes.wait()
    model = procs.replicate(bare, config, processes)

    total, active = parameter_counts(config.model)
    entropy = unigram_entropy(data)
    flops = flops_per_token(config.model, length)
    say(f"{config.name}: {total:,} parameters, {active:,} active; {processes.count} process(es) on {place.type}")
    say(f"{data_dir}: {steps * batch * length:,} tokens of {len(data.sources)} sources; {steps} steps")
    if data.train.padded:
        say(f"best-fit packing: {data.padding:.2%} of the positions are padding, which gives no loss")
    if config.train.tokens and training_tokens + length <= config.train.tokens:
        say(f"note: train.tokens asks for {config.train.tokens:,} tokens, the mixture's budget is {training_tokens:,}")
    say(f"unigram entropy of the training tokens: {entropy:.4f} nats a token; a model has learned once it is below")
    line = metrics.Metrics(out, step, config.name, plain(config)) if processes.first else None
    if line:
        stack.callback(line.close)
    if line and not step:
        line.write({"kind": "start", "step": 0, "parameters": total, "active": active, "unigram_entropy": entropy})
    if step >= steps:
        say(f"{out}: already trained to step {step} of {steps}")
        return 0

    def score(step: int) -> None:
        begun = time.monotonic()
        results = evaluate(bare, data, processes, config.train.micro_batch, config.evaluate.instances, masked)
        speed.pause(time.monotonic() - begun)
        if not line:
            return
        loss = mixture_loss(results, data)
        say(
            f"step {step}: held-out loss {loss:.4f} ({loss - entropy:+.4f} against unigram entropy); bits per byte "
            + ", ".join(f"{source} {result.bits_per_byte:.4f}" for source, result in results.items())
        )
        sources = {source: vars(result) for source, result in results.items()}
        line.write({"kind": "eval", "step": step, "tokens": step * batch * length, "loss": loss, "sources": sources})

    def save() -> None:
        begun = time.monotonic()
        state = {"step": step, "updates": updates, "tokens": position * length, "position": position}
        state |= {"config": plain(config), "data": identity}
        saver.save(bare, optimizer, state, tokenizer if tokenizer.is_file() else None)
        speed.pause(time.monotonic() - begun)

    def check_finite(numbers: dict[str, Any]) -> None:
        if not all(math.isfinite(numbers[name]) for name in ("loss", "grad_norm")):
            saver.wait()
            raise TrainerError(_diverged(step, numbers, position - batch, position, checkpoint.latest(saver.folder)))

    # Steps
    for source in sorted(set(data.sources) - set(data.held_out)):
        say(f"note: {source} has no held-out instance of {length} tokens, and is not evaluated")
    masked = config.model.document_masking
    share = batch // processes.count
    speed = metrics.Speed()
    batches = _ahead(data, config, processes, position, steps - step)  # read while the model works
    model.train()
    if not step:
        score(0)
    speed.mark(position * length)
    stopped = 0
    for instances, numbers in batches:
        step, updates, position = step + 1, updates + 1, position + batch
        rate = optim.learning_rate(config.schedule, position * length, training_tokens)
        for group in optimizer.param_groups:
            group["lr"] = rate
        targets = next_tokens(instances)
        held = None
        if numbers is not None and data.train.padded:
            held = numbers >= 0
            targets[next_tokens(numbers) < 0] = IGNORED
        if config.losses.repeated_ngrams:
            targets[repeats_ngram(instances, config.losses.repeated_ngrams, held)] = IGNORED
        valid = processes.sum((targets != IGNORED).sum().to(place, torch.float32)).clamp(min=1)
        totals = _Totals(config, place)
        for start in range(0, share, config.train.micro_batch):
            part = slice(start, start + config.train.micro_batch)
            inputs = as_tensor(instances[part], place)
            last = start + config.train.micro_batch >= share
            forward = functools.partial(
                model,
                inputs,
                as_tensor(targets[part], place),
                documents=documents(numbers[part], place) if masked and numbers is not None else None,
                balance_instances=config.losses.balance_instances,
            )
            with _gradients_shared(model, last):
                output = forward()
                weight = len(inputs) / share
                loss = output.loss_sum * (processes.count / valid) + weight * router_losses(output, config)
                loss.backward()
            totals.add(output, weight / processes.count)
        norm = _clip(bare, config.optimizer.clip)
        numbers = totals.finish(processes, valid, bool(told))
        numbers["grad_norm"] = norm.item()
        check_finite(numbers)
        optimizer.step()
        optimizer.zero_grad()

        speed.mark(position * length)
        numbers |= {"tokens": position * length, "lr": rate, "tokens_per_s": round(speed.rate, 1)}
        if line:
            numbers["mfu"] = metrics.utilisation(speed.rate, flops, place, processes.count)
            if step % every == 0 or step == steps:
                say(status(step, steps, numbers, (steps - step) * batch * length / max(speed.rate, 1e-9)))
            line.write({"kind": "step", "step": step} | {k: v for k, v in numbers.items() if k != "stop"})
            if config.model.n_experts and (step % config.train.routing_every == 0 or step == steps):
                routing = metrics.routing_numbers(totals.layers(), config.model.top_k)
                line.write({"kind": "routing", "step": step} | routing)
        stopped = int(numbers["stop"]) and (told[0] if told else signal.SIGTERM)
        if (_due(config.evaluate.every_tokens, position, batch, length) and not stopped) or step == steps:
            score(step)
        saver.raise_failure()
        if _due(config.checkpoint.every_tokens, position, batch, length) or stopped or step == steps:
            # An update can ruin the model, which only the next step tells, and what is kept must be good: so that a
            # part of the batch is seen once more.
            begun = time.monotonic()
            output = forward()
            output.loss_sum.backward()
            after = {
                "loss": processes.sum(output.loss_sum.detach().double()).item(),
                "grad_norm": _clip(bare, math.inf).item(),
            }
            optimizer.zero_grad()
            check_finite(after)
            speed.pause(time.monotonic() - begun)
            save()
        if stopped:
            break
    saver.wait()
    if stopped and step < steps:
        say(f"told to stop by {signal.Signals(stopped).name}: saved step {step}; go on with --resume")
        return 128 + stopped
    say(f"done: {steps} steps, {steps * batch * length:,} tokens; checkpoint {checkpoint.latest(saver.folder)}")
    return 0


def router_losses(output: Any, config: Config) -> Tensor:
    """The weighted load-balancing and z losses of one forward pass, mean over layers."""
    if not len(output.router_z_L):
        return output.loss_sum.new_zeros(())
    scale = 1.0 / config.model.top_k if config.losses.router_z_form == "original_code" else 1.0
    balance, z = output.load_balancing_L.mean(), output.router_z_L.mean() * scale
    return config.losses.load_balancing * balance + config.losses.router_z * z


def with_vocabulary(config: Config, data: Data, data_dir: Path) -> Config:
    """The configuration with the data's vocabulary. Raises TrainerError if it names another one."""
    stated = config.model.vocab_size
    if stated is not None and stated != data.vocab_size:
        raise TrainerError(
            f"{data_dir}: its tokenizer has {data.vocab_size} entries, but model.vocab_size is {stated}; "
            "train on shards of the right tokenizer, or leave model.vocab_size out"
        )
    model = config.model.model_copy(update={"vocab_size": data.vocab_size})
    return config.model_copy(update={"model": model})


def status(step: int, steps: int, numbers: dict[str, Any], seconds_left: float) -> str:
    """One step as a line."""
    text = (
        f"step {step}/{steps}  loss {numbers['loss']:.4f}  lr {numbers['lr']:.2e}  grad {numbers['grad_norm']:.2f}  "
        f"{numbers['tokens_per_s']:,.0f} tokens/s"
    )
    if numbers.get("mfu") is not None:
        text += f"  MFU {numbers['mfu']:.1%}"
    if "load_balancing" in numbers:
        text += f"  lb {numbers['load_balancing']:.3f}  z {numbers['router_z']:.2f}"
    return f"{text}  left {metrics.duration(seconds_left)}"


class _Totals:
    """A batch's sums over micro-batches, kept on the device until the step ends."""

    def __init__(self, config: Config, device: torch.device) -> None:
        layers, experts = (config.model.n_layers, config.model.n_experts) if config.model.n_experts else (0, 0)
        self.sizes = [1, layers, layers, layers, layers * experts, 1]
        self.experts = experts
        self.values = torch.zeros(sum(self.sizes), dtype=torch.float64, device=device)

    def add(self, output: Any, weight: float) -> None:
        """Add one micro-batch, which is `weight` of the batch."""
        loss, balance, z, entropy, counts, _ = self.values.split(self.sizes)
        loss += output.loss_sum.detach()
        balance += output.load_balancing_L.detach() * weight
        z += output.router_z_L.detach() * weight
        entropy += output.entropy_L * weight
        counts += output.counts_LE.flatten()

    def finish(self, processes: procs.Processes, valid: Tensor, stop: bool) -> dict[str, Any]:
        """Sum over processes. This reads from the device, once a step."""
        self.values[-1] = float(stop)
        self.values = processes.sum(self.values).cpu()
        loss, balance, z, _, _, stop_S = self.values.split(self.sizes)
        numbers: dict[str, Any] = {"loss": loss.item() / valid.item(), "stop": stop_S.item() > 0}
        if self.experts:
            numbers |= {"load_balancing": balance.mean().item(), "router_z": z.mean().item()}
        return numbers

    def layers(self) -> dict[str, Tensor]:
        """The parts for each layer."""
        _, balance, z, entropy, counts, _ = self.values.split(self.sizes)
        counts_LE = counts.view(-1, max(1, self.experts))
        return {"load_balancing": balance, "router_z": z, "entropy": entropy, "counts": counts_LE}


def _ahead(
    data: Data, config: Config, processes: procs.Processes, position: int, steps: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    """This process's instances of each batch, and the documents of their tokens where these matter; the next batch is
    read while the model works on this one."""
    share = config.batch_instances // processes.count
    numbered = config.model.document_masking or data.train.padded

    def read(number: int) -> tuple[Tensor, Tensor | None]:
        first = position + number * config.batch_instances + processes.rank * share
        batch = data.train.read(first, share, documents=numbered)
        tokens = as_tensor(batch.tokens, torch.device("cpu"))
        tokens = tokens.pin_memory() if processes.device.type == "cuda" else tokens
        return tokens, None if batch.documents is None else torch.from_numpy(batch.documents)

    with ThreadPoolExecutor(1, "data") as pool:
        waiting = pool.submit(read, 0)
        for number in range(steps):
            ready = waiting.result()
            if number + 1 < steps:
                waiting = pool.submit(read, number + 1)
            yield ready


@contextlib.contextmanager
def _gradients_shared(model: Any, last: bool) -> Iterator[None]:
    """Let processes exchange gradients only after the last micro-batch of a batch."""
    if hasattr(model, "no_sync") and not last:
        with model.no_sync():
            yield
    else:
        if hasattr(model, "set_requires_gradient_sync"):
            model.set_requires_gradient_sync(last)
        yield


def _due(every: int | None, position: int, batch: int, length: int) -> bool:
    """Whether this step crossed a multiple of `every` tokens."""
    return every is not None and position * length // every > (position - batch) * length // every


def _diverged(step: int, numbers: dict[str, Any], first: int, end: int, good: Path | None) -> str:
    kept = f"the last good checkpoint is {good}" if good else "no checkpoint had been saved"
    return (
        f"step {step}: the loss is {numbers['loss']} and the norm of its gradient {numbers['grad_norm']} "
        f"(instances {first} to {end}); training stops, {kept}; a lower schedule.peak often helps"
    )


def _clip(model: Olmoe, most: float) -> Tensor:
    """The norm of the whole gradient, which is scaled down to `most`."""
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), most)
    return norm.full_tensor() if hasattr(norm, "full_tensor") else norm


def _silent(*_values: Any) -> None:
    """What the other processes say."""
