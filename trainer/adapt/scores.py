"""Scores of answers: final answers, tests, overlap of words, and how much the samples of a prompt differ.

ROUGE is rouge-score's (Google's own), Self-BLEU is sacrebleu's sentence BLEU of each sample against the others.
"""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from trainer.adapt.pairs import Record
from trainer.adapt.run_tests import passes
from trainer.errors import TrainerError

Task = Literal["final", "tests", "text"]
NUMBER = re.compile(r"-?\$?[0-9][0-9,]*(?:\.[0-9]+)?")


def task_of(record: Record) -> Task:
    """How an answer to this record is judged: by its `tests`, its `final` answer, or its words."""
    return "tests" if record.fields.get("tests") else "final" if record.fields.get("final") is not None else "text"


def score(task: Task, record: Record, answer: str) -> dict[str, float]:
    """The scores of one answer; the first is the task's own. Raises TrainerError for a record without what is needed."""
    if task == "final":
        return {"exact_match": float(same_final(answer, str(_need(record, "final"))))}
    if task == "tests":
        return {"passed": float(passes(program(answer), list(_need(record, "tests"))))}
    return overlap(answer, record.answer)


def _need(record: Record, name: str) -> Any:
    value = record.fields.get(name)
    if value is None:
        raise TrainerError(f"{record.id}: has no {name} to judge an answer by")
    return value


# ---- final answers


def final_answer(text: str) -> str | None:
    """The final answer of a worked one: what stands after the last `####` (GSM8K), in the last \\boxed{} (MATH), or else
    the last number (as is usual for answers that keep to no form)."""
    if "####" in text:
        return text.rsplit("####", 1)[1].strip().splitlines()[0] if text.rsplit("####", 1)[1].strip() else None
    at = text.rfind("\\boxed{")
    if at >= 0:
        depth, start = 1, at + len("\\boxed{")
        for place in range(start, len(text)):
            depth += (text[place] == "{") - (text[place] == "}")
            if not depth:
                return text[start:place].strip()
        return None
    numbers = NUMBER.findall(text)
    return numbers[-1] if numbers else None


def same_final(answer: str, expected: str) -> bool:
    """Whether a worked answer ends in the expected final one, once both are written alike; or is it by Minerva's rules,
    in whose form sets of mathematics hold their final answers."""
    found = final_answer(answer)
    if found is None:
        return False
    return written_alike(found) == written_alike(expected) or minerva_form(found) in (expected, minerva_form(expected))


def written_alike(text: str) -> str:
    """A final answer without what does not matter: white space, $ and thousands' commas, LaTeX's spaces and sizes."""
    text = re.sub(r"\\(?:left|right|,|!|;|:|%|\$)|[$%\s]", "", text)
    text = re.sub(r"\\text\{([^{}]*)\}", r"\1", text).replace("\\dfrac", "\\frac").replace("\\tfrac", "\\frac")
    text = text.removesuffix(".")
    plain = text.replace(",", "")
    if re.fullmatch(r"-?[0-9]+(?:\.[0-9]+)?", plain):
        return plain.rstrip("0").rstrip(".") if "." in plain else plain
    return text


