"""The trainer on one GPU, in one command of under five minutes: `python -m benchmarks gpu`.

Steps of the training loop itself (trainer/training.py) on tokens made here: tokens/s, MFU, memory measured and as `trainer
plan` works it out, device time by kind of kernel, the ratio to transformers in the same process, our kernels beside those of
the libraries that are installed (trainer/kernels.py), and the loss over 50 steps in fp32, bf16 and float8. It needs torch (2.11
or newer), numpy, safetensors, pydantic and PyYAML; transformers for the ratio. What it finds is written to a file line by
line (--out), so that a stop loses nothing.

The cases have OLMoE-1B-7B's width; --size tiny tries everything on a CPU. Each case runs alone, and one that runs out of
memory says so and the next one goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor

from benchmarks.trainer import theirs
from trainer import account, kernels, metrics
from trainer.config import Config, check
from trainer.errors import TrainerError
from trainer.host import reuse_memory
from trainer.losses import next_tokens
from trainer.model import flops_per_token, parameter_counts
from trainer.objective import Evaluation, Loss
from trainer.pretrain import router_losses, router_measures
from trainer.processes import Processes
from trainer.training import Training

WIDTHS = {
    "7b": {"d_model": 2048, "n_heads": 16, "n_experts": 64, "top_k": 8, "expert_width": 1024, "vocab_size": 50_280},
    "tiny": {"d_model": 64, "n_heads": 4, "n_experts": 8, "top_k": 2, "expert_width": 32, "vocab_size": 256},
}


@dataclass(frozen=True)
class Case:
    """One configuration that is timed."""

    name: str
    layers: int
    micro_batch: int
    batch: int  # instances
    recompute: str = "none"
    float8: bool = False


CASES = (
    Case("8 layers, one micro-batch of 4", 8, 4, 4),
    Case("8 layers, 64 instances by 8", 8, 8, 64),
    Case("8 layers, 64 instances by 8, float8", 8, 8, 64, float8=True),
    Case("16 layers, one micro-batch of 1", 16, 1, 1),
    Case("16 layers, 16 instances by 4", 16, 4, 16, "activations"),
)

KINDS = (
    ("grouped products", ("grouped", "moe_gemm", "GroupProblem", "GroupGemm")),
    ("attention", ("flash", "fmha", "attention", "sdpa")),
    ("AdamW", ("adam",)),
    ("norm of the gradient", ("lpnorm", "norm_cleanup", "foreach_norm", "lp_norm")),
    ("other products", ("gemm", "nvjet", "cutlass", "xmma", "cublas", "mm", "mkldnn")),
    ("sorting and routing", ("sort", "topk", "scatter", "radix")),
    ("compiled (norms, RoPE, SwiGLU, dispatch)", ("triton",)),
    ("copies and casts", ("copy", "memcpy", "memset", "to_copy", "direct_copy")),
    ("softmax of the loss", ("softmax",)),
)
"""Kinds of kernels by parts of their names, the first that fits; what none fits is `other`."""


@dataclass(frozen=True)
class Made:
    """A micro-batch of tokens made here."""

    tokens: Tensor
    targets: Tensor
    instances: int
    counted: int

    def to(self, device: torch.device) -> Made:
        """The same on the device."""
        return Made(self.tokens.to(device), self.targets.to(device), self.instances, self.counted)


class Rule:
    """Tokens that follow from the one before by a rule, or, one in ten, do not: there is something to learn."""

    tokenizer = None

    def __init__(self, config: Config, instances: int) -> None:
        self.instances, self.instance_tokens = instances, config.data.sequence_length
        self.vocabulary = config.model.vocab_size or 2
        self.identity: dict[str, Any] = {"fingerprint": "rule"}

    def read(self, first: int, count: int, micro_batch: int) -> list[Made]:
        """Parts of the instances from `first` on."""
        chance = torch.Generator().manual_seed(first)
        tokens = torch.randint(0, self.vocabulary, (count, self.instance_tokens), generator=chance)
        ruled = torch.rand(tokens.shape, generator=chance) < 0.9
        for place in range(1, self.instance_tokens):
            follows = (tokens[:, place - 1] * 7 + 3) % self.vocabulary
            tokens[:, place] = torch.where(ruled[:, place], follows, tokens[:, place])
        return [Made(part, next_tokens(part), len(part), part[:, 1:].numel()) for part in tokens.split(micro_batch)]

    def facts(self) -> dict[str, Any]:
        """Nothing to tell."""
        return {}

    def notes(self) -> list[str]:
        """Nothing to tell."""
        return []


class Plain:
    """Pretraining's losses, without an evaluation."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def loss(self, model: torch.nn.Module, part: Made) -> Loss:
        """As pretraining has it."""
        output = model(part.tokens, part.targets)
        return Loss(output.loss_sum, router_losses(output, self.config), *router_measures(output))

    def numbers(self, totals: dict[str, Tensor]) -> dict[str, float]:
        """None."""
        return {}

    def details(self, totals: dict[str, Tensor]) -> dict[str, Any] | None:
        """None."""
        return None

    def evaluate(self, model: torch.nn.Module, stopped: Callable[[], bool]) -> Evaluation | None:
        """None."""
        return None

    def watched(self) -> int:
        """None."""
        return 0

    def watch(self, model: torch.nn.Module, rows: range) -> Tensor | None:
        """Nothing."""


