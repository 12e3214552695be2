"""The model of the engine `blocks`: weights of a hashed logistic regression, and trees, in one file of a few hundred kB."""

from __future__ import annotations

import functools
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from stages.kernels.block_dense import FEATURES
from stages.kernels.block_hashes import BITS

PATH = Path(__file__).with_name("blocks.npz")
FORMAT = 2  # raise it when features change: a model of another format is refused


_ARRAYS = ("weights", "roots", "depths", "nodes", "numbers")


@dataclass(frozen=True)
class BlockModel:
    """What `linear_scores` and `tree_scores` take, and the numbers of the decision."""

    weights: np.ndarray  # int8[2**BITS]
    scale: float
    bias: float
    roots: np.ndarray  # int32[trees]
    depths: np.ndarray  # int32[trees / 4]
    nodes: np.ndarray  # int32[nodes, 3]
    numbers: np.ndarray  # float32[nodes]
    limit: float  # a block is kept above min(limit, share x the page's mean probability of likely blocks)
    share: float

    def save(self, path: Path) -> None:
        """Write the model; the same bytes for the same model."""
        facts = {"format": FORMAT, "bits": BITS, "dense": FEATURES, "limit": self.limit, "share": self.share}
        logit = np.array([self.scale, self.bias], np.float32)
        arrays = {"facts": np.frombuffer(json.dumps(facts, sort_keys=True).encode(), np.uint8), "logit": logit}
        arrays |= {name: getattr(self, name) for name in _ARRAYS}
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)  # members have a fixed date
        path.write_bytes(file.getvalue())


def load(path: Path = PATH) -> BlockModel:
    """Read a model. Raises ValueError where it was made for other features."""
    with np.load(path, allow_pickle=False) as file:
        facts: Mapping[str, Any] = json.loads(file["facts"].tobytes())
        expected = {"format": FORMAT, "bits": BITS, "dense": FEATURES}
        if {name: facts.get(name) for name in expected} != expected:
            raise ValueError(f"{path} is a model for other features ({facts}); this version needs {expected}")
        scale, bias = file["logit"].tolist()
        arrays = [file[name] for name in _ARRAYS]
    for array in arrays:
        array.flags.writeable = False
    weights, *trees = arrays
    return BlockModel(weights, scale, bias, *trees, limit=float(facts["limit"]), share=float(facts["share"]))


@functools.cache
def default_model() -> BlockModel:
    """The model that comes with the package."""
    return load()
