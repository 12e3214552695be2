"""OLMoE's rules for source code against json and Counter."""

from __future__ import annotations

import json
from collections import Counter

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.filters.starcoder import StarCoder

KEYS = st.sampled_from(["a", "metadata", "max_stars_count", 'b"x', "c\\", "é"])
SCALARS = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(allow_nan=False, allow_infinity=False)
SCALARS |= st.sampled_from(["", '"}{', "\\", ',é":', "max_stars_count"])
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)


def measures(texts: list[str], metadata: list[str | None], **settings: str) -> dict[str, list[float]]:
    batch = pa.record_batch(
        {"text": pa.array(texts, pa.large_string()), "metadata": pa.array(metadata, pa.large_string())}
    )
    return {name: list(values) for name, values in StarCoder(**settings).measure(batch).items()}


@given(
    st.lists(st.none() | st.dictionaries(KEYS, VALUES, max_size=4), min_size=1, max_size=4),
    st.sampled_from(["max_stars_count", "metadata.max_stars_count", "a.metadata.max_stars_count"]),
    st.sampled_from([None, 1]),
)
@settings(max_examples=200, deadline=None)
def test_stars_are_found_in_metadata(records: list[dict | None], field: str, indent: int | None) -> None:
    expected = []
    for value in records:
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        expected.append(value if isinstance(value, int | float) and not isinstance(value, bool) else 0)
    written = [
        json.dumps(record, indent=indent, ensure_ascii=False) if record is not None else None for record in records
    ]
    found = measures([""] * len(records), written, stars_field=field)["stars"]
    assert found == [float(value) for value in expected]


@given(
    st.lists(
        st.sampled_from(["a", "b", "foo", "é", "日本", " ", "\n", "\xa0", "\u3000", "\x1c", "\0", "x" * 9]), max_size=40
    ).map("".join)
)
@settings(max_examples=300, deadline=None)
def test_commonest_words(text: str) -> None:
    counts = [count for _, count in Counter(text.split()).most_common()]
    found = measures([text], [None])
    total = sum(counts) or 1
    assert found["top_word"] == [sum(counts[:1]) / total]
    assert found["top_two_words"] == [sum(counts[:2]) / total]


def test_defaults_are_those_of_olmoe() -> None:
    step = StarCoder()
    texts = ["let a be b of c d", "x x x y z w v", "x x y y z", "let a be b of c d", "let a be b of c d"]
    stars = ['{"max_stars_count": 2}'] * 3 + ['{"max_stars_count": null}', None]
    batch = pa.record_batch(
        {"text": pa.array(texts, pa.large_string()), "metadata": pa.array(stars, pa.large_string())}
    )
    verdicts = step.decide(step.measure(batch))
    assert [step.reasons()[verdict] if verdict >= 0 else None for verdict in verdicts] == [
        None,
        "top_word.max",
        "top_word.max",
        "stars.min",
        "stars.min",
    ]


def test_long_text() -> None:
    text = " ".join(f"w{i}" for i in range(30_000)) + " w1" * 10_000 + " w2" * 5_000
    found = measures([text, "a"], ["{", '{"max_stars_count"'])
    assert found["top_two_words"] == [15_002 / 45_000, 1.0]
    assert found["stars"] == [0, 0]
