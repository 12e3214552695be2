"""Runs on S3 and on the hub are fetched once, compared with their manifest, and read as if they lay here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fake_hub import FakeHub
from token_run import write_run
from web_server import running_web_server

from trainer import shards
from trainer.fetched import fetched
from trainer.loader.files import DataError

LENGTH = 8
DOCUMENTS = [[[number, *range(2, 30), 0] for number in range(2, 12)]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "cache"))
    return write_run(tmp_path / "run", {"web": DOCUMENTS}, {"web": [[[5, 6, 7, 0]]]})


def files(run: Path) -> dict[str, bytes]:
    return {path.relative_to(run).as_posix(): path.read_bytes() for path in sorted(run.rglob("*")) if path.is_file()}


def same(one: str | Path, two: str | Path) -> None:
    first, second = (shards.open(where, sequence_length=LENGTH) for where in (one, two))
    assert len(first) == len(second) > 3
    assert all(np.array_equal(first[i], second[i]) for i in range(len(first)))


def test_a_run_on_s3_is_fetched_once_and_anew_when_it_has_changed(run: Path, s3, tmp_path: Path) -> None:
    client, put = s3.client(), files(run)
    for name, content in {**put, "parts/web/0/large.kept.parquet": b"not wanted"}.items():
        client.put_object(Bucket=s3.uri().split("/")[2], Key="/".join([*s3.uri("a run").split("/")[3:], name]), Body=content)
    same(run, s3.uri("a run"))
    folder = fetched(s3.uri("a run"))
    assert {name for name in files(folder) if not name.startswith(".")} == set(put)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")}
    assert fetched(Path(s3.uri("a run"))) == folder  # a Path has swallowed a slash
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.npy")} == before
    other = write_run(tmp_path / "other", {"web": [[[9, 8, 7, 0]] * 12]})
    for name, content in files(other).items():
        client.put_object(Bucket=s3.uri().split("/")[2], Key="/".join([*s3.uri("a run").split("/")[3:], name]), Body=content)
    same(other, s3.uri("a run"))


def test_what_is_not_as_the_manifest_says_is_refused(run: Path, s3) -> None:
    bucket, client = s3.uri().split("/")[2], s3.client()
    for name, content in files(run).items():
        data = content[:-1] + b"x" if name.endswith("web/00000.npy") else content
        client.put_object(Bucket=bucket, Key="/".join([*s3.uri("bad").split("/")[3:], name]), Body=data)
    with pytest.raises(DataError, match=r"tokens/web/00000.npy: is not what its manifest says"):
        fetched(s3.uri("bad"))
    with pytest.raises(DataError, match=r"there is no manifest.json; name the folder of a finished run"):
        fetched(s3.uri("nothing"))


def test_a_run_on_the_hub_is_read(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_web_server() as web:
        there = {f"a/{name}": data for name, data in files(run).items()}
        FakeHub(web, {("datasets", "me/corpus", "main"): there}, large=1 << 30)  # each file under its own address
        monkeypatch.setenv("HF_ENDPOINT", web.address)
        same(run, "hf://datasets/me/corpus/a")
    with pytest.raises(DataError, match=r"reads local files, s3:// and hf://; .* mix gs://... --files copy"):
        shards.open("gs://bucket/run", sequence_length=LENGTH)
    with pytest.raises(DataError, match=r"write it as hf://datasets/ORG/NAME"):
        fetched("hf://me/corpus")
