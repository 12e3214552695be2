"""Licences and opt-outs of pages and records, and what a run's summary tells of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from pipeline.cli import main
from stages.extract.extract import Extract
from stages.filters.licenses import first_license, license_name, stated_license
from stages.filters.permissions import Permissions
from stages.read import ReadSpec, read_batches
from stages.steps import STEPS

BY_SA = "https://creativecommons.org/licenses/by-sa/4.0/"


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        (BY_SA, "cc-by-sa-4.0"),
        ("http://creativecommons.org/licenses/BY-NC-ND/3.0/us/deed.en", "cc-by-nc-nd-3.0"),
        ("//creativecommons.org/publicdomain/zero/1.0/", "cc0-1.0"),
        ("https://creativecommons.org/publicdomain/mark/1.0/", "public-domain"),
        ("CC BY-SA 3.0", "cc-by-sa-3.0"),
        ("CC-BY 4.0 International", "cc-by-4.0"),
        ("CC0", "cc0-1.0"),
        ("Creative Commons Attribution-NonCommercial-ShareAlike 2.5 Generic License", "cc-by-nc-sa-2.5"),
        ("Creative Commons", "cc"),
        ("GNU Free Documentation License 1.2", "gfdl"),
        ("© 2020 Somebody. All rights reserved.", "all-rights-reserved"),
        ("© 2020 Somebody", "other"),
        ("https://example.com/terms", "other"),
        ("Somebody", "other"),
    ],
)
def test_names_of_licences(statement: str, name: str) -> None:
    assert license_name(statement) == name


def test_of_several_the_one_that_grants() -> None:
    assert license_name("MIT", identifier=True) == "mit"
    assert license_name("Apache-2.0", identifier=True) == "apache-2.0"
    assert first_license(["other", "all-rights-reserved", "cc-by-4.0"]) == "cc-by-4.0"
    assert first_license(["all-rights-reserved", "other"]) == "all-rights-reserved"
    assert first_license([]) is None


def test_what_a_text_says_of_itself_and_not_of_others() -> None:
    assert stated_license("This work is licensed under a Creative Commons Attribution 4.0 International License.") == "cc-by-4.0"
    assert stated_license("Text is available under the CC BY-SA 3.0 licence; terms apply.") == "cc-by-sa-3.0"
    assert stated_license("Released under CC0.") == "cc0-1.0"
    assert stated_license("I dedicate it: released into the public domain.") == "public-domain"
    assert stated_license("We wrote an article about Creative Commons and its history.") is None
    assert stated_license("Shakespeare is in the public domain.") is None


def measured(metadata: list[dict[str, Any] | str | None], texts: list[str] | None = None, **fields: Any) -> dict[str, list[Any]]:
    values = [one if isinstance(one, str) or one is None else json.dumps(one) for one in metadata]
    text = texts or ["x"] * len(values)
    docs = pa.record_batch({"text": pa.array(text, pa.large_string()), "metadata": pa.array(values, pa.large_string())})
    measures = Permissions.model_validate(fields).measure(docs)
    return {name: pa.array(found).to_pylist() for name, found in measures.items()}


def test_opt_outs_of_headers_and_pages() -> None:
    found = measured(
        [
            {"x_robots_tag": "noindex, noarchive"},
            {"x_robots_tag": "otherbot: noindex, noai"},
            {"x_robots_tag": "otherbot: noindex, ccbot: noai"},
            {"x_robots_tag": "unavailable_after: 25 Jun 2010, max-snippet: 0, none"},
            {"page": {"robots": ["index, follow", "NOAI"]}},
            {"tdm_reservation": "1"},
            {"tdm_reservation": "0"},
            {"tdm_policy": "https://example.com/policy.json"},
            {"page": {"tdm_reservation": "1"}},
            {"page": [1], "x_robots_tag": 5},
            "no JSON",
            None,
        ]
    )
    assert found["no_index"] == [1, 0, 0, 1, *[0] * 8]
    assert found["no_archive"] == [1, *[0] * 11]
    assert found["no_ai"] == [0, 0, 1, 0, 1, *[0] * 7]
    assert found["tdm_reserved"] == [0, 0, 0, 0, 0, 1, 0, 1, 1, 0, 0, 0]
    assert found["license"] == [None] * 12


def test_licences_of_pages_records_and_texts() -> None:
    text = "Licensed under CC BY 4.0."
    page = {"page": {"licenses": ["© Me", BY_SA]}}
    metadata = [page, {"license": "MIT"}, {"licenses": ["GPL-3.0", "MIT"]}, {}, {"license": "MIT"}, None]
    found = measured(metadata, ["x", "x", "x", text, text, "x"])
    assert found["license"] == ["cc-by-sa-4.0", "mit", "gpl-3.0", "cc-by-4.0", "mit", None]
    assert measured([{}], [text], read_text=False)["license"] == [None]
    assert measured([{"a": {"b": "MIT"}}], license_fields=["a.b"])["license"] == ["mit"]


def test_rules() -> None:
    step = STEPS["permissions"].model_validate({"license": ["mit"], "no_index": 0})
    metadata = [{"license": "mit"}, {"license": "gpl"}, {}, {"x_robots_tag": "noindex"}, {"tdm_reservation": "1"}]
    docs = pa.record_batch({
        "text": pa.array(["x"] * 5, pa.large_string()), "metadata": pa.array(list(map(json.dumps, metadata)), pa.large_string()),
    })  # fmt: skip
    measures = step.measure(docs)
    verdict = step.decide(measures)
    assert (verdict >= 0).tolist() == [False, True, False, True, True]
    assert step.drop_reasons(verdict, measures) == ["license.keep", "no_index.max", "tdm_reserved.max"]
    assert Permissions().reasons() == ["tdm_reserved.max", "no_ai.max"]


def test_the_summary_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"text": "one two three " * 20, "url": "https://www.a.org/1", "license": "MIT"},
        {"text": "four five six " * 20, "url": "http://user@A.org:80/2"},
        {"text": "seven eight nine " * 20, "url": "http://b.org/3", "tdm_reservation": "1"},
        {"text": "ten eleven twelve " * 20},
        {"text": "ten eleven twelve " * 20},
    ]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "name": "small",
        "sources": {"docs": {"read": {"paths": [str(tmp_path / "docs.jsonl")]}, "steps": [
            {"permissions": {}}, {"dedup": {"method": "exact"}}]}},
        "tokenizer": {"train": {"vocab_size": 300, "max_bytes": "50KB"}}, "shards": {"held_out": 0}, "mixture": {"epochs": 1},
    }  # fmt: skip
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    out = str(tmp_path / "run")
    assert main(["run", str(tmp_path / "recipe.yaml"), "--inline", "--quiet", "--out", out]) == 0
    capsys.readouterr()
    assert main(["report", out, "--summary", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["documents"] == 3
    assert {row["domain"]: (row["documents"], row["dropped_documents"]) for row in found["domains"]} == {
        "a.org": (2, 0), "b.org": (0, 1), "(no address)": (1, 0),
    }  # fmt: skip
    assert [(row["rule"], row["documents"]) for row in found["rules"]] == [("docs: permissions.tdm_reserved.max", 1)]
    said = {(row["what"], row["value"]): row["documents"] for row in found["said"]}
    assert said["license", "mit"] == 1
    assert said["license", "not stated"] == 2
    assert abs(sum(row["tokens"] for row in found["domains"]) - found["tokens"]) <= 5
    assert main(["report", out, "--summary"]) == 0
    assert "permissions.tdm_reserved.max" in capsys.readouterr().out
    assert main(["report", out, "--summary", "--out", "x.html"]) == 2


def test_real_pages(shared_data: Path) -> None:
    found: list[str | None] = []
    extract, step = Extract(engine="blocks"), Permissions()
    for path in sorted(shared_data.glob("web-*.warc.gz")):
        with path.open("rb") as stream:
            for batch in read_batches(stream, path.name, ReadSpec(), on_event=lambda event: None):
                found += pa.array(step.measure(extract.edit(batch)[0])["license"]).to_pylist()
    creative = [name for name in found if name and name.startswith("cc")]
    assert len(creative) >= 50
    assert all(name.startswith(("cc-by", "cc0", "cc-nc")) or name == "cc" for name in creative)
