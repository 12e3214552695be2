"""The mixture's arithmetic: totals are exact, every way of asking works, the impossible is refused with numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from stages.tokens.mixture import Mixture, MixtureError, check_mixture, compile_mixture

# OLMoE-MIX-0924, tokens by source (table 2 of the paper, as summed up on the dataset's card).
OLMOE = {
    "dclm": 3_860_000_000_000,
    "starcoder": 101_000_000_000,
    "pes2o": 57_200_000_000,
    "arxiv": 21_100_000_000,
    "open-web-math": 12_700_000_000,
    "algebraic-stack": 12_600_000_000,
    "wiki": 3_690_000_000,
}


def asked(available, **mixture):
    return {budget.source: budget.asked for budget in compile_mixture(Mixture.model_validate(mixture), available)}


def test_nothing_set_is_one_epoch():
    assert asked({"a": 10, "b": 30}) == {"a": 10, "b": 30}


def test_the_olmoe_mixture_in_three_ways():
    natural = compile_mixture(Mixture(tokens=5.133e12), OLMOE)
    assert sum(b.asked for b in natural) == 5_133_000_000_000
    assert {round(b.repeats, 4) for b in natural} == {1.2617}
    total = sum(OLMOE.values())
    shares = {name: {"share": round(tokens / total, 4)} for name, tokens in OLMOE.items()}  # as a table prints them
    by_share = compile_mixture(Mixture(tokens=5.133e12, per_source=shares), OLMOE)
    assert sum(b.asked for b in by_share) == 5_133_000_000_000
    assert by_share[0].share == pytest.approx(0.9487, abs=2e-4)
    by_epochs = compile_mixture(Mixture(epochs=1.2617), OLMOE)
    assert by_epochs[0].asked == pytest.approx(natural[0].asked, rel=1e-4)
    table = {name: {"tokens": tokens} for name, tokens in OLMOE.items()}
    assert asked(OLMOE, epochs=1.25, per_source=table)["wiki"] == 4_612_500_000


def test_quantities_as_recipes_write_them():
    mixture = Mixture.model_validate({"tokens": "5.133T", "reshuffle_last_tokens": "100B"})
    assert (mixture.tokens, mixture.reshuffle_last_tokens) == (5_133_000_000_000, 100_000_000_000)


def test_tokens_share_repeats_and_the_rest():
    available = {"a": 1000, "b": 100, "c": 300, "d": 100}
    per_source = {"a": {"tokens": 500}, "b": {"repeats": 1.5}}
    assert asked(available, tokens=1000, per_source=per_source | {"c": {"share": 0.1}}) == {
        "a": 500,
        "b": 150,
        "c": 100,
        "d": 250,  # what is left
    }
    assert asked(available, tokens=850, per_source=per_source) == {"a": 500, "b": 150, "c": 150, "d": 50}
    assert asked({"a": 100, "b": 50}, epochs=2, per_source={"b": {"share": 0.2}}) == {"a": 200, "b": 50}
    assert asked({"a": 100, "b": 50}, per_source={"b": {"repeats": 0}}) == {"a": 100, "b": 0}


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"tokens": 5000}, r"a: 1,000 asked / 200 available = 5 repeats, 4 allowed \(at most 800 tokens\)"),
        ({"tokens": 900, "max_repeats": 0.5}, "a: 180 asked / 200 available"),
        ({"tokens": 700, "per_source": {"a": {"tokens": 300, "max_repeats": 1}}}, "= 1.5 repeats, 1 allowed"),
        ({"tokens": 100, "per_source": {"a": {"tokens": 300}}}, "more than the total: a 300 = 300, .*tokens is 100"),
        ({"tokens": 99, "per_source": {"a": {"tokens": 9}, "b": {"tokens": 9}}}, "less than the total: a 9 .* = 18"),
        ({"tokens": 100, "per_source": {"a": {"share": 0.7}, "b": {"share": 0.7}}}, "sum up to 1.4000"),
        ({"per_source": {"a": {"share": 0.5}, "b": {"share": 0.5}}}, "set mixture.tokens"),
        ({"per_source": {"x": {"tokens": 1}}}, "mixture.per_source.x: there is no such source"),
    ],
)
def test_refusals_show_the_arithmetic(mixture, message):
    with pytest.raises(MixtureError, match=message):
        asked({"a": 200, "b": 800}, **mixture)


def test_a_source_without_tokens():
    assert asked({"a": 10, "b": 0}, tokens=20) == {"a": 20, "b": 0}
    with pytest.raises(MixtureError, match="b: 5 tokens are asked for, and it has none"):
        asked({"a": 10, "b": 0}, tokens=20, per_source={"b": {"tokens": 5}})
    with pytest.raises(MixtureError, match="left to b, which have no tokens"):
        asked({"a": 10, "b": 0}, tokens=20, per_source={"a": {"tokens": 5}})


def test_contradicting_settings_are_refused():
    with pytest.raises(ValidationError, match="tokens and epochs"):
        Mixture(tokens=5, epochs=1)
    with pytest.raises(ValidationError, match="tokens and share"):
        Mixture(per_source={"a": {"tokens": 5, "share": 0.5}})
    with pytest.raises(ValidationError):
        Mixture(tokens=1.5)


@given(
    available=st.lists(st.integers(1, 10**13), min_size=1, max_size=8),
    total=st.integers(0, 10**13),
)
def test_budgets_are_whole_and_sum_up(available, total):
    named = {f"s{number}": tokens for number, tokens in enumerate(available)}
    budgets = compile_mixture(Mixture(tokens=total, max_repeats=1e14), named)
    assert sum(b.asked for b in budgets) == total
    for b in budgets:
        assert abs(b.asked - total * b.available / sum(available)) <= 1 + 1e-9 * total


@pytest.mark.parametrize(
    ("mixture", "message"),
    [
        ({"per_source": {"x": {"tokens": 1}}}, "mixture.per_source.x: there is no such source"),
        ({"tokens": 100, "per_source": {"a": {"share": 0.7}, "b": {"share": 0.7}}}, "sum up to 1.4000"),
        ({"tokens": 100, "per_source": {"a": {"share": 0.7}, "b": {"share": 0.1}}}, "sum up to 0.8000, not 1"),
        ({"tokens": 100, "per_source": {"a": {"tokens": 300}}}, "more than the total: a 300 = 300"),
        ({"tokens": 100, "per_source": {"a": {"tokens": 80}, "b": {"share": 0.3}}}, "a 80 \\+ b 30 = 110"),
        ({"tokens": 99, "per_source": {"a": {"tokens": 9}, "b": {"share": 0.5}}}, "less than the total"),
        ({"per_source": {"a": {"share": 0.5}, "b": {"share": 0.5}}}, "set mixture.tokens"),
        ({"per_source": {"a": {"repeats": 5}}}, "a: 5 repeats in each of 1 epochs are 5, and 4 are allowed"),
        ({"epochs": 3, "per_source": {"a": {"repeats": 2}}}, "a: 2 repeats in each of 3 epochs are 6"),
        ({"epochs": 5}, "a: 1 repeats in each of 5 epochs are 5"),
    ],
)
def test_the_impossible_is_found_before_anything_is_counted(mixture, message):
    with pytest.raises(MixtureError, match=message):
        check_mixture(Mixture.model_validate(mixture), ["a", "b"])


ASKS = st.sampled_from([{}, {"tokens": 5}, {"tokens": 40}, {"share": 0.2}, {"share": 0.5}, {"repeats": 1}, {"repeats": 3}])


@given(
    size=st.sampled_from([{}, {"tokens": 40}, {"tokens": 100}, {"epochs": 1.5}, {"epochs": 2}]),
    a=ASKS,
    b=ASKS,
    available=st.lists(st.integers(4, 100), min_size=2, max_size=2),
)
def test_nothing_that_can_be_had_is_refused_early(size, a, b, available):
    mixture = Mixture.model_validate(size | {"per_source": {"a": a, "b": b}})
    try:
        compile_mixture(mixture, dict(zip("ab", available, strict=True)))
    except MixtureError:
        return
    check_mixture(mixture, ["a", "b"])
