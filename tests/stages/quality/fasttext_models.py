"""Small fastText models of every kind, trained by the library, and what the library says of a text."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import fasttext

_TEXT = (
    "the of and mill wheel water bread flour stone river baker oven grain sack race gate spill miller "
    "le la et moulin roue eau pain farine pierre rivière boulanger four grain sac vanne meunier "
    "и мельница колесо вода хлеб мука камень река пекарь печь зерно мешок "
    "水 面粉 磨坊 石 河 麵包 🍞 🌾🌾 café naïve Straße don't e-mail x1 1,000 3.14 </b> <s> __labe __label_ \x01\x02 a\x1fb"
)
WORDS = _TEXT.split(" ")


@dataclass(frozen=True)
class Kind:
    """How a model is trained, and how it is quantized afterwards, if at all."""

    labels: int = 2
    train: dict | None = None
    quantize: dict | None = None


KINDS = {
    "softmax of two": Kind(2, {"wordNgrams": 2}),
    "softmax of three, three words": Kind(3, {"wordNgrams": 3}),
    "softmax of one": Kind(1, {}),
    "more labels than dimensions": Kind(9, {"dim": 6, "wordNgrams": 2}),
    "no n-grams": Kind(2, {}),
    "rare words left out": Kind(3, {"minCount": 40, "wordNgrams": 2}),
    "characters": Kind(4, {"minn": 2, "maxn": 4, "dim": 11}),
    "single characters": Kind(3, {"minn": 1, "maxn": 3, "wordNgrams": 2}),
    "tree": Kind(7, {"loss": "hs", "wordNgrams": 2}),
    "tree of one": Kind(1, {"loss": "hs"}),
    "tree of two": Kind(2, {"loss": "hs"}),
    "tree, characters, more labels than dimensions": Kind(20, {"loss": "hs", "minn": 2, "maxn": 4, "dim": 8}),
    "one against all": Kind(4, {"loss": "ova", "wordNgrams": 2}),
    "negative sampling": Kind(4, {"loss": "ns"}),
    "quantized": Kind(2, {"wordNgrams": 2}, {}),
    "quantized, pruned, norms, output": Kind(
        3, {"wordNgrams": 2, "minn": 2, "maxn": 3, "dim": 9}, {"cutoff": 400, "qnorm": True}
    ),
    "quantized output": Kind(300, {"wordNgrams": 2, "dim": 5}, {"qout": True, "qnorm": True, "dsub": 3}),
    "pruned of all n-grams": Kind(3, {"wordNgrams": 2, "dim": 16}, {"cutoff": 1000}),
}


def train(kind: Kind, folder: Path) -> tuple[Path, fasttext.FastText._FastText]:
    """Train a model on made-up lines; returns its file and the library's model."""
    choose = random.Random(7)
    lines = []
    for number in range(1500):
        label = number % kind.labels
        own = WORDS[label % len(WORDS) :: 1 + label % 5]
        words = [choose.choice(own if choose.random() < 0.5 else WORDS) for _ in range(choose.randrange(1, 25))]
        if "cutoff" in (kind.quantize or {}) and kind.quantize["cutoff"] == 1000:
            words += [f"w{choose.randrange(3000)}" for _ in range(12)]
        lines.append(f"__label__l{label} {' '.join(words)}\n")
    text = folder / "train.txt"
    text.write_text("".join(lines), encoding="utf-8", newline="\n")
    settings = {"dim": 12, "epoch": 3, "bucket": 3000, "lr": 0.5, "thread": 1, "verbose": 0} | (kind.train or {})
    model = fasttext.train_supervised(input=str(text), **settings)
    path = folder / "model.bin"
    if kind.quantize is not None:
        model.quantize(verbose=0, **kind.quantize)
        path = folder / "model.ftz"
    model.save_model(str(path))
    return path, fasttext.load_model(str(path))


def library_says(model: fasttext.FastText._FastText, line: str) -> dict[str, float]:
    """Each label's probability, the best first, as the library gives it; nothing where it has no answer."""
    return {label: probability for probability, label in model.f.predict(line + "\n", -1, 0.0, "strict")}
