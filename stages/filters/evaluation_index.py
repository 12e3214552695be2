"""Items of evaluation sets as arrays, made once a machine, and the search for them in documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stages.dedup.normalize import UNICODE_VERSION
from stages.errors import UserError
from stages.filters.evaluation_items import Item, read_items
from stages.filters.evaluation_ngrams import simplified
from stages.filters.evaluation_records import digests
from stages.filters.machine_arrays import Arrays, machine_arrays
from stages.kernels.item_search import SEED, fill_filter, find_items, seed_hashes
from stages.kernels.item_words import word_hashes, word_numbers
from stages.kernels.stored import module_key
from stages.step import content_key

RARE = 1.25  # weights of a word of one item that the words of a seed must have together, or else it is a common one,
MANY = 16  # as is one that more texts have than these:
SEEDS = 3  # it begins no comparison with a text that has so many others
ANSWER_FOR = 2  # words less that an item needs to be found, where its answer is there too
FOUND_AT_ONCE = 4096


@dataclass(frozen=True)
class Found:
    """What a batch of documents holds of items, one row each: document, item, words [first, last) of it, share found."""

    rows: np.ndarray
    items: np.ndarray
    firsts: np.ndarray
    lasts: np.ndarray
    shares: np.ndarray
    words: np.ndarray  # of each document of the batch, in all


@dataclass(frozen=True)
class EvaluationItems:
    """Items numbered through all sets, as `_build` lays them out."""

    arrays: Arrays

    def find(self, texts: pa.Array, shortest: int, enough: float) -> Found:
        """Look for the items in each text of a `large_string` column."""
        a = {name: np.asarray(array) for name, array in self.arrays.items()}
        hashes, offsets = _hashed(texts)
        least = np.where(a["joined"], shortest - ANSWER_FOR, shortest)
        numbers = np.empty(len(hashes), np.uint32)
        word_numbers(hashes, a["known"], a["known_index"], _shift(a["known_index"]), numbers)
        seen = np.full((len(a["texts"]) - 1, 4), -1, np.int64)
        room = FOUND_AT_ONCE
        while True:
            rows, found, firsts, lasts = (np.empty(room, kind) for kind in (np.int64, np.uint32, np.int64, np.int64))
            shares = np.empty(room)
            count = find_items(
                numbers, offsets, a["weights"], a["words"], a["texts"], a["text_weights"], a["answer_words"], a["answers"],
                a["answers_of"], a["filter"], a["seeds"], a["seed_index"], _shift(a["seed_index"]), a["place_begins"],
                a["places"], a["place_texts"], least, shortest - ANSWER_FOR, enough, seen, rows, found, firsts, lasts, shares,
            )  # fmt: skip
            if count <= room:
                break
            room = count
            seen[:] = -1
        items = a["item_of"][found[:count]]
        return Found(rows[:count], items, firsts[:count], lasts[:count], shares[:count], np.diff(offsets))

    def place(self, item: int) -> tuple[int, int]:
        """(which file, which record of it, from 1) an item begins at."""
        return int(self.arrays["files"][item]), int(self.arrays["records"][item])

    def long_enough(self, file: int, shortest: int) -> np.ndarray:
        """Of each item of a file, whether it has words enough to be found."""
        mine = np.asarray(self.arrays["files"]) == file
        alone, answered = self.arrays["alone"][mine], self.arrays["answered"][mine]
        return (alone >= shortest) | (answered >= shortest - ANSWER_FOR)


def load_evaluation_items(files: Sequence[str], fields: Sequence[str], answer_fields: Sequence[str]) -> EvaluationItems:
    """Read the files, or map what this machine has kept of them. Raises as `read_items` does."""
    key = content_key("items", module_key(__name__), UNICODE_VERSION, list(fields), list(answer_fields), digests(files))

    def build() -> Arrays:
        return _build([read_items(file, fields, answer_fields) for file in files])

    return EvaluationItems(machine_arrays(key, build))


def _hashed(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64) of the words of each text, and n + 1 offsets (int64)."""
    words, begins, size = simplified(texts)
    hashes, offsets = np.empty((size + len(texts)) // 2 + 1, np.uint64), np.empty(len(texts) + 1, np.int64)
    return hashes[: word_hashes(words, begins, hashes, offsets)], offsets


def count_words(texts: pa.Array) -> np.ndarray:
    """Words of each text (int64), as the search numbers them."""
    return np.diff(_hashed(texts)[1])


def _column(texts: Sequence[str]) -> pa.Array:
    encoded = [text.encode(errors="replace") for text in texts]
    return pa.array(encoded, pa.large_binary()).view(pa.large_string())


def _shift(index: np.ndarray) -> int:
    return 65 - len(index).bit_length()


def _indexed(sorted_hashes: np.ndarray) -> np.ndarray:
    """Where each value of the upper bits begins among sorted hashes: half a hash or less for each."""
    bits = max(1, (2 * len(sorted_hashes) - 1).bit_length())
    edges = np.arange(1 << bits, dtype=np.uint64) << np.uint64(64 - bits)
    return np.append(np.searchsorted(sorted_hashes, edges), len(sorted_hashes)).astype(np.uint32)


def _build(sets: list[list[Item]]) -> Arrays:
    """A text is a question, or question and answer where the question is too short to begin a comparison."""
    items = [(file, item) for file, found in enumerate(sets) for item in found]
    if not items:
        raise UserError("the evaluation sets have no item")
    lengths = count_words(_column([item.question for _, item in items]))
    texts: list[str] = []
    answers: list[str] = []
    item_of, answers_of, joined = [], [0], []
    for number, (_, item) in enumerate(items):
        if lengths[number] >= SEED or not item.answers:
            texts.append(item.question)
            answers += item.answers
            item_of.append(number)
            answers_of.append(len(answers))
            joined.append(False)
        else:
            texts += [f"{item.question} {answer}" for answer in item.answers]
            item_of += [number] * len(item.answers)
            answers_of += [len(answers)] * len(item.answers)
            joined += [True] * len(item.answers)
    numbers = np.array(item_of, np.uint32), np.array(answers_of, np.int64), np.array(joined)
    return _laid_out(items, texts, answers, *numbers)


def _laid_out(
    items: list[tuple[int, Item]],
    texts: list[str],
    answers: list[str],
    item_of: np.ndarray,
    answers_of: np.ndarray,
    joined: np.ndarray,
) -> Arrays:
    text_hashes, text_begins = _hashed(_column(texts))
    answer_hashes, answer_begins = _hashed(_column(answers))
    known, numbers = np.unique(np.concatenate([text_hashes, answer_hashes]), return_inverse=True)
    words, answer_words = np.split((numbers + 1).astype(np.uint32), [len(text_hashes)])
    weights = _weights(len(known), len(items), words, item_of[_owners(text_begins)])
    seeds, places = np.empty(len(words), np.uint64), np.empty(len(words), np.int64)
    count = seed_hashes(words, text_begins, seeds, places)
    seeds, places = seeds[:count], places[:count]
    together = weights[words[places[:, None] + np.arange(SEED)]].sum(axis=1)
    rare = together >= RARE * np.log1p(len(items))
    kept, begins, place_texts, seed_places = _first_seeds(seeds, places, _owners(text_begins), rare)
    filter = np.zeros(1 << max(0, (8 * len(kept)).bit_length() - 6), np.uint64)
    fill_filter(kept, filter)
    text_lengths, answer_lengths = np.diff(text_begins), np.diff(answer_begins)
    alone, answered = np.zeros((2, len(items)), np.int64)  # words of the longest text of each item, and with its answer
    for text, length in enumerate(text_lengths):
        more = answer_lengths[answers_of[text] : answers_of[text + 1]]
        if length >= SEED and joined[text]:
            answered[item_of[text]] = max(answered[item_of[text]], length)
        elif length >= SEED:
            alone[item_of[text]] = length
            answered[item_of[text]] = length + more.max() if len(more) else 0
    return {
        "known": known, "known_index": _indexed(known), "weights": weights, "words": words, "texts": text_begins,
        "text_weights": _sums(weights, words, text_begins), "answer_words": answer_words, "answers": answer_begins,
        "answers_of": answers_of, "filter": filter, "seeds": kept, "seed_index": _indexed(kept), "place_begins": begins,
        "places": seed_places, "place_texts": place_texts, "item_of": item_of, "joined": joined,
        "alone": alone, "answered": answered,
        "files": np.array([file for file, _ in items], np.int64),
        "records": np.array([item.record for _, item in items], np.int64),
    }  # fmt: skip


def _owners(begins: np.ndarray) -> np.ndarray:
    """The text that each word belongs to."""
    return np.repeat(np.arange(len(begins) - 1), np.diff(begins))


def _sums(weights: np.ndarray, words: np.ndarray, begins: np.ndarray) -> np.ndarray:
    return np.bincount(_owners(begins), weights[words], len(begins) - 1)


def _weights(known: int, items: int, words: np.ndarray, item_of: np.ndarray) -> np.ndarray:
    """ln(1 + items / items with the word) of each word, by its number from 1 on; 0 for number 0."""
    pairs = np.unique(words.astype(np.uint64) << np.uint64(32) | item_of.astype(np.uint64))
    having = np.bincount((pairs >> np.uint64(32)).astype(np.int64), minlength=known + 1)
    weights = np.log1p(items / np.maximum(having, 1))
    weights[0] = 0
    return weights


def _first_seeds(
    seeds: np.ndarray, places: np.ndarray, owners: np.ndarray, rare: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """(seeds, sorted; where the places of each begin; the text and the place of each), a seed once a text.

    Common seeds are left out of texts that have SEEDS others. rare: which seeds have rare words.
    """
    texts = owners[places]
    order = np.lexsort((places, texts, seeds))
    seeds, places, texts, rare = seeds[order], places[order], texts[order], rare[order]
    first = np.append(True, (seeds[1:] != seeds[:-1]) | (texts[1:] != texts[:-1]))[: len(seeds)]
    seeds, places, texts, rare = seeds[first], places[first], texts[first], rare[first]
    _, which, having = np.unique(seeds, return_inverse=True, return_counts=True)
    rare &= having[which] <= MANY
    kept = rare | (np.bincount(texts[rare], minlength=owners.max(initial=0) + 1) < SEEDS)[texts]
    known, begins = np.unique(seeds[kept], return_index=True)
    return known, np.append(begins, kept.sum()), texts[kept].astype(np.uint32), places[kept].astype(np.uint32)
