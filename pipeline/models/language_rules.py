"""The filters of FineWeb2 for one language: its stop words and limits, from its own texts or from FineWeb2's published files.

FineWeb2 (Penedo et al. 2025, arXiv 2506.20920; github.com/huggingface/fineweb-2) filters each language by datatrove's
repetition, FineWeb and Gopher filters, with stop words and limits of its own. Its pipeline takes the limits on paragraphs,
characters of lines and short lines out, allows a tenth of repeated characters, and needs two stop words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import yaml

from pipeline.models.user_files import batches_of
from stages.document import text_buffers
from stages.errors import UserError
from stages.filters.english_rules import Splitter, word_spans
from stages.filters.fineweb_quality import FineWebQuality
from stages.filters.gopher_quality_datatrove import GopherQualityDatatrove
from stages.filters.repetition_datatrove import RepetitionDatatrove
from stages.kernels.gopher_datatrove import MOST_STOP_WORDS
from stages.read import ReadSpec
from stages.step import Step

COMMON = 0.008  # of all words: how often a stop word stands, at least
LEAST_STOP_WORDS = 8  # FineWeb's English list has so many
MOST_BYTES = 64 << 20  # of text that is looked at
FEWEST = 100  # texts below which a tail says nothing
OFF = ("duplicate_paragraphs", "duplicate_paragraph_chars", "duplicate_line_chars")  # limits that FineWeb2 takes out
DUPLICATE_CHARS = 0.1
STOP_WORDS = 2  # of the list that a text must hold

# Limits that hang on the language: step -> measure -> whether the limit is a greatest value (else a least one).
TAILS: Mapping[type[Step], Mapping[str, bool]] = {
    RepetitionDatatrove: {"duplicate_lines": True} | {
        f"{kind}_{n}gram{ending}": True
        for kind, numbers, ending in (("top", range(2, 5), ""), ("duplicate", range(5, 11), "s"))
        for n in numbers
    },
    FineWebQuality: {"line_punctuation": False, "newlines_per_word": True},
    GopherQualityDatatrove: {"alphabetic_words": False},
}  # fmt: skip


class Rules(msgspec.Struct, frozen=True):
    """One language's filters. limits: step -> measure -> the limit's value, [least, most] or None for no limit."""

    stop_words: tuple[str, ...]
    limits: dict[str, dict[str, float | tuple[float, float] | None]]
    origin: str  # what they are from, for people
    splitter: Splitter = "english"

    def steps(self) -> list[dict[str, Any]]:
        """The steps, as a recipe lists them."""
        own: dict[str, dict[str, Any]] = {name: {} for name in self.limits}
        own[GopherQualityDatatrove.step] = {"stop_words": STOP_WORDS, "stop_list": list(self.stop_words)}
        split = {"splitter": self.splitter} if self.splitter != "english" else {}
        listed = {
            name: list(value) if isinstance(value, tuple) else value
            for of in self.limits.values()
            for name, value in of.items()
        }
        return [
            {name: {measure: listed[measure] for measure in of} | own[name] | split} for name, of in self.limits.items()
        ]

    def text(self) -> str:
        """The steps as YAML, to be put into a source of a recipe."""
        lines = [f"# {self.origin}", "steps:"]
        for step in self.steps():
            lines += [f"  - {name}: {_flow(settings)}" for name, settings in step.items()]
        return "\n".join(lines) + "\n"


def _flow(settings: dict[str, Any]) -> str:
    return yaml.safe_dump(settings, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6).strip()


def rules_of_texts(paths: Sequence[str], tail: float = 0.1, splitter: Splitter = "english") -> Rules:
    """A language's rules from texts of it: good ones or crawled ones, at least 100.

    Stop words are words that make up 0.8% of all, or the eight commonest. Each limit leaves `tail` of the texts beyond it;
    a word's mean length is to be within three standard deviations of its mean over the texts. Raises UserError for
    too few texts.
    """
    if not 0 < tail < 0.5:
        raise UserError(f"--tail {tail:g}: the share of texts beyond a limit is above 0 and below 0.5")
    words: Counter[str] = Counter()
    found: dict[str, dict[str, list[np.ndarray]]] = {}
    texts = size = 0
    for batch in _some(batch for _, batch in batches_of("texts", paths, ReadSpec(id_field=None, url_field=None))):
        words.update(common_words(batch.column("text"), splitter))
        texts += batch.num_rows
        size += batch.column("text").nbytes
        for kind, measures in TAILS.items():
            values = kind.model_validate({"splitter": splitter}).measure(batch)
            of = found.setdefault(kind.step, {})
            for name in (*measures, *(["mean_word_length"] if kind is GopherQualityDatatrove else [])):
                of.setdefault(name, []).append(np.asarray(values[name], np.float64))
    if texts < FEWEST:
        raise UserError(
            f"{texts:,} texts are too few to tell what is usual in a language: at least {FEWEST} are needed"
        )
    limits: dict[str, dict[str, float | tuple[float, float] | None]] = {}
    for kind, measures in TAILS.items():
        gathered = {name: np.concatenate(arrays) for name, arrays in found[kind.step].items()}
        limits[kind.step] = _fixed(kind) | {
            name: _tail(gathered[name], tail, greatest) for name, greatest in measures.items()
        }
        if kind is GopherQualityDatatrove:
            limits[kind.step]["mean_word_length"] = _within(gathered["mean_word_length"])
    origin = f"from {texts:,} texts ({size / 1e6:.1f} MB), {tail:.0%} of them beyond each limit"
    return Rules(stop_words(words), limits, origin, splitter)


def rules_of_fineweb2(path: str | Path, splitter: Splitter = "english") -> Rules:
    """The rules that FineWeb2 publishes for a language, `configs/LANGUAGE.yml`. Raises UserError for another kind of file."""
    path = Path(path)
    try:
        config = yaml.safe_load(path.read_text("utf-8"))
        top, duplicate = dict(config["top_n_grams"]), dict(config["dup_n_grams"])
        limits: dict[str, dict[str, float | tuple[float, float] | None]] = {
            RepetitionDatatrove.step: _fixed(RepetitionDatatrove)
            | {"duplicate_lines": float(config["dup_line_frac"])}
            | {f"top_{n}gram": float(top[n]) for n in (2, 3, 4)}
            | {f"duplicate_{n}grams": float(duplicate[n]) for n in range(5, 11)},
            FineWebQuality.step: _fixed(FineWebQuality)
            | {
                "line_punctuation": float(config["line_punct_thr"]),
                "newlines_per_word": float(config["new_line_ratio"]),
            },
            GopherQualityDatatrove.step: {
                "alphabetic_words": float(config["max_non_alpha_words_ratio"]),
                "mean_word_length": (float(config["min_avg_word_length"]), float(config["max_avg_word_length"])),
            },
        }
        words = tuple(map(str, config["stopwords"]))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a file of FineWeb2's configs ({type(error).__name__}: {error})") from None
    return Rules(words, limits, f"FineWeb2's {path.name}", splitter)


def common_words(texts: pa.Array, splitter: Splitter = "english") -> Counter[str]:
    """How often each word that holds a letter, in lower case, stands in the texts, and all words under the empty string.

    Words of `unicode` are counted by the rules for English: those that are common are the same.
    """
    spans, _ = word_spans(texts, "english" if splitter == "unicode" else splitter)
    data = text_buffers(texts)[0].tobytes()
    found = Counter(data[start:end] for start, end in spans.reshape(-1, 2).tolist())
    kept: Counter[str] = Counter()
    for raw, count in found.items():
        word = raw.decode("utf-8", "replace")
        kept[""] += count
        if len(raw) <= 255 and word == word.lower() and any(map(str.isalpha, word)):
            kept[word] += count
    return kept


def stop_words(words: Counter[str]) -> tuple[str, ...]:
    """The stop words among counted words (`common_words`), the commonest first."""
    every = words[""]
    ranked = [(word, count) for word, count in words.most_common(MOST_STOP_WORDS + 1) if word]
    return tuple(
        word for rank, (word, count) in enumerate(ranked) if count >= COMMON * every or rank < LEAST_STOP_WORDS
    )


def _fixed(kind: type[Step]) -> dict[str, float | tuple[float, float] | None]:
    """Limits that are the same for all languages."""
    if kind is RepetitionDatatrove:
        return dict.fromkeys(OFF)
    return {"short_lines": None, "duplicate_chars": DUPLICATE_CHARS} if kind is FineWebQuality else {}


def _tail(values: np.ndarray, tail: float, greatest: bool) -> float:
    values = values[~np.isnan(values)]
    return (
        round(float(np.quantile(values, 1 - tail if greatest else tail)), 3)
        if len(values)
        else (1.0 if greatest else 0.0)
    )


def _within(values: np.ndarray) -> tuple[float, float]:
    values = values[~np.isnan(values)]
    middle, spread = (float(values.mean()), float(values.std())) if len(values) else (5.0, 5.0)
    return float(max(0, np.floor(middle - 3 * spread))), float(np.ceil(middle + 3 * spread))


def _some(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The first batches, of MOST_BYTES of text."""
    size = 0
    for batch in batches:
        yield batch
        size += batch.column("text").nbytes
        if size >= MOST_BYTES:
            return
