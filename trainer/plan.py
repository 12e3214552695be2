"""`trainer plan`: what a training takes, before there is a GPU: memory, tokens a second, days and money."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from trainer.account import RESERVE, Memory, memory
from trainer.config import Config
from trainer.errors import TrainerError
from trainer.metrics import PEAK_FLOPS, duration, peak_flops
from trainer.model import flops_per_token, parameter_counts
from trainer.recompute import Recompute


@dataclass(frozen=True)
class Asked:
    """What the plan is for."""

    gpus: int
    capacity: int  # bytes of a GPU
    gpu: str  # a name that says its peak
    mfu: float
    tokens: int | None  # None: the configuration's
    price: float | None  # of a GPU for an hour


def plan(config: Config, asked: Asked) -> list[str]:
    """The plan, line by line. Raises TrainerError for a GPU that is not known, and where no vocabulary is stated."""
    peak = peak_flops(asked.gpu)
    if peak is None:
        raise TrainerError(f"--gpu {asked.gpu}: its peak is not known; known are {', '.join(PEAK_FLOPS)}")
    if config.model.vocab_size is None:
        raise TrainerError("the vocabulary decides sizes, and comes from the data: add --set model.vocab_size=N")
    found = memory(config, asked.gpus)
    total, active = parameter_counts(config.model)
    train = config.train
    way = "one GPU" if asked.gpus == 1 else f"{asked.gpus} GPUs, {train.parallel}"
    lines = [
        f"{config.name}: {total:,} parameters, {active:,} active; {way}, micro-batch {train.micro_batch}, "
        f"{train.precision}, recompute {train.recompute}",
        *_memory_lines(found, asked),
        _by_recompute(config, asked, found),
        f"checkpoint {12 * total / 1e9:.1f} GB; {12 * total / asked.gpus / 1e9:.1f} GB of host memory a GPU while one is "
        "written in the background",
    ]
    rate = asked.mfu * peak * asked.gpus / flops_per_token(config.model, config.data.sequence_length)
    lines.append(f"at {asked.mfu:.0%} of {asked.gpu}'s {peak / 1e12:,.0f} TFLOP/s: {rate:,.0f} tokens/s")
    tokens = asked.tokens or train.tokens or config.schedule.tokens
    return [*lines, _time(tokens, rate, asked)] if tokens else lines


def _memory_lines(found: Memory, asked: Asked) -> list[str]:
    parts = {name: size for name, size in vars(found).items() if size}
    told = "fits into" if found.fits(asked.capacity) else "DOES NOT FIT into"
    return [
        *(f"  {name:<12} {size / 1e9:>7.1f} GB" for name, size in parts.items()),
        f"  {'together':<12} {found.total / 1e9:>7.1f} GB on each GPU, not compiled: {told} "
        f"{asked.capacity / 1e9:.0f} GB less {RESERVE:.0%} for fragments, CUDA and NCCL",
    ]


def _by_recompute(config: Config, asked: Asked, found: Memory) -> str:
    """What each GPU holds by what is recomputed."""
    totals = {config.train.recompute: found.total}
    for kind in get_args(Recompute):
        if kind not in totals:
            train = config.train.model_copy(update={"recompute": kind})
            totals[kind] = memory(config.model_copy(update={"train": train}), asked.gpus).total
    told = ", ".join(f"{kind} {totals[kind] / 1e9:.1f} GB" for kind in get_args(Recompute))
    return f"by train.recompute: {told}"


def _time(tokens: int, rate: float, asked: Asked) -> str:
    seconds = tokens / rate
    hours = seconds / 3600 * asked.gpus
    told = f"{tokens:,} tokens: {duration(seconds)}, {hours:,.0f} GPU-hours"
    return told if asked.price is None else f"{told}, {hours * asked.price:,.0f} at {asked.price:g} an hour"
