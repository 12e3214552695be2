"""The measures of section 5 of OLMoE's paper (arXiv 2409.02060), added up batch by batch.

Memory is a table for each layer, whatever the number of tokens: two of them are [E, V] int32 (vocabulary
specialisation), which for OLMoE-1B-7B are 410 MB together.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from trainer.analyze.routing import Routed

MIN_SEEN = 10
"""A token is listed as an expert's if it was seen at least this often (the paper's own code, run_moe_analysis.py)."""


@dataclass
class Counts:
    """Counts over the tokens of one checkpoint. L layers, S sources, E experts, V vocabulary."""

    layers: int
    sources: int
    experts: int
    vocabulary: int
    tokens_S: np.ndarray = field(init=False)  # int64, tokens of each source
    routed_LSE: np.ndarray = field(init=False)  # int64, tokens that chose an expert among their K
    first_LSE: np.ndarray = field(init=False)  # int64, tokens whose first choice it was
    together_LEE: np.ndarray = field(init=False)  # int64, tokens that chose both
    input_LEV: np.ndarray = field(init=False)  # int32, first choices of each input token
    output_LEV: np.ndarray = field(init=False)  # int32, first choices of each predicted token

    def __post_init__(self) -> None:
        layers, sources, experts, vocabulary = self.layers, self.sources, self.experts, self.vocabulary
        self.tokens_S = np.zeros(sources, np.int64)
        self.routed_LSE, self.first_LSE = np.zeros((2, layers, sources, experts), np.int64)
        self.together_LEE = np.zeros((layers, experts, experts), np.int64)
        self.input_LEV, self.output_LEV = np.zeros((2, layers, experts, vocabulary), np.int32)

    def add(self, routed: Routed) -> None:
        """Count one batch."""
        self.tokens_S[routed.source] += len(routed.tokens_N)
        for layer, choices_NK in enumerate(routed.choices_LNK):
            together_EE = together(choices_NK, self.experts)
            self.routed_LSE[layer, routed.source] += together_EE.diagonal()
            self.together_LEE[layer] += together_EE
            first_N = choices_NK[:, 0].astype(np.int64)
            self.first_LSE[layer, routed.source] += np.bincount(first_N, minlength=self.experts)
            for table, tokens_N in ((self.input_LEV, routed.tokens_N), (self.output_LEV, routed.predicted_N)):
                np.add.at(table[layer].reshape(-1), first_N * self.vocabulary + tokens_N, 1)

    def load(self) -> np.ndarray:
        """Tokens of each expert in parts of the balanced load, fp64 [L, E]."""
        routed_LE = self.routed_LSE.sum(1).astype(np.float64)
        return routed_LE / routed_LE.mean(1, keepdims=True)

    def domain_specialisation(self, first_only: bool = False) -> np.ndarray:
        """Share of each source's tokens that are routed to an expert (k = K, or its first choice alone), fp64 [L, S, E].
        Uniform is k / E; NaN for a source without tokens."""
        counts_LSE = self.first_LSE if first_only else self.routed_LSE
        with np.errstate(invalid="ignore"):
            return counts_LSE / np.where(self.tokens_S == 0, np.nan, self.tokens_S)[None, :, None]

    def coactivation(self) -> np.ndarray:
        """N_ij / N_i by layer (see the function), fp64 [L, E, E]."""
        return coactivation(self.together_LEE)

    def vocabulary_specialisation(self, of: str) -> np.ndarray:
        """By layer: of each token id (`input` or `output`: predicted), the largest share of its occurrences with one
        expert as first choice; the mean over the ids that occur, fp64 [L]."""
        table_LEV = self.input_LEV if of == "input" else self.output_LEV
        means = []
        for table_EV in table_LEV:
            seen_V = table_EV.sum(0)
            share_V = table_EV.max(0)[seen_V > 0] / seen_V[seen_V > 0]
            means.append(share_V.mean() if len(share_V) else np.nan)
        return np.array(means)

    def tokens_of_expert(self, of: str, layer: int, most: int = 15) -> list[list[tuple[int, float, int]]]:
        """For each expert the ids whose most frequent first choice it is, seen MIN_SEEN times or more: (id, share,
        times seen), those with the largest share first."""
        table_EV = (self.input_LEV if of == "input" else self.output_LEV)[layer]
        seen_V, owner_V = table_EV.sum(0), table_EV.argmax(0)
        found: list[list[tuple[int, float, int]]] = []
        for expert in range(self.experts):
            ids = np.flatnonzero((seen_V >= MIN_SEEN) & (owner_V == expert))
            shares = table_EV[expert, ids] / seen_V[ids]
            best = np.lexsort((ids, -seen_V[ids], -shares))[:most]
            found.append([(int(ids[i]), float(shares[i]), int(seen_V[ids[i]])) for i in best])
        return found


def together(choices_NK: np.ndarray, experts: int) -> np.ndarray:
    """N_ij: the tokens that chose both i and j among their K, int64 [E, E]; on the diagonal those that chose i."""
    chosen_NE = np.zeros((len(choices_NK), experts), np.float32)
    np.put_along_axis(chosen_NE, choices_NK.astype(np.int64), 1, 1)
    return np.rint(chosen_NE.T @ chosen_NE).astype(np.int64)


def coactivation(together_LEE: np.ndarray) -> np.ndarray:
    """N_ij / N_i: of the tokens that activate i, the share that activates j too, fp64 [L, E, E]; 0 on the diagonal and
    for an expert that nothing is routed to."""
    own_LE = together_LEE.diagonal(axis1=1, axis2=2)
    found = together_LEE / np.maximum(own_LE, 1)[:, :, None]
    itself = np.arange(together_LEE.shape[1])
    found[:, itself, itself] = 0
    return found


def most_coactive(matrix_EE: np.ndarray, most: int = 32) -> list[int]:
    """The experts of the most co-activating pairs, in the order in which the pairs name them, `most` at most."""
    order = np.argsort(-matrix_EE, axis=None, kind="stable")
    found: list[int] = []
    for place in order:
        for expert in divmod(int(place), len(matrix_EE)):
            if expert not in found:
                found.append(expert)
            if len(found) == min(most, len(matrix_EE)):
                return found
    return found


class Saturation:
    """|E_t(x) and E_T(x)| / k, mean over tokens, for k = K and 1."""

    def __init__(self, layers: int) -> None:
        self.tokens = 0
        self.shared_L, self.same_first_L = np.zeros((2, layers))

    def add(self, then_LNK: np.ndarray, last_LNK: np.ndarray) -> None:
        """Compare the choices of an earlier checkpoint with those of the last one, of the same tokens."""
        k = last_LNK.shape[2]
        equal = then_LNK[:, :, :, None] == last_LNK[:, :, None, :]
        self.shared_L += equal.any(3).sum((1, 2)) / k
        self.same_first_L += (then_LNK[:, :, 0] == last_LNK[:, :, 0]).sum(1)
        self.tokens += then_LNK.shape[1]

    def all(self) -> np.ndarray:
        """For k = K, fp64 [L]."""
        return self.shared_L / max(1, self.tokens)

    def first(self) -> np.ndarray:
        """For k = 1, fp64 [L]."""
        return self.same_first_L / max(1, self.tokens)