def main(arguments: Sequence[str] = ()) -> None:
    """Print all of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks gpu", description=__doc__)
    parser.add_argument("--size", choices=WIDTHS, help="7b on a GPU; tiny, which a CPU does too")
    parser.add_argument("--length", type=int, help="tokens of an instance (4096; tiny: 64)")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of each case (6)")
    parser.add_argument("--loss-steps", type=int, default=50, help="steps of the comparison of losses (50)")
    parser.add_argument("--eager", action="store_true", help="do not compile")
    parser.add_argument(
        "--out", type=Path, default=Path("gpu.txt"), help="where all that is printed goes too (gpu.txt)"
    )
    options = parser.parse_args(arguments)
    gpu = torch.cuda.is_available()
    if not gpu and options.size != "tiny":
        print("no GPU here: nothing to measure; --size tiny tries the benchmark on the CPU")
        return
    options.size, options.compile = options.size or "7b", gpu and not options.eager
    options.length = options.length or (64 if options.size == "tiny" else 4096)
    device = torch.device("cuda", 0) if gpu else torch.device("cpu")
    if not gpu:
        torch.set_num_threads(1)  # matrices of the tiny size are faster on one, many times so on a busy machine
    reuse_memory()
    with (
        options.out.open("w", encoding="utf-8", buffering=1) as file,
        contextlib.redirect_stdout(_Both(sys.stdout, file)),
    ):
        _report(options, device)
    print(f"written to {options.out}")


class _Both(io.TextIOBase):
    """Writes to both, at once."""

    def __init__(self, *files: TextIO) -> None:
        self.files = files

    def write(self, text: str) -> int:
        """As a file does."""
        for file in self.files:
            file.write(text)
            file.flush()
        return len(text)


def _report(options: argparse.Namespace, device: torch.device) -> None:
    gpu = device.type == "cuda"
    begun = time.monotonic()
    name = torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{name}; torch {torch.__version__}; sequence {options.length:,}; {'compiled' if options.compile else 'eager'}"
    )
    found = {case: _measured(case, options, device) for case in CASES}
    _kernels(CASES[0], options, device)
    _side_by_side(CASES[0], options, device)
    _against_transformers(CASES[0], options, device, found[CASES[0]])
    _losses(options, device)
    print(f"\n{time.monotonic() - begun:.0f} s in all")


def _config(case: Case, options: argparse.Namespace, precision: str = "bfloat16", **model: Any) -> Config:
    values = {
        "name": "benchmark",
        "model": {**WIDTHS[options.size], "n_layers": case.layers, **model},
        "data": {"sequence_length": options.length},
        "train": {
            "batch_tokens": case.batch * options.length,
            "micro_batch": case.micro_batch,
            "precision": precision,
            "compile": options.compile,
            "recompute": case.recompute,
            "float8": case.float8,
            "loss_chunk_mib": 1024 if options.size == "7b" else 1,
        },
    }
    return check(values, "benchmark")


@contextlib.contextmanager
def _training(config: Config, device: torch.device, steps: int) -> Iterator[Training[Made]]:
    """A training of the loop's own, set up; it writes into a folder that goes away, and saves nothing."""
    processes = Processes(0, 1, device)
    source = Rule(config, steps * config.batch_instances)
    quiet = contextlib.redirect_stdout(None)
    with tempfile.TemporaryDirectory() as folder, quiet:
        training = Training(config, source, Plain(config), processes, Path(folder), [])
        with training:
            training.set_up()
            yield training
    del training
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _step(training: Training[Made]) -> float:
    """Seconds of the next step; the batch is read before."""
    config = training.config
    parts = training.source.read(training.progress.position, config.batch_instances, config.train.micro_batch)
    _wait(training.processes.device)
    begun = time.perf_counter()
    training.train_step(parts)
    _wait(training.processes.device)
    return time.perf_counter() - begun


