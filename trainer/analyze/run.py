"""`trainer analyze`: checkpoints on a run's held-out text, as tables, pictures and a page."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from trainer import checkpoint
from trainer.analyze.measures import Counts, Saturation
from trainer.analyze.routing import require_routed, route
from trainer.errors import TrainerError
from trainer.hf import import_
from trainer.inference import Trained, all_or_newest, open_trained
from trainer.loader.data import Data, open_data
from trainer.resume import require_tokenizer


@dataclass(frozen=True)
class Analysis:
    """What was found."""

    names: list[str]  # of the checkpoints, the last one last
    tokens_seen: list[int]  # in training, by each
    sources: list[str]
    top_k: int
    counts: Counts  # of the last checkpoint
    saturation: list[Saturation]  # of each checkpoint against the last


def analyze(
    paths: Sequence[Path],
    data_dir: Path,
    tokens_of_source: int = 65_536,
    batch_tokens: int = 8_192,
    hf: bool = False,
    device: str | None = None,
) -> tuple[Analysis, Trained]:
    """Look at checkpoints on a run's held-out text, `tokens_of_source` of each source; a training's folder stands for
    all the checkpoints that it keeps. The one that has seen most is the last one.

    The choices of the last one wait in a temporary file, so memory does not grow with the tokens. Raises TrainerError.
    """
    for name, value in (("--tokens", tokens_of_source), ("--batch-tokens", batch_tokens)):
        if value < 1:
            raise TrainerError(f"{name} {value}: at least 1")
    with contextlib.ExitStack() as stack:
        if hf:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="headrace-hf-")))
            found = [import_(path, folder / str(number)) for number, path in enumerate(paths)]
            names = [path.name for path in paths]
        else:
            found, names = _in_order([one for path in paths for one in all_or_newest(path)])
        last = open_trained(found[-1], device)
        require_routed(last)
        data = _data(last, data_dir)
        last.tokenizer()  # texts of tokens will be wanted: say now if there is none
        waiting = stack.enter_context(tempfile.TemporaryFile(prefix="headrace-choices-"))
        counts, choices = _last(last, data, tokens_of_source, batch_tokens, waiting)
        saturation = []
        for path in found[:-1]:
            earlier = open_trained(path, device)
            if earlier.config.model.n_experts != last.config.model.n_experts or (
                earlier.config.model.n_layers != last.config.model.n_layers
            ):
                raise TrainerError(f"{path}: is another model than {last.path}: its layers or experts differ")
            saturation.append(_saturation(earlier, data, choices, tokens_of_source, batch_tokens))
            del earlier
        saturation.append(_of_itself(choices))
    seen = [0] * len(found) if hf else [checkpoint.read_state(path)["tokens"] for path in found]
    return Analysis(names, seen, data.sources, last.config.model.top_k, counts, saturation), last


def _in_order(paths: list[Path]) -> tuple[list[Path], list[str]]:
    """Checkpoints by the tokens that they have seen, each once, and their names."""
    unique = list(dict.fromkeys(path.resolve() for path in paths))
    order = sorted(unique, key=lambda path: checkpoint.read_state(path)["tokens"])
    return order, [path.name for path in order]


def _data(trained: Trained, data_dir: Path) -> Data:
    data = open_data(data_dir, trained.context)
    if data.vocab_size != trained.config.model.vocab_size:
        raise TrainerError(
            f"{data_dir}: its tokenizer has {data.vocab_size} entries, the model was trained with "
            f"{trained.config.model.vocab_size}: shards of another tokenizer"
        )
    require_tokenizer(trained.path, trained.data, data.tokenizer_sha256)
    if not data.held_out:
        raise TrainerError(f"{data_dir}: no source has a held-out instance of {trained.context:,} tokens")
    return data


class _Choices:
    """The last checkpoint's choices, in a file: int16, batch after batch, each [L, N, K]."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._shapes: list[tuple[int, ...]] = []

    def write(self, choices_LNK: np.ndarray) -> None:
        self._file.write(np.ascontiguousarray(choices_LNK).tobytes())
        self._shapes.append(choices_LNK.shape)

    def read(self) -> Iterator[np.ndarray]:
        self._file.seek(0)
        for shape in self._shapes:
            yield np.frombuffer(self._file.read(2 * int(np.prod(shape))), np.int16).reshape(shape)


def _last(trained: Trained, data: Data, tokens: int, batch_tokens: int, file: BinaryIO) -> tuple[Counts, _Choices]:
    model = trained.config.model
    counts = Counts(model.n_layers, len(data.sources), model.n_experts, data.vocab_size)
    choices = _Choices(file)
    for routed in route(trained, data, tokens, batch_tokens):
        counts.add(routed)
        choices.write(routed.choices_LNK)
    return counts, choices


def _saturation(trained: Trained, data: Data, choices: _Choices, tokens: int, batch_tokens: int) -> Saturation:
    found = Saturation(trained.config.model.n_layers)
    for routed, last_LNK in zip(route(trained, data, tokens, batch_tokens), choices.read(), strict=True):
        found.add(routed.choices_LNK, last_LNK)
    return found


def _of_itself(choices: _Choices) -> Saturation:
    found: Saturation | None = None
    for last_LNK in choices.read():
        found = found or Saturation(len(last_LNK))
        found.add(last_LNK, last_LNK)
    assert found is not None
    return found
