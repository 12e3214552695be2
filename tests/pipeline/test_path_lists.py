"""A source named by a list of paths: which of them are read, under which names, and what is told of a list that is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from s3_server import S3Server
from web_server import running_web_server

from pipeline import storage
from pipeline.cli import main
from pipeline.plan.sources import list_files
from stages.errors import UserError

NAMES = [f"part-{n:02d}.jsonl" for n in range(30)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / name).write_text(json.dumps({"text": f"document {number} of the list"}) + "\n")
    (tmp_path / "paths.gz").write_bytes(gzip.compress("".join(f"data/{name}\n" for name in NAMES).encode()))
    return tmp_path


def names(folder: Path, part: str = "") -> list[str]:
    return [Path(file.uri).name for file in list_files("a", [f"list:{folder}/paths.gz{part}"])]


def test_all_of_a_list_or_a_part_of_it(folder: Path) -> None:
    assert names(folder) == NAMES
    assert names(folder, "#lines=3-5") == NAMES[2:5] and names(folder, "#lines=29-99") == NAMES[28:]
    few, more = names(folder, "#sample=5"), names(folder, "#sample=12")
    assert len(few) == 5 and set(few) < set(more) and few == sorted(few) != NAMES[:5]
    assert names(folder, "#sample=5,seed=1") != few
    (folder / "paths.gz").write_text("# all\n" + "".join(f"data/{name}\n\n" for name in NAMES[::-1]))
    assert sorted(names(folder, "#sample=5")) == few


def test_a_files_label_is_the_same_in_any_part_of_a_list(folder: Path) -> None:
    whole = {file.uri: file for file in list_files("a", [f"list:{folder}/paths.gz"])}
    assert all(file == whole[file.uri] for file in list_files("a", [f"list:{folder}/paths.gz#sample=3"]))
    assert {file.label for file in whole.values()} == {f"data/{name}" for name in NAMES}


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ("#first=3", "write #lines=FROM-TO .* or #sample=N"),
        ("#lines=5-3", "write #lines=FROM-TO"),
        ("#sample=0", "write #lines=FROM-TO"),
        ("#lines=40-50", "no path stands there"),
    ],
)
def test_a_part_that_is_wrong_is_told(part: str, told: str, folder: Path) -> None:
    with pytest.raises(UserError, match=told):
        names(folder, part)


def test_a_path_that_leads_nowhere_is_told_and_what_is_no_list(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "data" / NAMES[3]).unlink()
    with pytest.raises(UserError, match=r"of 30 paths in list:.*, 1 lead to no file, the first to .*part-03\.jsonl"):
        names(folder)
    (folder / "paths.gz").write_bytes(b"x" * 10_000)
    with pytest.raises(UserError, match="is no list of paths, one a line"):
        names(folder)
    recipe = folder / "recipe.yaml"
    recipe.write_text(json.dumps({"name": "a", "sources": {"a": {"read": {"paths": [f"list:{folder}/none.gz"]}}},
                                  "tokenizer": {"train": {}}, "mixture": {}}))
    assert main(["run", str(recipe), "--out", str(folder / "out"), "--inline"]) == 2
    assert "none.gz: no such file" in capsys.readouterr().err


def test_paths_of_a_server_begin_at_it_and_are_looked_up_side_by_side() -> None:
    with running_web_server() as web:
        web.files = {f"crawl/{n:03d}.warc.gz": b"x" * (n + 1) for n in range(100)}
        web.files["lists/warc.paths"] = "".join(f"{name}\n" for name in web.files).encode()
        found = list_files("a", [f"list:{web.url('lists/warc.paths')}"])
        assert [file.uri for file in found] == [web.url(f"crawl/{n:03d}.warc.gz") for n in range(100)]
        assert [file.size for file in found] == list(range(1, 101)) and all(file.version for file in found)


def test_paths_in_a_bucket_are_looked_up_by_folder(s3: S3Server) -> None:
    client, prefix = s3.client(), s3.root.removeprefix(f"s3://{s3.bucket}/")
    keys = [f"{prefix}/segments/{n % 3}/warc/{n:02d}.warc.gz" for n in range(30)]
    for key in keys:
        client.put_object(Bucket=s3.bucket, Key=key, Body=key.encode())
    storage.write_bytes(s3.uri("warc.paths.gz"), gzip.compress("\n".join(keys).encode()))
    found = list_files("a", [f"list:{s3.uri('warc.paths.gz')}"])
    assert [file.uri for file in found] == [f"s3://{s3.bucket}/{key}" for key in keys]
    assert [file.version for file in found] == [storage.stat(file.uri).version for file in found]


def test_a_password_in_a_lists_address_is_in_no_name() -> None:
    assert storage.public_name("list:https://me:secret@a.example/x.gz?token=hidden#sample=3") == "list:https://a.example/x.gz#sample=3"
