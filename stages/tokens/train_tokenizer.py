"""Training a tokenizer on a run's own text: byte-level BPE, reproducible to the byte."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.tokens.shard_format import write_bytes
from stages.tokens.tokenizer import END_TOKENS, PAD_TOKENS, TokenizerError


def train_tokenizer(texts: Iterable[str], path: str | Path, vocab_size: int = 8192, max_bytes: int = 64 << 20) -> int:
    """Train a byte-level BPE on at most `max_bytes` of UTF-8 text, write its tokenizer.json; returns the bytes used.

    The same texts give the same file, whatever the number of threads. Ids: 0 is `<|endoftext|>`, 1 `<|padding|>`, then
    the 256 bytes, then merges in the order learned. Words are split by GPT-2's pattern; text is not normalized, so
    decoding gives back what was encoded. Memory is bounded by the distinct words of the sample. The text that would
    pass `max_bytes` is cut there. Raises TokenizerError when there is no text, or the vocabulary is too small.
    """
    special = [END_TOKENS[0], PAD_TOKENS[0]]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(special) + len(alphabet):
        raise TokenizerError(
            f"a vocabulary of {vocab_size} is too small: {len(special) + len(alphabet)} entries are fixed"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    used = 0

    def sample() -> Iterator[str]:
        nonlocal used
        for text in texts:
            size = len(text.encode())
            if used + size > max_bytes:
                text = text.encode()[: max_bytes - used].decode(errors="ignore")
                size = len(text.encode())
                used += size
                yield text
                return
            used += size
            yield text

    tokenizer.train_from_iterator(sample(), trainer)
    if used == 0:
        raise TokenizerError("a tokenizer cannot be trained: the sample holds no text")
    # Fewer distinct words than asked for give fewer entries; what is written says how many there are.
    write_bytes(path, (tokenizer.to_str(pretty=False) + "\n").encode())
    return used
