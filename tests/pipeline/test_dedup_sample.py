"""The reference recipe's dedups on the sample: of every planted copy one of the two goes, and names the other."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from pipeline.carry_out import Options, run_recipe
from pipeline.progress import Progress
from pipeline.recipe.recipe import Recipe, load_recipe

RECIPE = Path(__file__).resolve().parents[2] / "configs" / "dclm_mix.yaml"
METHODS = {"dclm": "bff", "pes2o": "minhash", "wiki": "minhash"}  # all others: exact


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """By source, all documents as the dedup met them: id, text, planted, and for whom each went, if it did."""
    run = tmp_path_factory.mktemp("sample")
    recipe = only_dedup(load_recipe(RECIPE))
    dedups = run_recipe(recipe, Options(str(run), inline=True, progress=Progress(quiet=True))).dedup
    assert {name: dedups[f"{name}/dedup"].method for name in recipe.sources} == {
        name: METHODS.get(name, "exact") for name in recipe.sources
    }
    result = {}
    for name in recipe.sources:
        summary, documents = dedups[f"{name}/dedup"], []
        for ordinal, part in summary.read.items():
            table = pq.read_table(run / part.path, columns=["id", "text", "url", "metadata"])
            first = len(documents)
            documents += [describe(row) for row in table.to_pylist()]
            for removal in pq.read_table(run / summary.removals[ordinal]).to_pylist():
                documents[first + removal["row"]]["gone_for"] = removal["representative"]
        result[name] = documents
    return result


def only_dedup(recipe: Recipe) -> Recipe:
    """Of the steps before the dedup only those without which there is no text, so that all copies reach it."""
    wanted = ("extract", "remove_urls", "dedup")
    sources = {
        name: source.model_copy(update={"steps": tuple(item for item in source.steps if item[0] in wanted)})
        for name, source in recipe.sources.items()
    }
    return recipe.model_copy(update={"sources": sources})


def describe(row: dict[str, Any]) -> dict[str, Any]:
    planted = (row["url"] or "").partition("//planted.example/")[2].split("/")[0]
    record = json.loads(row["metadata"] or "{}")
    inner = [record.get("metadata"), record.get("meta")]
    inner = [json.loads(place) if isinstance(place, str) and place.startswith("{") else place for place in inner]
    places = [place for place in (record, *inner) if isinstance(place, dict)]
    planted = planted or next((place["planted"] for place in places if place.get("planted")), "")
    return {"id": row["id"], "text": row["text"], "planted": planted, "gone_for": None}


def unresolved(documents: list[dict[str, Any]], kind: str) -> tuple[int, list[str]]:
    """How many planted copies of a kind there are, and those that neither went nor stay for another that did."""
    heads = {d["gone_for"] for d in documents if d["gone_for"]}
    copies = [d for d in documents if d["planted"] == kind]
    return len(copies), [d["id"] for d in copies if d["gone_for"] is None and d["id"] not in heads]


def test_of_each_planted_exact_copy_one_stays_and_the_others_name_a_document(found: dict[str, list[dict[str, Any]]]) -> None:
    for name, documents in found.items():
        alike = defaultdict(list)
        for d in documents:
            alike[" ".join(d["text"].split())].append(d)
        groups = [group for group in alike.values() if any(d["planted"] == "exact_copy" for d in group)]
        assert len(groups) >= 2, name
        for group in groups:
            assert len(group) >= 2 and sum(d["gone_for"] is None for d in group) <= 1, group[0]["id"]
            if METHODS.get(name, "exact") == "exact":
                (kept,) = (d["id"] for d in group if d["gone_for"] is None)
                assert {d["gone_for"] for d in group} == {None, kept}


def test_every_planted_near_copy_goes_or_stays_for_another(found: dict[str, list[dict[str, Any]]]) -> None:
    for name in ("pes2o", "wiki"):
        count, left = unresolved(found[name], "near_copy")
        assert count >= 2 and left == [], name
    count, left = unresolved(found["dclm"], "near_copy")  # whose rule asks for 80% of 13-grams: a few have less in common
    assert count >= 20 and len(left) <= count // 3


def test_who_stays_is_there(found: dict[str, list[dict[str, Any]]]) -> None:
    for name, documents in found.items():
        gone = {d["id"] for d in documents if d["gone_for"]}
        named = {d["gone_for"] for d in documents if d["gone_for"]}
        assert named <= {d["id"] for d in documents}
        if name != "dclm":  # bff's first holder may go as a whole later: what its paragraphs put in stays in
            assert not named & gone
