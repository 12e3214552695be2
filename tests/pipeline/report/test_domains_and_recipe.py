"""What the report says of domains and of the recipe, and under which step documents without text are booked."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from pydoc_data.topics import topics

import pytest
import yaml
from reported import check_html

import pipeline
from pipeline.recipe.recipe import build_recipe, dump, load_recipe
from pipeline.recipe.recipe_text import recipe_text
from pipeline.report import domains
from pipeline.report.gather import gather
from pipeline.report.page import page

ROOT = Path(__file__).resolve().parents[3]
LONG = [text for _, text in sorted(topics.items()) if len(text) > 300][:30]
HOSTS = ["www.python.org", "Docs.Python.org:443", "example.org", "user@example.org"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> pipeline.Run:
    folder = tmp_path_factory.mktemp("domains")
    rows = [{"id": f"d{i}", "text": text, "url": f"https://{HOSTS[i % 4]}/{i}?q=1"} for i, text in enumerate(LONG)]
    rows += [{"id": "empty", "text": "  ", "url": "https://empty.example/"}, {"id": "none", "text": LONG[0] * 2}]
    rows += [{"id": "copy", "text": LONG[2], "url": "https://copies.example/"}]
    (folder / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = {"read": {"paths": [f"{folder}/docs.jsonl"]}}
    data = {
        "name": "domains",
        "sources": {"docs": {**read, "steps": [{"dedup": {"method": "exact"}}]}, "plain": read},
        "tokenizer": {"train": {"vocab_size": 400}},
        "shards": {"held_out": 0.1},
        "mixture": {"epochs": 1},
    }
    return pipeline.run(data, out=folder / "run", inline=True)


def tokens(run: pipeline.Run) -> dict[str, int]:
    rows = [row for split in ("train", "held_out") for row in run.tokens("docs", split).read_all().to_pylist()]
    return {row["id"]: len(row["tokens"]) for row in rows}


def test_a_page_may_say_what_differs_from_another_run(run: pipeline.Run, tmp_path: Path) -> None:
    strict = {"gopher_quality": {"words": {"min": 300}, "symbol_ratio": None, "non_alphabetic_words": None, "stop_words": None}}
    steps = [strict, {"dedup": {"method": "exact"}}]
    data = {
        "name": "domains",
        "sources": {"docs": {"read": {"paths": [f"{Path(run.out).parent}/docs.jsonl"]}, "steps": steps}},
        "tokenizer": {"train": {"vocab_size": 400}},
        "shards": {"held_out": 0.1},
        "mixture": {"epochs": 1},
    }
    other = pipeline.run(data, out=tmp_path / "other", inline=True)
    found = gather(other.out, against=run.out)
    assert found.compared is not None
    (lost,) = [one for one in found.compared.sources["docs"].only_one if one.reason == "gopher_quality.words.min"]
    text = page(found).decode()
    check_html(text)
    section = text[text.index('id="compared"') :]
    assert f"<td>{lost.documents}</td>" in section
    assert "sources.<wbr>docs.<wbr>steps.<wbr>gopher_<wbr>quality.<wbr>words" in section
    assert run.out in section and "Kept by one alone" in section
    assert 'id="compared"' not in page(gather(other.out)).decode()


@pytest.mark.parametrize("most", [200_000, 2])
def test_domains_are_counted_by_their_tokens(run: pipeline.Run, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(domains, "MOST", most)
    found = gather(run.out).sources["docs"].domains
    counts = tokens(run)
    wanted: Counter[str] = Counter()
    for i in range(len(LONG)):
        wanted[["python.org", "docs.python.org", "example.org", "example.org"][i % 4]] += counts[f"d{i}"]
    listed = {one.domain: one.tokens for one in found.domains}
    assert sum(listed.values()) + found.others.tokens == sum(wanted.values())
    assert (found.without.documents, found.without.tokens) == (1, counts["none"])
    if most > 2:
        assert listed == wanted and [one.domain for one in found.domains] == [name for name, _ in wanted.most_common()]


def test_documents_without_text_are_dropped_by_tokenize_and_a_dedup_is_told_once(run: pipeline.Run) -> None:
    found = gather(run.out)
    assert found.balances
    steps = {name: {step.step: step.dropped.documents for step in source.steps} for name, source in found.sources.items()}
    assert steps == {"docs": {"read": 0, "dedup": 1, "tokenize": 1}, "plain": {"read": 0, "tokenize": 1}}
    assert run.summary.sources["docs"].dropped["tokenize.skip_empty"].documents == 1


def test_the_page_shows_domains_shares_and_the_recipe(run: pipeline.Run) -> None:
    html = page(gather(run.out)).decode()
    assert ">docs.python.org<" in html.replace("<wbr>", "") and "share of them" in html
    assert "method: exact" in html and 'id="recipe"' in html


@pytest.mark.parametrize("profile", ["sample", "full"])
@pytest.mark.parametrize("name", ["dclm_mix", "dclm_from_warc", "web_from_warc"])
def test_the_recipe_as_text_is_the_same_recipe(name: str, profile: str) -> None:
    path = ROOT / f"configs/{name}.yaml"
    profile = profile if profile in yaml.safe_load(path.read_text()).get("profiles", {}) else None
    recipe = load_recipe(path, profile)
    text = recipe_text(recipe)
    again = build_recipe(yaml.safe_load(text))
    assert dump(again) == dump(recipe) and again.content() == recipe.content() and len(text) < len(path.read_text()) * 3