# Lewkowycz et al. 2022 (Minerva), appendix D.1: what is replaced, then what is left out, then forms of LaTeX.
_REPLACED = (
    *(("an ", ""), ("a ", ""), (".$", "$"), ("\\$", ""), ("\\ ", ""), (" ", ""), ("mbox", "text")),
    *((",\\text{and}", ","), ("\\text{and}", ","), ("\\text{m}", "\\text{}")),
)
_LEFT_OUT = (
    *(
        "square",
        "ways",
        "integers",
        "dollars",
        "mph",
        "inches",
        "ft",
        "hours",
        "km",
        "units",
        "\\ldots",
        "sue",
        "points",
    ),
    *("feet", "minutes", "digits", "cents", "degrees", "cm", "gm", "pounds", "meters", "meals", "edges", "students"),
    *(
        "childrentickets",
        "multiples",
        "\\text{s}",
        "\\text{.}",
        "\\text{\ns}",
        "\\text{}^2",
        "\\text{}^3",
        "\\text{\n}",
    ),
    *("\\text{}", "\\mathrm{th}", "^\\circ", "^{\\circ}", "\\;", ",\\!", "{,}", '"', "\\dots"),
)
_FORMS = (
    *((r"(.*?)(\$)(.*?)(\$)(.*)", r"$\3$"), (r"(\\text\{)(.*?)(\})", r"\2"), (r"(\\textbf\{)(.*?)(\})", r"\2")),
    *((r"(\\overline\{)(.*?)(\})", r"\2"), (r"(\\boxed\{)(.*)(\})", r"\2")),
    *((r"(frac)([^{])(.)", r"frac{\2}{\3}"), (r"(sqrt)([^{])", r"sqrt{\2}")),
)


def minerva_form(text: str) -> str:
    """A final answer in the form that Minerva's authors compare, letters of other words lost to their rules included."""
    text = text.split("=")[-1]
    for old, new in _REPLACED:
        text = text.replace(old, new)
    for words in _LEFT_OUT:
        text = text.replace(words, "")
    for pattern, new in _FORMS:
        text = re.sub(pattern, new, text)
    text = text.replace("$", "")
    return text.replace(",", "") if text.replace(",", "").isdigit() else text


# ---- programs


def program(answer: str) -> str:
    """The code of an answer: what stands in its first fence, else all of it."""
    fenced = re.search(r"```(?:python|py)?\s*\n(.*?)```", answer, re.DOTALL)
    return fenced[1] if fenced else answer


# ---- words


def overlap(answer: str, expected: str) -> dict[str, float]:
    """F1 and exact match over words as SQuAD and CoQA count them, and ROUGE-1, -2, -L (F-measure, stemmed)."""
    found, wanted = _words(answer), _words(expected)
    common = sum((Counter(found) & Counter(wanted)).values())
    f1 = 2 * common / (len(found) + len(wanted)) if found or wanted else 1.0
    rouge = _rouge().score(expected, answer)
    scores = {"f1": f1, "exact_match": float(found == wanted)}
    return scores | {name: rouge[name].fmeasure for name in ("rouge1", "rouge2", "rougeL")}


def _words(text: str) -> list[str]:
    """Lower case, without punctuation and articles (SQuAD's normalization)."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return re.sub(r"\b(?:a|an|the)\b", " ", text).split()


@functools.cache
def _rouge() -> Any:
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError:
        raise TrainerError("ROUGE needs rouge-score: pip install 'headrace[trainer]'") from None
    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)


# ---- diversity


def self_bleu(samples: Sequence[str]) -> float:
    """Mean BLEU (0 to 100) of each sample of a prompt against the others (Zhu et al. 2018); lower is more diverse.

    Raises TrainerError for fewer than two samples.
    """
    if len(samples) < 2:
        raise TrainerError("Self-BLEU compares at least two samples of a prompt")
    bleu = _bleu()
    rest = [[*samples[:place], *samples[place + 1 :]] for place in range(len(samples))]
    return float(np.mean([bleu(sample, others) for sample, others in zip(samples, rest, strict=True)]))


@functools.cache
def _bleu() -> Callable[[str, list[str]], float]:
    try:
        from sacrebleu.metrics import BLEU
    except ImportError:
        raise TrainerError("Self-BLEU needs sacrebleu: pip install 'headrace[trainer]'") from None
    metric = BLEU(effective_order=True)
    return lambda sample, others: metric.sentence_score(sample, others).score


# ---- correlation


def spearman(first: Sequence[float], second: Sequence[float]) -> float:
    """Spearman's rank correlation, equal values sharing their mean rank; NaN where one of the two does not vary."""
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return float((a * b).sum() / scale) if scale else float("nan")


def ranks(values: Sequence[float]) -> np.ndarray:
    """The rank of each value, from 1, fp64; equal values share the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[place]
