"""Recipes: profiles, overrides, and errors that name the key, the value and the nearest valid name."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.recipe.overrides import RecipeError, merge, parse_yaml
from pipeline.recipe.recipe import build_recipe, dump, load_recipe
from pipeline.size import check_size
from stages.errors import UserError

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

TEXT = """
name: tiny
sources:
  web:
    read: {paths: [a.jsonl]}
    steps:
      - gopher_quality: {words: [50, 1000]}
      - repetition: {top_2gram: 0.2}
      - dedup: {method: exact}
tokenizer: {train: {vocab_size: 1000}}
mixture: {tokens: 5.1e6}
"""


def data() -> dict:
    return parse_yaml(TEXT, "recipe")


def test_a_recipe_is_typed() -> None:
    recipe = build_recipe(data())
    (_, quality), (_, repetition), (_, dedup) = recipe.sources["web"].steps
    assert (quality.words.min, quality.words.max) == (50, 1000)
    assert (repetition.top_2gram.min, repetition.top_2gram.max) == (None, 0.2)
    assert dedup.method == "exact"
    assert recipe.mixture.tokens == 5_100_000


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        (
            "sources.web.steps.gopher_quality.word=3",
            r"sources.web.steps.gopher_quality.word = 3: unknown key; did you mean words\?",
        ),
        (
            "sources.web.steps.gopher_qualty.words=3",
            r"sources.web.steps.gopher_qualty: no such step here; did you mean gopher_quality\?",
        ),
        ("sources.web.steps.repetition.top_2gram=high", r"sources.web.steps.repetition.top_2gram.*'high'"),
        ("sources.web.steps.gopher_quality.words=[5, 1]", r"min 5 is above max 1: no document could pass"),
        ("sources.web.steps.gopher_quality.words=5", r"words: this limit has two sides; write \[min, max\]"),
        ("sources.web.steps.dedup.bands=3", r"sources.web.steps.dedup.*bands.*unknown key"),
        ("sources.web.steps.dedup.method=exakt", r"sources.web.steps.dedup.*exakt"),
        ("shard.bytes=1GiB", r"shard = .*unknown key; did you mean shards\?|shard: unknown key; did you mean shards\?"),
        ("shards.bytes=much", r"shards.bytes = 'much': not a quantity: write it like 256MiB"),
        ("shards.held_out=1.5", r"shards.held_out = 1.5"),
        ("mixture.per_source.webb.share=1", r"mixture.per_source.webb.*did you mean web\?"),
        ("mixture={tokens: 5, per_source: {web: {tokens: 9}}}", r"mixture: the sources ask for more than the total: web 9"),
        ("sources.web=null", r"sources.web: must be a mapping with the keys read, .*, license, citation, and is empty"),
        ("sources.web.read=[x]", r"sources.web.read = \['x'\]: must be a mapping with the keys .*paths"),
        ("tokenizer.path=x", r"name exactly one of path, hub and train"),
        ("run.keep=some", r"run.keep = 'some'"),
        ("name=a b", r"name = 'a b'"),
    ],
)
def test_what_is_wrong_is_named(assignment: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_recipe(data(), None, [assignment])


def test_a_step_that_does_not_exist_is_named_with_the_nearest() -> None:
    bad = data()
    bad["sources"]["web"]["steps"][1] = {"repetitions": {}}
    with pytest.raises(RecipeError, match=r"sources.web.steps.repetitions: no such step; did you mean repetition\?"):
        build_recipe(bad)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "line 1, column 8: not valid YAML"),
        ("name: a\nname: b", "line 2, column 1: .*given twice"),
        ("- a", "a recipe is a mapping"),
    ],
)
def test_bad_yaml_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_yaml(text, "recipe")


def test_a_missing_recipe_names_the_nearest_file() -> None:
    with pytest.raises(RecipeError, match=r"does not exist; did you mean .*dclm_mix.yaml\?"):
        load_recipe(CONFIGS / "dclm_mx.yaml")


def test_profiles_lie_over_the_recipe_and_assignments_over_both() -> None:
    base = data() | {
        "profiles": {
            "small": {"seed": 1, "sources": {"web": {"steps": {"repetition": {"top_2gram": 0.5}}}}},
            "big": {"seed": 2},
        }
    }
    assert build_recipe(base).profile == "small"
    assert build_recipe(base).sources["web"].steps[1][1].top_2gram.max == 0.5
    assert build_recipe(base, "big").seed == 2
    assert build_recipe(base, "big", ["seed=3"]).seed == 3
    with pytest.raises(RecipeError, match=r"no profile 'bigg'; did you mean big\?"):
        build_recipe(base, "bigg")


def test_a_step_that_comes_twice_has_two_names() -> None:
    twice = data()
    twice["sources"]["web"]["steps"].append("repetition")
    assert [name for name, _ in build_recipe(twice).sources["web"].steps] == [
        "gopher_quality",
        "repetition",
        "dedup",
        "repetition_2",
    ]


def test_one_side_of_a_limit_can_be_set() -> None:
    words = build_recipe(data(), None, ["sources.web.steps.gopher_quality.words.min=60"]).sources["web"].steps[0][1].words
    assert (words.min, words.max) == (60, 1000)


def test_merge_replaces_lists_and_merges_mappings() -> None:
    assert merge({"a": {"b": 1, "c": 2}, "d": [1, 2]}, {"a": {"b": 3}, "d": [3]}) == {"a": {"b": 3, "c": 2}, "d": [3]}


def test_the_content_hash_follows_what_decides_the_bytes() -> None:
    one = build_recipe(data())
    assert build_recipe(data(), None, ["run.batch_bytes=1MiB"]).content() == one.content()
    assert build_recipe(data(), None, ["sources.web.steps.repetition.top_2gram=0.3"]).content() != one.content()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda p: p.stem)
def test_every_shipped_recipe_loads_under_every_profile(path: Path) -> None:
    profiles = parse_yaml(path.read_text(), path.name).get("profiles") or {None: {}}
    for profile in profiles:
        recipe = load_recipe(path, profile)
        assert dump(recipe)["name"] == recipe.name


def test_the_full_profile_asks_before_it_starts_here() -> None:
    recipe = load_recipe(CONFIGS / "dclm_mix.yaml", "full")
    with pytest.raises(UserError, match=r"17.5 TB of text .*--yes; python -m pipeline plan .*full --measure"):
        check_size(recipe, None)
    check_size(recipe, "auto")
    check_size(load_recipe(CONFIGS / "dclm_mix.yaml"), None)


def test_sources_that_a_classifier_is_trained_on_are_looked_up_when_the_recipe_is_read() -> None:
    bad = data()
    bad["sources"]["web"]["steps"].append({"quality": {"train": {"positive": ["web"], "negative": ["wed"]}}})
    with pytest.raises(RecipeError, match=r"web.steps.quality.train.negative = 'wed': no such source; did you mean web\?"):
        build_recipe(bad)


def test_no_source_may_be_called_as_the_whole_mixture_is() -> None:
    bad = data()
    bad["sources"]["all"] = bad["sources"]["web"]
    with pytest.raises(RecipeError, match=r"sources\.all: .*another name"):
        build_recipe(bad)
