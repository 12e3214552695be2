"""What is held out is never trained on: no document of it, no copy of one, in any source, at any position of training."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipeline.carry_out import Options, run_recipe
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from stages.tokens.shard_format import load_manifest, read_index
from trainer.loader.data import open_data


def documents(run: Path, split: dict) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(id, tokens) of a split's documents."""
    for shard in split["shards"]:
        tokens = np.fromfile(run / shard["path"], "<u2")
        for row in read_index(run / shard["index"]):
            yield row.id, tuple(tokens[row.start : row.end].tolist())


def test_held_out_documents_and_their_copies_are_never_trained_on(tmp_path: Path) -> None:
    texts = [
        f"The mill number {i} stands at the water. " + f"Its wheel turns {i * 7919} times a day. " * 9
        for i in range(90)
    ]
    for name, some in {"a": texts[:60] + texts[10:30], "b": texts[30:] + texts[40:50]}.items():  # copies in and across
        rows = (json.dumps({"id": f"{name}{i}", "text": text + "\n" * (i % 3)}) for i, text in enumerate(some))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    recipe = {
        "name": "held",
        "sources": {name: {"read": {"paths": [f"{tmp_path}/{name}.jsonl"]}, "steps": []} for name in "ab"},
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "20KB"}},
        "shards": {"bytes": "20KB", "held_out": 0.3},
        "mixture": {"epochs": 1.5, "reshuffle_last_tokens": 2000},
    }
    out = tmp_path / "run"
    run_recipe(build_recipe(recipe, None, ()), Options(str(out), inline=True, progress=Progress(quiet=True)))

    entries = load_manifest(out)["sources"].values()
    held = [found for entry in entries for found in documents(out, entry["held_out"])]
    kept = [found for entry in entries for found in documents(out, entry)]
    assert len(held) + len(kept) == 150 and len({text for _, text in held} | {text for _, text in kept}) == 90
    assert 20 < len(held) < 75 and all(entry["held_out"]["documents"] for entry in entries)
    assert not {name for name, _ in held} & {name for name, _ in kept}
    unseen = {text for _, text in held}
    assert not unseen & {text for _, text in kept}

    # And as training reads: every document at every position, over all epochs and the reshuffle.
    train = open_data(out, 1024, packing="best_fit").train
    batch = train.read(0, len(train), documents=True)
    read = {
        tuple(tokens[numbers == number].tolist())
        for tokens, numbers in zip(*batch, strict=True)
        for number in range(int(numbers.max()) + 1)
    }
    assert read == {text for _, text in kept}
