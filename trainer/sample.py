"""Writing text with a trained model: temperature and top-p sampling over a KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from tokenizers.decoders import DecodeStream
from torch import Tensor

from trainer.errors import TrainerError
from trainer.inference import Trained
from trainer.model import Cache


def generate(
    trained: Trained,
    tokens: list[int],
    count: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    use_cache: bool = True,
) -> Iterator[int]:
    """An iterator over up to `count` token ids that follow `tokens`; it ends at the end-of-document token.

    `temperature` 0 takes the most probable token. `top_p` keeps the most probable tokens whose probabilities first
    reach it together (Holtzman et al. 2019, arXiv 1904.09751). The same seed gives the same tokens on one device.
    Raises TrainerError at once if prompt and answer do not fit into the context that the model was trained with.
    """
    context = trained.context
    if not tokens:
        raise TrainerError("the prompt is empty")
    if count < 1:
        raise TrainerError(f"{count} new tokens are asked for: ask for at least 1")
    if len(tokens) + count > context:
        raise TrainerError(
            f"a prompt of {len(tokens)} tokens and {count} new ones are more than the context of {context} tokens"
        )
    if not temperature >= 0 or not 0 < top_p <= 1:
        raise TrainerError(f"temperature is {temperature} (0 or more) and top_p {top_p} (above 0, up to 1)")
    trained.require_causal()
    return _generate(trained, tokens, count, temperature, top_p, seed, use_cache)


def _generate(
    trained: Trained, tokens: list[int], count: int, temperature: float, top_p: float, seed: int, use_cache: bool
) -> Iterator[int]:
    model, device = trained.model, trained.device
    generator = torch.Generator(device).manual_seed(seed)
    cache = Cache(model.config, 1, len(tokens) + count, device, model.dtype) if use_cache else None
    new = list(tokens)
    for _ in range(count):
        given = new if use_cache else tokens
        with torch.no_grad():
            logits_V = model(torch.tensor([given], device=device), cache=cache)[0, -1]
        logits_V = logits_V[: trained.data["vocab_size"]].float()
        if not logits_V.isfinite().all():
            raise TrainerError(f"{trained.path}: the model's output is not finite; take an earlier checkpoint")
        token = choose(logits_V, temperature, top_p, generator)
        if token == trained.data["eos_id"]:
            return
        yield token
        new, tokens = [token], [*tokens, token]


def choose(logits_V: Tensor, temperature: float, top_p: float, generator: torch.Generator) -> int:
    """One token id from logits (fp32)."""
    if temperature == 0:
        return int(logits_V.argmax())
    # In fp64 and from the largest down, so that a tiny temperature is a sharp choice and no infinity.
    scaled_V = (logits_V.double() - logits_V.max()) / temperature
    probs_V, order_V = scaled_V.softmax(-1).sort(descending=True, stable=True)
    before_V = probs_V.cumsum(-1) - probs_V
    probs_V = torch.where(before_V < top_p, probs_V, 0.0)
    return int(order_V[torch.multinomial(probs_V, 1, generator=generator)])


def write(
    trained: Trained,
    prompt: str,
    count: int,
    temperature: float,
    top_p: float,
    seed: int,
    say: Callable[[str], None],
) -> None:
    """Say the prompt and what the model makes of it, piece by piece. An empty prompt begins a new document."""
    tokenizer = trained.tokenizer()
    tokens = tokenizer.encode(prompt, add_special_tokens=False).ids or [trained.data["eos_id"]]
    written = generate(trained, tokens, count, temperature, top_p, seed)
    say(prompt)
    stream = DecodeStream(skip_special_tokens=True)
    for token in written:
        piece = stream.step(tokenizer, token)
        if piece:
            say(piece)
