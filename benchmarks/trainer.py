"""Training steps of this trainer beside transformers' OlmoeForCausalLM: same configuration, batch, threads, device.

Both train with all losses, fused AdamW and clipping (here within the update, as training does it), and both tell the
allocator to keep freed memory (trainer/host.py; transformers alone would not, and is slower without), each in a process of
its own, in turns, so that a busy machine slows both; the median step of each is printed, by the clock and by CPU time. The
GPU is used if there is one.
transformers is run twice: with its grouped products (its default) and with its reference loop over experts.

--precision says in what both compute: fp32, or bf16 over fp32 weights (here as `train.precision` does it, there by
autocast, the way its own Trainer does). --precision both times each of the two in one go.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks import measure
from trainer.config import Config, check
from trainer.host import reuse_memory
from trainer.metrics import utilisation
from trainer.model import Olmoe, flops_per_token, parameter_counts
from trainer.optim import build_optimizer, gradient_norm, update
from trainer.pretrain import router_losses

SIZES = {
    # 52 million parameters with OLMoE's vocabulary, and again nearly all of them in experts (--vocabulary 2048).
    "52m": {"d_model": 256, "n_layers": 4, "n_heads": 4, "n_experts": 64, "top_k": 8, "expert_width": 128},
    "52m_experts": {"d_model": 256, "n_layers": 4, "n_heads": 4, "n_experts": 64, "top_k": 8, "expert_width": 256},
    "1b": {"d_model": 1024, "n_layers": 8, "n_heads": 16, "n_experts": 64, "top_k": 8, "expert_width": 512},
    "7b": {"d_model": 2048, "n_layers": 16, "n_heads": 16, "n_experts": 64, "top_k": 8, "expert_width": 1024},
}


def main(arguments: Sequence[str] = ()) -> None:
    """Time both and print tokens per second."""
    from benchmarks.tables import show_table, verdict  # not needed by whoever imports `theirs`

    parser = argparse.ArgumentParser(prog="python -m benchmarks trainer", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="52m")
    parser.add_argument("--vocabulary", type=int, default=50_280)
    parser.add_argument("--instances", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--precision", choices=("float32", "bfloat16", "both"), help="CPU: both; GPU: bfloat16")
    parser.add_argument("--compile", action="store_true", help="compile this trainer's layers (transformers as it is)")
    parser.add_argument("--rounds", type=int, default=2, help="turns that each side gets")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(_measure(options)))
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = _config(options)
    total, active = parameter_counts(config.model)
    title = (
        f"{total:,} parameters, {active:,} active; {options.instances} x {options.length} tokens a step; "
        f"{device}, {options.threads} threads"
    )
    asked = options.precision or ("bfloat16" if device == "cuda" else "both")
    precisions = ("float32", "bfloat16") if asked == "both" else (asked,)
    results = {precision: _turns(options, arguments, precision) for precision in precisions}
    flops, tokens = flops_per_token(config.model, options.length), options.instances * options.length
    rows: list[list[str]] = []
    for precision, sides in results.items():
        clock, cpu = ({side: _median(found[kind]) for side, found in sides.items()} for kind in KINDS)
        for side, found in sides.items():
            used = utilisation(tokens / clock[side], flops, torch.device(device), 1)
            row = [
                f"{precision}, {SIDES[side]}",
                f"{clock[side]:.3f}",
                f"{cpu[side]:.3f}",
                f"{tokens / clock[side]:,.0f}",
            ]
            row += [f"{found['peak_bytes'] / 1e9:.1f}", "" if used is None else f"{used:.1%}"]
            row += (
                [f"{times[side] / times['trainer']:.2f}" for times in (clock, cpu)] if side != "trainer" else ["", ""]
            )
            rows.append(row)
        rows.append([])
    show_table(title, HEADINGS, rows)
    for against in ("grouped", "eager"):
        for precision, sides in results.items():
            ratio = _median(sides[against]["cpu_seconds"]) / _median(sides["trainer"]["cpu_seconds"])
            print(f"{precision}, against {SIDES[against]}, by CPU time: x{ratio:.2f}, {verdict(ratio, GOALS[precision])}")
    if len(results) == 2:
        theirs_, ours_ = results["float32"]["grouped"], results["bfloat16"]["trainer"]
        ratio = _median(theirs_["cpu_seconds"]) / _median(ours_["cpu_seconds"])
        print(
            f"bfloat16, against {SIDES['grouped']} as it is by default (float32): x{ratio:.2f}, "
            f"{verdict(ratio, GOALS['bfloat16'])}"
        )


def _turns(options: argparse.Namespace, arguments: Sequence[str], precision: str) -> dict[str, dict[str, Any]]:
    """Seconds of every step of each side, which take turns, and the most memory that each held."""
    environment = {"GOMP_SPINCOUNT": "1000", **os.environ}  # as the trainer's command sets it, for both
    command = [sys.executable, "-c", "import sys; from benchmarks.trainer import main; main(sys.argv[1:])", *arguments]
    found: dict[str, dict[str, Any]] = {side: {"seconds": [], "cpu_seconds": [], "peak_bytes": 0} for side in SIDES}
    for _ in range(options.rounds):
        for side, kept in found.items():
            own = ["--side", side, "--precision", precision]
            done = subprocess.run(
                [*command, *own], check=True, text=True, stdout=subprocess.PIPE, env=environment, timeout=600
            )
            result = json.loads(done.stdout.splitlines()[-1])
            kept["seconds"] += result["seconds"]
            kept["cpu_seconds"] += result["cpu_seconds"]
            kept["peak_bytes"] = max(kept["peak_bytes"], result["peak_bytes"])
    return found


SIDES = {
    "trainer": "this trainer",
    "grouped": "transformers, grouped_mm",
    "eager": "transformers, eager experts",
}

KINDS = ("seconds", "cpu_seconds")
HEADINGS = ("", "s a step", "CPU s", "tokens/s", "GB", "MFU", "trainer's x", "by CPU time")
GOALS = {"float32": 1.8, "bfloat16": 2.0}


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def _config(options: argparse.Namespace) -> Config:
    return check(
        {
            "name": "benchmark",
            "model": {**SIZES[options.size], "vocab_size": options.vocabulary},
            "data": {"sequence_length": options.length},
            "train": {"batch_tokens": options.instances * options.length, "micro_batch": options.instances},
        },
        "benchmark",
    )


def _measure(options: argparse.Namespace) -> dict[str, object]:
    torch.set_num_threads(options.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    config = _config(options)
    tokens = torch.randint(0, options.vocabulary, (options.instances, options.length), device=device)
    precision = getattr(torch, options.precision)
    reuse_memory()
    if options.side == "trainer":
        step = ours(config, tokens, device, precision, options.compile)
    else:
        step = theirs(config, tokens, device, precision, "eager" if options.side == "eager" else None)
    seconds, cpu_seconds = [], []
    for number in range(options.steps + 2):
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if number >= 2:  # the first two warm up
            seconds.append(time.perf_counter() - start)
            cpu_seconds.append(time.process_time() - cpu_start)
    peak = measure.peak_memory()
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else peak
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": peak}


def ours(
    config: Config, tokens: torch.Tensor, device: torch.device, precision: torch.dtype, compiled: bool
) -> Callable[[], None]:
    """A training step of this trainer."""
    with torch.device("meta"):
        model = Olmoe(config.model)
    model.to_empty(device=device)
    model.init_weights(0)
    model.dtype = precision
    if compiled:
        for layer in model.layers:
            layer.compile()
    optimizer = build_optimizer(model, config.optimizer)
    targets = torch.nn.functional.pad(tokens[:, 1:], (0, 1), value=-100)

    def step() -> None:
        output = model(tokens, targets)
        (output.loss_sum / (targets != -100).sum() + router_losses(output, config)).backward()
        update(optimizer, gradient_norm(model), config.optimizer.clip)
        optimizer.zero_grad()

    return step


def theirs(
    config: Config, tokens: torch.Tensor, device: torch.device, precision: torch.dtype, experts: str | None
) -> Callable[[], None]:
    """A training step of transformers; `experts` names one of its implementations of them, None its default."""
    import transformers

    model = config.model
    described = transformers.OlmoeConfig(
        vocab_size=model.padded_vocab,
        hidden_size=model.d_model,
        intermediate_size=model.expert_width,
        num_hidden_layers=model.n_layers,
        num_attention_heads=model.n_heads,
        num_experts=model.n_experts,
        num_experts_per_tok=model.top_k,
        max_position_embeddings=config.data.sequence_length,
        eos_token_id=None,
        pad_token_id=None,
        output_router_logits=True,
        router_aux_loss_coef=config.losses.load_balancing,
    )
    network = transformers.OlmoeForCausalLM(described).to(device).train()
    if experts is not None:
        network.set_experts_implementation(experts)
    optimizer = torch.optim.AdamW(
        network.parameters(),
        lr=0.0,
        betas=config.optimizer.betas,
        weight_decay=config.optimizer.weight_decay,
        fused=True,
    )

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16):
            network(input_ids=tokens, labels=tokens).loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), config.optimizer.clip)
        optimizer.step()
        optimizer.zero_grad()

    return step
