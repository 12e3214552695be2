"""Training of the block model: two stages, taught by teachers' texts and people's strings, judged by cross-validation.

Stage 2 learns from what stage 1 says of pages that it was not trained on, of other sites. The same pages, settings and
versions of NumPy and LightGBM give the same model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from stages.extract.block_labels import Truth, block_labels
from stages.extract.block_model import BlockModel
from stages.extract.block_scores import Found
from stages.extract.blocks import Parsed
from stages.kernels import block_hashes
from stages.kernels.block_dense import FEATURES, dense_matrix
from stages.step import Settings


class FitSettings(Settings):
    """How the two stages are fitted, and how the model decides."""

    seed: int = 0
    # Stage 1: Adagrad on the logistic loss.
    epochs: int = 5
    rate: float = 0.1
    decay: float = 1e-5
    inner_folds: int = 4  # parts of the sites, each scored by a stage 1 of the others, for stage 2 to learn from
    # Stage 2: LightGBM.
    rounds: int = 120
    leaves: int = 31
    depth: int = 8
    learning_rate: float = 0.06
    feature_fraction: float = 0.3
    bagging_fraction: float = 0.6
    least_in_leaf: int = 20
    people: float = 4.0  # how many times as much as in stage 1 labels from the truth weigh here
    threads: int = 1
    # The decision: see stages/kernels/block_decide.py.
    limit: float = 0.6
    share: float = 0.7


@dataclass(frozen=True)
class Example:
    """A page to learn from."""

    url: str
    page: bytes  # HTML in UTF-8
    teachers: tuple[str, ...]  # its main text by each teacher
    truth: Truth | None


@dataclass(frozen=True)
class Prepared:
    """What training needs of one page, a row for each block."""

    site: str
    language: str | None
    hashed: np.ndarray  # int32: features of all blocks, one after the other
    counts: np.ndarray  # int64: how many each block has
    labels: np.ndarray  # float32
    weights: np.ndarray  # float32
    by_people: np.ndarray  # bool: labels from the truth


@dataclass(frozen=True)
class Linear:
    """A stage 1: logit = bias + scale x the sum of weights."""

    weights: np.ndarray  # int8[2**BITS]
    scale: float
    bias: float

    def scores(self, page: Prepared) -> np.ndarray:
        """The probability of each block, float32; the same numbers as `linear_scores` gives."""
        ends = np.cumsum(page.counts)
        totals = np.concatenate([[0], np.cumsum(self.weights[page.hashed], dtype=np.int64)])
        sums = totals[ends] - totals[ends - page.counts]
        return (1 / (1 + np.exp(-(self.bias + self.scale * sums)))).astype(np.float32)


def site_of(url: str) -> str:
    """The site of a URL: the last two labels of its host, three where the last two are short, as in co.uk."""
    labels = (urlsplit(url).hostname or url).split(".")
    short = len(labels) > 2 and len(labels[-1]) == 2 and len(labels[-2]) <= 3
    return ".".join(labels[-3 if short else -2 :])


def prepare(examples: Sequence[Example], parsed: Parsed) -> list[Prepared]:
    """Hashed features, labels and weights of each page's blocks."""
    found = []
    buffer = np.empty(block_hashes.MOST, np.int32)
    for example in examples:
        parsed.parse(example.page)
        w = parsed.workspace
        rows = []
        for b in range(parsed.blocks):
            n = block_hashes.one_block_features(w.out, w.s, w.el, w.bl, w.tok, parsed.stats, b, buffer)
            rows.append(buffer[:n].copy())
        texts = [parsed.block(b) for b in range(parsed.blocks)]
        labels, weights, by_people = block_labels(texts, example.teachers, example.truth)
        hashed = np.concatenate(rows) if rows else np.empty(0, np.int32)
        counts = np.array([len(row) for row in rows], np.int64)
        language = parsed.metadata().language
        found.append(Prepared(site_of(example.url), language, hashed, counts, labels, weights, by_people))
    return found


def folds(pages: Sequence[Prepared], among: Sequence[int], count: int, seed: int) -> list[list[int]]:
    """The pages numbered `among` in `count` parts; those of one site are in one part."""
    sites = sorted({pages[i].site for i in among})
    order = np.random.default_rng(seed).permutation(len(sites))
    part = {sites[site]: place % count for place, site in enumerate(order)}
    return [[i for i in among if part[pages[i].site] == one] for one in range(count)]


def fit_linear(pages: Sequence[Prepared], settings: FitSettings) -> Linear:
    """Fit stage 1 to all blocks of the pages."""
    hashed = np.concatenate([page.hashed for page in pages])
    starts = np.concatenate([[0], np.cumsum(np.concatenate([page.counts for page in pages]))])
    labels = np.concatenate([page.labels for page in pages])
    sample_weights = np.concatenate([page.weights for page in pages])
    sample_weights = (sample_weights / max(float(sample_weights.mean()), 1e-9)).astype(np.float32)
    weights = np.zeros((1 << block_hashes.BITS) + 1, np.float32)
    squares = np.full(len(weights), 0.1, np.float32)
    random = np.random.default_rng(settings.seed)
    for _ in range(settings.epochs):
        order = random.permutation(len(labels)).astype(np.int64)
        block_hashes.fit_linear(
            hashed, starts, labels, sample_weights, order, settings.rate, settings.decay, weights, squares
        )
    scale = float(np.abs(weights[:-1]).max()) / 127 or 1.0
    return Linear(np.rint(weights[:-1] / scale).astype(np.int8), float(np.float32(scale)), float(weights[-1]))


