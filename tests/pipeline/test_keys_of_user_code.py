"""Functions, extractors and packages of the user: what they are made of is in the keys of the tasks that call them."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from keyed_run import keyed_recipe, keys, run, text


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    return keyed_recipe(tmp_path)


def test_a_users_function_and_what_it_imports_are_in_the_key(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe.parent / "my_helper.py").write_text("FACTOR = 1\n")
    (recipe.parent / "my_filter.py").write_text(
        "from my_helper import FACTOR\n\n\ndef length(text):\n    return len(text) * FACTOR\n"
    )
    data = yaml.safe_load(recipe.read_text())
    data["sources"]["wiki"]["steps"] = [{"python": {"function": "my_filter:length", "measure": "length", "min": 10}}]
    recipe.write_text(yaml.safe_dump(data, sort_keys=False))
    run(recipe)
    before = keys(recipe)
    run(recipe)
    assert "nothing to do" in capsys.readouterr().out
    lengths = measured(recipe)
    (recipe.parent / "my_helper.py").write_text("FACTOR = 2\n")  # of the same size, and perhaps within the same second
    run(recipe)
    assert measured(recipe) == [2 * length for length in lengths]  # by the code that the key holds, in the same process too
    changed = {name for name, key in keys(recipe).items() if before.get(name) != key}
    assert any(name.startswith("documents/wiki/0/") for name in changed)
    assert not any("/web/" in name for name in changed)


def measured(recipe: Path) -> list[int]:
    parts = sorted((recipe.parent / "out/parts/wiki/0").glob("*.kept.parquet"))
    return [length for part in parts for length in pq.read_table(part).column("python.length").to_pylist()]


def test_a_users_extractor_is_in_the_key(recipe: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pages = []
    for number in range(4):
        page = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<p>{text(number)}</p>".encode()
        head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number:032d}>\r\nContent-Length: {len(page)}\r\n"
        head += f"WARC-Target-URI: http://a.example/{number}\r\nContent-Type: application/http; msgtype=response\r\n\r\n"
        pages.append(head.encode() + page + b"\r\n\r\n")
    (recipe.parent / "a.warc").write_bytes(b"".join(pages))
    extractor = recipe.parent / "my_extractor.py"
    extractor.write_text("def work(page):\n    return page.replace('<p>', '')\n")
    data = yaml.safe_load(recipe.read_text())
    read = {"paths": [str(recipe.parent / "a.warc")]}
    data["sources"]["wiki"] = {"read": read, "steps": [{"extract": {"engine": "my_extractor:work"}}]}
    recipe.write_text(yaml.safe_dump(data, sort_keys=False))
    run(recipe)
    before = keys(recipe)
    run(recipe)
    assert "nothing to do" in capsys.readouterr().out
    extractor.write_text("def work(page):\n    return page.replace('<p>', '').upper()\n")
    run(recipe)
    changed = {name for name, key in keys(recipe).items() if before.get(name) != key}
    assert "documents/wiki/0/00000" in changed and not any(name.startswith("documents/web/") for name in changed)
    (part,) = (recipe.parent / "out/parts/wiki/0").glob("*.kept.parquet")
    assert all(one.isupper() for one in pq.read_table(part).column("text").to_pylist())


def test_what_a_users_package_imports_by_relative_names_is_in_the_key(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = recipe.parent / "my_package"
    (package / "deep").mkdir(parents=True)
    sources = {
        "__init__.py": "ONE = 1\n",
        "near.py": "TWO = 1\n",
        "far.py": "THREE = 1\n",
        "deep/__init__.py": "",
        "deep/filters.py": "from .. import ONE, near\nfrom ..far import THREE\nfrom .beside import (\n    FOUR,\n)\n\n\n"
        "def length(text):\n    return len(text) * ONE * near.TWO * THREE * FOUR\n",
        "deep/beside.py": "FOUR = 1\n",
    }
    for name, source in sources.items():
        (package / name).write_text(source)
    data = yaml.safe_load(recipe.read_text())
    step = {"function": "my_package.deep.filters:length", "measure": "length", "min": 10}
    data["sources"]["wiki"]["steps"] = [{"python": step}]
    recipe.write_text(yaml.safe_dump(data, sort_keys=False))
    run(recipe)
    for name, source in sources.items():
        before = keys(recipe)
        (package / name).write_text(source + "# another\n")
        run(recipe)
        changed = {name for name, key in keys(recipe).items() if before.get(name) != key}
        assert changed and all(name.startswith("documents/wiki/0/") for name in changed), name
    capsys.readouterr()
    run(recipe)
    assert "nothing to do" in capsys.readouterr().out