def _measured(case: Case, options: argparse.Namespace, device: torch.device) -> float | None:
    """Tokens a second of a case, printed with MFU and memory; None if it did not fit."""
    config = _config(case, options)
    worked_out = account.memory(config, 1).total
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        with _training(config, device, options.steps + 3) as training:
            for _ in range(3):  # compilation, and the optimizer's first
                _step(training)
            seconds = sorted(_step(training) for _ in range(options.steps))[options.steps // 2]
            memory = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    except torch.OutOfMemoryError:
        print(f"{case.name}: out of memory; worked out: {worked_out / 1e9:.1f} GB")
        return None
    except TrainerError as error:
        print(f"{case.name}: {error}")
        return None
    rate = config.train.batch_tokens / seconds
    mfu = metrics.utilisation(rate, flops_per_token(config.model, options.length), device, 1)
    told = "" if mfu is None else f", MFU {mfu:.1%}"
    print(
        f"{case.name}, recompute {case.recompute}: {1000 * seconds:.0f} ms a step, {rate:,.0f} tokens/s{told}; "
        f"{memory / 1e9:.1f} GB, worked out {worked_out / 1e9:.1f} GB ({parameter_counts(config.model)[0]:,} parameters)",
        flush=True,
    )
    return rate


def _kernels(case: Case, options: argparse.Namespace, device: torch.device) -> None:
    """Device time of one step by kind of kernel."""
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with _training(_config(case, options), device, 5) as training:
        for _ in range(3):
            _step(training)
        with profile(activities=[activity]) as profiled:
            _step(training)
    times: dict[str, float] = {}
    for event in profiled.key_averages():
        spent = event.self_device_time_total if device.type == "cuda" else event.self_cpu_time_total
        times[kind_of(event.key)] = times.get(kind_of(event.key), 0.0) + spent / 1000
    print(f"\n{case.name}: {sum(times.values()):.1f} ms of {device.type} time")
    for kind, spent in sorted(times.items(), key=lambda item: -item[1]):
        print(f"  {kind:<42} {spent:>8.1f} ms")


def kind_of(kernel: str) -> str:
    """The kind of a kernel, by its name."""
    name = kernel.lower()
    return next((kind for kind, words in KINDS if any(word.lower() in name for word in words)), "other")


def _side_by_side(case: Case, options: argparse.Namespace, device: torch.device) -> None:
    """A pass forward and backward of each kernel that a key may name, at this case's widths."""
    print("\nkernels, a pass forward and backward:")
    for key, name, found in kernels.timings(_config(case, options), Processes(0, 1, device)):
        told = f"{1000 * found:.2f} ms" if isinstance(found, float) else found
        print(f"  train.{key} {name}: {told}")


def _against_transformers(case: Case, options: argparse.Namespace, device: torch.device, ours: float | None) -> None:
    try:
        import transformers
    except ImportError:
        print("\nno transformers here: no ratio")
        return
    config = _config(case, options)
    tokens = torch.randint(0, config.model.vocab_size or 2, (case.batch, options.length), device=device)
    try:
        step = theirs(config, tokens, device, torch.bfloat16, None)
        seconds = []
        for _ in range(2 + max(1, options.steps // 2)):
            _wait(device)
            begun = time.perf_counter()
            step()
            _wait(device)
            seconds.append(time.perf_counter() - begun)
    except torch.OutOfMemoryError:
        print(f"\ntransformers {transformers.__version__}: out of memory")
        return
    median = sorted(seconds[2:])[(len(seconds) - 2) // 2]
    rate = tokens.numel() / median
    ratio = "" if ours is None else f"; this trainer: {ours / rate:.1f} times as many"
    print(
        f"\ntransformers {transformers.__version__}, grouped products, autocast: {rate:,.0f} tokens/s{ratio}",
        flush=True,
    )
    del step
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _losses(options: argparse.Namespace, device: torch.device) -> None:
    """The loss over some steps of a narrow model in fp32, bf16 and float8, on the same tokens."""
    small = {"d_model": 256, "n_heads": 4, "expert_width": 128, "vocab_size": 2048} if options.size == "7b" else {}
    narrow = argparse.Namespace(**{**vars(options), "length": min(options.length, 512)})
    marks = sorted({1, *range(10, options.loss_steps + 1, 10), options.loss_steps})
    print(
        f"\nloss of a narrow model, mean of the last five steps\n  {'step':<10}"
        + "".join(f"{mark:>9}" for mark in marks)
    )
    for precision in ("float32", "bfloat16", "float8"):
        case = Case("narrow", 4, 8, 8, float8=precision == "float8")
        config = _config(case, narrow, "float32" if precision == "float32" else "bfloat16", **small)
        schedule = config.schedule.model_copy(update={"peak": 3e-3, "kind": "constant"})
        lines: list[float] = []
        try:
            with _training(
                config.model_copy(update={"schedule": schedule}), device, options.loss_steps + 1
            ) as training:
                training._tell = lambda numbers, *_, to=lines: to.append(numbers["loss"])  # type: ignore[method-assign]
                for _ in range(options.loss_steps):
                    _step(training)
        except TrainerError as error:
            print(f"  {precision:<10} {error}")
            continue
        means = [statistics.mean(lines[max(0, mark - 5) : mark]) for mark in marks]
        print(f"  {precision:<10}" + "".join(f"{mean:>9.4f}" for mean in means))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1:])
