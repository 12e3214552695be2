"""The histogram of lengths: exact where it says so, close elsewhere, and the same in pieces."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.tokens.lengths import Lengths


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 5000), st.integers(0, 2**48 - 1)), min_size=1, max_size=80), st.integers(0, 80))
def test_quantiles_are_near_the_sorted_ones(values, cut):
    lengths, other = Lengths(), Lengths()
    lengths.add(np.array(values[:cut], np.int64))
    other.add(np.array(values[cut:], np.int64))
    lengths.merge(other)
    ordered = sorted(values)
    for share in (0.0, 0.5, 0.9, 0.99, 1.0):
        want = ordered[max(1, int(np.ceil(share * len(values)))) - 1]
        got = lengths.quantile(share)
        assert got == want if want < 4096 else abs(got - want) <= want / 2048
    found = lengths.to_json()
    assert (found["min"], found["max"]) == (ordered[0], ordered[-1])
    assert abs(found["mean"] - sum(values) / len(values)) <= 0.01


def test_none_has_no_lengths():
    assert Lengths().to_json() is None


def test_the_last_rank_is_the_longest():
    few = Lengths()
    few.add(np.array([750, 2148, 9783]))
    assert few.to_json() | {"mean": 0} == {"min": 750, "median": 2148, "p90": 9783, "p99": 9783, "max": 9783, "mean": 0}
