"""FineWeb2's filters for a language, made of its own texts: what they keep, beside English rules, and beside datatrove's own.

    python -m benchmarks languages [--documents N] [--json FILE]

For French and Spanish of ../shared/data, `language-rules` finds stop words and limits on one half of the texts. On the other
half: the share kept with them and with the English defaults; the share of English texts that they keep; and the share on which
datatrove's filters, with its own tokenizer for the language and the same rules, decide alike.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa

from benchmarks import measure
from benchmarks.crawl import SHARED
from benchmarks.decontamination import read_texts
from benchmarks.tables import show_table, verdict
from pipeline.models.language_rules import Rules, rules_of_texts
from stages.filters.english_rules import Splitter
from stages.step import Step
from stages.steps import STEPS

LANGUAGES: dict[str, tuple[str, Splitter]] = {"wiki-fr": ("fra_Latn", "french"), "wiki-es": ("spa_Latn", "spanish")}
GOAL = 0.99
CHARS = 400  # texts shorter than that are left out: the filters are for pages


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks languages", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--documents", type=int, default=400, help="of each language, to judge (400)")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    if not SHARED.exists():
        print("needs texts: ../shared/data is not here")
        return
    facts = measure.machine("datatrove", "spacy", "numba")
    print(measure.show_machine(facts))
    english = [text for text in read_texts(SHARED / "wiki-en.jsonl.zst") if len(text) >= CHARS][: args.documents]
    found: dict[str, Any] = {}
    rows = []
    for name, (code, splitter) in LANGUAGES.items():
        texts = [text for text in read_texts(SHARED / f"{name}.jsonl.zst") if len(text) >= CHARS]
        rules = rules_from(texts[::2], splitter)
        judged = texts[1::2][: args.documents]
        print(f"{name}: {len(texts):,} texts; {rules.origin}; stop words {' '.join(rules.stop_words)}")
        ours = kept(rules.steps(), judged)
        found[name] = {
            "texts": len(judged),
            "kept": float(np.all(list(ours.values()), axis=0).mean()),
            "kept_by_english_rules": float(
                np.all(list(kept([*map(_plain, rules.steps())], judged).values()), axis=0).mean()
            ),
            "english_texts_kept": float(np.all(list(kept(rules.steps(), english).values()), axis=0).mean()),
            "as_datatrove": agreement(ours, rules, code, judged),
        }
        facts_of = found[name]
        shares = [f"{facts_of[key]:.3f}" for key in ("kept", "kept_by_english_rules", "english_texts_kept")]
        rows.append(
            [name, f"{len(judged):,}", *shares, *(f"{share:.3f}" for share in facts_of["as_datatrove"].values())]
        )
    headings = [
        "texts",
        "judged",
        "kept",
        "by English rules",
        "English kept",
        *(f"as datatrove: {step}" for step in ours),
    ]
    show_table("filters by the language's own rules, shares of the texts", headings, rows)
    least = min(share for of in found.values() for share in of["as_datatrove"].values())
    print(f"decided as datatrove does: {least:.3f} at the least, {verdict(least, GOAL)}")
    measure.write_json(args.json, {"machine": facts, "languages": found})


def rules_from(texts: list[str], splitter: Splitter) -> Rules:
    """The rules that texts give."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        path.write_bytes(b"".join(orjson.dumps({"text": text}) + b"\n" for text in texts))
        return rules_of_texts([str(path)], splitter=splitter)


def _plain(step: dict[str, Any]) -> dict[str, Any]:
    """The step with its defaults, which are for English."""
    return {name: {} for name in step}


def kept(steps: list[dict[str, Any]], texts: list[str]) -> dict[str, np.ndarray]:
    """Which texts each step keeps."""
    docs = pa.record_batch({"text": pa.array(texts, pa.large_string())})
    found = {}
    for listed in steps:
        ((name, settings),) = listed.items()
        step: Step = STEPS[name].model_validate(settings)
        found[name] = step.decide(step.measure(docs)) < 0
    return found


def agreement(ours: dict[str, np.ndarray], rules: Rules, code: str, texts: list[str]) -> dict[str, float]:
    """Of each step the share of texts on which datatrove's block with the same rules decides alike."""
    from datatrove.data import Document

    blocks = _blocks(rules, code)
    return {
        name: float(
            np.mean(
                [(block.filter(Document(text=text, id="0")) is True) == ours[name][i] for i, text in enumerate(texts)]
            )
        )
        for name, block in blocks.items()
    }


def _blocks(rules: Rules, code: str) -> dict[str, Any]:
    from datatrove.pipeline.filters import FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter

    repetition, fineweb, gopher = rules.limits.values()
    length = gopher["mean_word_length"]
    assert isinstance(length, tuple)
    return {
        "repetition_datatrove": GopherRepetitionFilter(
            dup_para_frac=0, dup_line_char_frac=0, dup_para_char_frac=0, dup_line_frac=repetition["duplicate_lines"],
            top_n_grams=[(n, repetition[f"top_{n}gram"]) for n in (2, 3, 4)],
            dup_n_grams=[(n, repetition[f"duplicate_{n}grams"]) for n in range(5, 11)], language=code,
        ),
        "fineweb_quality": FineWebQualityFilter(
            short_line_thr=999, char_duplicates_ratio=fineweb["duplicate_chars"], line_punct_thr=fineweb["line_punctuation"],
            new_line_ratio=fineweb["newlines_per_word"], language=code,
        ),
        "gopher_quality_datatrove": GopherQualityFilter(
            min_avg_word_length=length[0], max_avg_word_length=length[1], stop_words=list(rules.stop_words), min_stop_words=2,
            max_non_alpha_words_ratio=gopher["alphabetic_words"], language=code,
        ),
    }  # fmt: skip


if __name__ == "__main__":
    main()
