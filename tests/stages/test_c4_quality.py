"""C4's filter against datatrove's own block given the same sentences: the same pages stay, with the same text."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.filters.c4_quality import C4Quality
from stages.filters.fineweb_quality import FineWebQuality
from stages.steps import STEPS

REASONS = {"lorem_ipsum.max": "lorem_ipsum", "curly_bracket.max": "curly_bracket", "sentences.min": "too_few_sentences"}
NAMES = {  # ours -> datatrove's
    "terminal_punctuation": "filter_no_terminal_punct",
    "min_words": "min_words_per_line",
    "max_word_length": "max_word_length",
    "citations": "remove_citations",
    "javascript": "filter_javascript",
    "policy": "filter_policy",
}
PIECES = [
    *(
        "one two three",
        " ",
        "\n",
        "\r\n",
        "\u2028",
        "\x85",
        "\x1c",
        ". ",
        ".",
        "...",
        "!",
        "?",
        '"',
        "')",
        "’",
        "é",
        "日本。",
    ),
    *(
        "[12]",
        "[]",
        "[edit]",
        "[citation needed]",
        "[٣]",
        "[x]",
        "[1",
        "{",
        "Lorem Ipsum",
        "JavaScript",
        "terms of use",
    ),
    *("Coo\u212aie Policy", "uses cookies", "use of cookie", "PRIVACY POLICY", "\u3000", "w" * 30, "İ"),
]


def sentences_of(line: str, language: str = "") -> list[str]:
    """Words that end in a sentence's end (and closing marks), and what is left behind the last."""
    words = line.split()
    ends = [word for word in words if re.search(r"[.?!][\"')\]]*$", word)]
    return ends + (["rest"] if words and not re.search(r"[.?!][\"')\]]*$", words[-1]) else [])


@pytest.fixture
def block(monkeypatch: pytest.MonkeyPatch) -> Any:
    module = pytest.importorskip("datatrove.pipeline.filters.c4_filters")
    monkeypatch.setattr(module, "split_into_sentences", sentences_of)
    return module.C4QualityFilter


def check(texts: list[str], block: Any, **options: Any) -> set[str]:
    """Compare the step with the block on each text; returns which reasons came up."""
    from datatrove.data import Document

    step = C4Quality(**options)
    theirs = block(**{NAMES[name]: value for name, value in options.items()})
    edited, measures = step.edit(pa.record_batch({"text": pa.array(texts, pa.large_string())}))
    verdict, reasons = step.decide(measures), step.reasons()
    seen = set()
    for text, after, place in zip(texts, edited.column("text").to_pylist(), verdict, strict=True):
        document = Document(text=text, id="")
        answer = theirs.filter(document)
        wanted = answer[1] if isinstance(answer, tuple) else None
        found = REASONS[reasons[place]] if place >= 0 else None
        if {found, wanted} != {
            "lorem_ipsum",
            "curly_bracket",
        }:  # of a page with both, datatrove names the first it meets
            assert found == wanted, text[:300]
        if wanted is None:
            assert after == document.text
        seen.add(str(wanted))
    return seen


@given(
    st.lists(st.lists(st.sampled_from(PIECES) | st.text(max_size=4), max_size=30).map("".join), min_size=1, max_size=6),
    st.fixed_dictionaries(
        {},
        optional={
            **{name: st.booleans() for name in ("terminal_punctuation", "citations", "javascript", "policy")},
            "min_words": st.integers(-1, 4),
            "max_word_length": st.sampled_from([-1, 10, 40]),
        },
    ),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_pages_and_texts_are_those_of_datatrove(block: Any, texts: list[str], options: dict[str, Any]) -> None:
    check(texts, block, **options)
    check(["One two three. Four five six. So it is! Is it so? It is so.\n" + text for text in texts], block, **options)


def test_every_rule_takes_what_it_should(block: Any) -> None:
    good = "This is a sentence. Here is another one! And is this a third? It is a fourth. Five there are."
    texts = [
        good,
        "too short.",
        good + "\nlorem Ipsum stands in this line.",
        good + "\nint main() { return 0; } is code.",
    ]
    texts += [good + "\nenable JavaScript { to read this.", good + "\nread [12] our privacy policy, please.", ""]
    assert check(texts, block) == {"None", *REASONS.values()}
    edited, _ = C4Quality().edit(
        pa.record_batch({"text": pa.array([f"Menu\n{good} [3] It is[edit] so.\n..."], pa.large_string())})
    )
    assert edited.column("text")[0].as_py() == f"{good}  It is so."


def test_real_documents_stay_and_change_as_with_datatrove(shared_data: Path, block: Any) -> None:
    seen = set()
    for name in ("c4", "code", "wikipedia", "arxiv"):
        with (shared_data / f"{name}.jsonl.zst").open("rb") as file:
            lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
            seen |= check([json.loads(line)["text"] for line, _ in zip(lines, range(100), strict=False)], block)
    assert "None" in seen and len(seen) >= 3


def test_both_are_steps_that_a_recipe_can_name() -> None:
    assert STEPS["c4_quality"] is C4Quality and STEPS["fineweb_quality"] is FineWebQuality