def dense(example: Example, scores: np.ndarray, parsed: Parsed) -> np.ndarray:
    """Stage 2's features of a page's blocks, float32 (blocks, FEATURES), from stage 1's probabilities."""
    parsed.parse(example.page)
    out = np.empty((parsed.blocks, FEATURES), np.float32)
    if parsed.blocks:
        w = parsed.workspace
        dense_matrix(w.s, w.el, w.bl, parsed.stats, parsed.sums, np.ascontiguousarray(scores), out)
    return out


def fit_trees(features: np.ndarray, labels: np.ndarray, weights: np.ndarray, settings: FitSettings) -> Any:
    """Fit stage 2; returns LightGBM's booster."""
    import lightgbm

    parameters = {
        "objective": "cross_entropy",  # labels are probabilities
        "num_leaves": settings.leaves,
        "learning_rate": settings.learning_rate,
        "feature_fraction": settings.feature_fraction,
        "bagging_fraction": settings.bagging_fraction,
        "bagging_freq": 1,
        "min_data_in_leaf": settings.least_in_leaf,
        "max_depth": settings.depth,
        "seed": settings.seed,
        "deterministic": True,
        "force_col_wise": True,
        "num_threads": settings.threads,
        "verbose": -1,
    }
    return lightgbm.train(parameters, lightgbm.Dataset(features, labels, weight=weights), settings.rounds)


def fit(examples: Sequence[Example], pages: Sequence[Prepared], among: Sequence[int], settings: FitSettings) -> BlockModel:
    """Train on the pages numbered `among`."""
    parsed = Parsed(max(len(example.page) for example in examples))
    scores: dict[int, np.ndarray] = {}
    for part in folds(pages, among, settings.inner_folds, settings.seed + 1):
        left_out = set(part)
        linear = fit_linear([pages[i] for i in among if i not in left_out], settings)
        scores |= {i: linear.scores(pages[i]) for i in part}
    linear = fit_linear([pages[i] for i in among], settings)
    features = np.concatenate([dense(examples[i], scores[i], parsed) for i in among])
    labels = np.concatenate([pages[i].labels for i in among])
    weights = np.concatenate([np.where(pages[i].by_people, settings.people, 1) * pages[i].weights for i in among])
    booster = fit_trees(features, labels, weights, settings)
    trees = flatten([tree["tree_structure"] for tree in booster.dump_model()["tree_info"]])
    return BlockModel(linear.weights, linear.scale, linear.bias, *trees, limit=settings.limit, share=settings.share)


def flatten(trees: Sequence[dict[str, Any]]) -> tuple[np.ndarray, ...]:
    """LightGBM's trees as `tree_scores` takes them: roots, depths, nodes, numbers; trees of 0 fill the last group."""
    roots: list[int] = []
    depths: list[int] = []
    nodes: list[list[int]] = []
    numbers: list[np.float32] = []
    for tree in [*trees, *[{"leaf_value": 0.0}] * (-len(trees) % 4)]:
        roots.append(len(nodes))
        deepest = 0
        todo = [(tree, 0, -1, 0)]  # node, its depth, the number of its parent, its column there
        while todo:
            node, depth, parent, column = todo.pop()
            place = len(nodes)
            if parent >= 0:
                nodes[parent][column] = place
            if "split_feature" in node:
                nodes.append([node["split_feature"], 0, 0])
                numbers.append(_below(node["threshold"]))
                todo += [(node["right_child"], depth + 1, place, 2), (node["left_child"], depth + 1, place, 1)]
            else:
                nodes.append([0, place, place])
                numbers.append(np.float32(node["leaf_value"]))
                deepest = max(deepest, depth)
        depths.append(deepest)
    groups = np.array(depths, np.int32).reshape(-1, 4).max(axis=1)
    return np.array(roots, np.int32), groups, np.array(nodes, np.int32), np.array(numbers, np.float32)


def _below(threshold: float) -> np.float32:
    """The greatest float32 that is not above a threshold: float32 features are at most one where they are at most the other."""
    rounded = np.float32(threshold)
    return np.nextafter(rounded, np.float32(-np.inf)) if float(rounded) > threshold else rounded


def judge(model: BlockModel, example: Example, parsed: Parsed, headline: bool = False) -> tuple[str, Found]:
    """(text, strings found in it) of a page."""
    parsed.parse(example.page)
    parsed.decide(parsed.score(model), model.limit, model.share, headline)
    text = parsed.text().decode()
    found = Found()
    if example.truth is not None:
        found.add(text, example.truth)
    return text, found


def cross_validate(
    examples: Sequence[Example],
    pages: Sequence[Prepared],
    settings: FitSettings,
    count: int,
    on_fold: Callable[[int], None] = lambda fold: None,
) -> list[Found]:
    """The strings found in each page by a model that was trained on other sites."""
    parsed = Parsed(max(len(example.page) for example in examples))
    everything = list(range(len(pages)))
    found = [Found() for _ in everything]
    for fold, part in enumerate(folds(pages, everything, count, settings.seed)):
        left_out = set(part)
        model = fit(examples, pages, [i for i in everything if i not in left_out], settings)
        for i in part:
            found[i] = judge(model, examples[i], parsed)[1]
        on_fold(fold)
    return found
