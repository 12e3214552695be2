"""The full profiles against servers on loopback that hold the public file trees: planned, and the first task of each source."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import orjson
import pytest
import zstandard
from fake_hub import FakeHub
from told import first_source
from web_server import WebServer, running_web_server

from pipeline.carry_out import Options, run_recipe
from pipeline.cli import main
from pipeline.plan.sources import list_all
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe, load_recipe
from stages.quality.language import packaged_model
from stages.quality.settings import TrainSettings
from stages.quality.train import train_classifier
from stages.tokens.shard_format import load_manifest
from stages.tokens.train_tokenizer import train_tokenizer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
TEXTS = [text for _, text in sorted(topics.items()) if len(text.split()) > 80]
NEWEST = "efb8df3edb57130e20eb49d2d85ff13995d89f88"
WITH_ARXIV = "5145ccfc0719d8fd6224e8fa1feec553e6ffba9b"
MIX = "allenai/OLMoE-mix-0924"
GB = 10**9
CRAWL = "crawl-data/CC-MAIN-2022-49"
SOURCES = ("dclm", "starcoder", "pes2o", "arxiv", "open-web-math", "algebraic-stack", "wiki")
BANLISTS = "mlfoundations/dclm/361714bdd60bb9b7f4b2d8354cebbf0dec0c329e/baselines/mappers/banlists"


def tree(newest: bool) -> dict[str, int]:
    """Paths and sizes of the mix: at its newest revision, or before arXiv was taken away."""
    found = {f"data/dclm/dclm-{n:04d}.json.zst": 31 * GB // 10 for n in range(1970)}
    found |= {f"data/starcoder/starcoder-{n:04d}.json.gz": GB // 9 for n in range(863)}
    found |= {f"data/pes2o/pes2o-{n:04d}.json.gz": 3 * GB for n in range(26)}
    found |= {f"data/open-web-math/open-web-math-train-{n:04d}.json.gz": GB for n in range(13)}
    found |= {f"data/open-web-math/{n:03d}.jsonl.gz": GB for n in range(41, 54)}
    found |= {f"data/algebraic-stack/algebraic-stack-train-{n:04d}.json.gz": GB for n in range(16)}
    found |= {"data/wiki/wiki-0000.json.gz": 426 * GB // 100, "data/wiki/wiki-0001.json.gz": 222 * GB // 100}
    if not newest:
        found |= {f"data/arxiv/arxiv-{n:04d}.json.gz": GB // 5 for n in range(100)}
        found |= {f"data/algebraic-stack/algebraic-stack-train-algebraic-stack-train-{n:04d}.json.gz": GB for n in range(16)}
    return found


def rows(source: str, texts: list[str]) -> bytes:
    times = {"added": "2024-01-01T00:00:00.000Z", "created": "2023-01-01"}
    lines = [json.dumps({"id": f"{source}-{n}", "text": text, **times}) for n, text in enumerate(texts)]
    return ("\n".join(lines) + "\n").encode()


def first_file(source: str) -> str:
    """A pattern for the file of a source that holds documents."""
    commit = WITH_ARXIV if source in ("arxiv", "algebraic-stack") else NEWEST
    path = next(path for path in tree(newest=False) if path.startswith(f"data/{source}/") and "0000.json" in path)
    return f"hf://datasets/{MIX}@{commit}/{path.partition('.json')[0]}*"


def content(path: str) -> bytes:
    """The first file of each source holds documents; the others are only listed."""
    name = path.removesuffix(".gz").removesuffix(".zst")
    if not name.endswith("0000.json"):
        return hashlib.sha256(path.encode()).digest()
    source = path.split("/")[1]
    data = rows(source, TEXTS[: len(source) + 10])
    return zstandard.compress(data) if path.endswith("zst") else gzip.compress(data, mtime=0)


@dataclass
class Servers:
    """A hub, and a web server with a crawl; rates: a file for `plan --rates`."""

    hub: FakeHub
    web: WebServer
    rates: Path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, a classifier, and the rates of a small run."""
    folder = tmp_path_factory.mktemp("made")
    train_tokenizer(TEXTS[:20], folder / "tokenizer.json", 600)
    settings = TrainSettings(bucket=1000, dim=8, held_out=0, epoch=50, lr=0.5)
    train_classifier(TEXTS[:40], ["buy now cheap cheap"] * 40, folder / "model.bin", settings)
    (folder / "a.jsonl").write_bytes(rows("a", TEXTS))
    read = {"read": {"paths": [f"{folder}/a.jsonl"]}}
    steps = [{"token_repeats": {"tokenizer": f"{folder}/tokenizer.json"}}, {"dedup": {"method": "bff", "memory": "64MiB"}}]
    data = {"name": "small", "sources": {"a": read | {"steps": steps}}, "mixture": {}}
    recipe = build_recipe(data | {"tokenizer": {"path": f"{folder}/tokenizer.json"}})
    run_recipe(recipe, Options(str(folder / "run"), inline=True, progress=Progress(quiet=True)))
    return folder


def warc(texts: list[str]) -> bytes:
    """Responses, each in a gzip member of its own."""
    members = []
    for number, text in enumerate(texts):
        html = f"<html><body><article><p>{text.replace('<', '&lt;')}</p></article></body></html>".encode()
        block = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + html
        host = "blocked.example" if number == 0 else "good.example"
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\n"
            f"WARC-Target-URI: http://{host}/{number}\r\nContent-Type: application/http; msgtype=response\r\n"
            f"Content-Length: {len(block)}\r\n\r\n"
        )
        members.append(gzip.compress(head.encode() + block + b"\r\n\r\n", mtime=0))
    return b"".join(members)


@pytest.fixture
def servers(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Servers]:
    model = "openhermes_reddit_eli5_vs_rw_v2_bigram_200k_train.bin"
    banned = "refinedweb_banned_domains_curated"
    with running_web_server() as hub_web, running_web_server() as web:
        repos = {
            ("datasets", MIX, commit): {path: content(path) for path in tree(commit == NEWEST)}
            for commit in (NEWEST, WITH_ARXIV)
        }
        repos["models", "allenai/gpt-neox-olmo-dolma-v1_5", "main"] = {"tokenizer.json": (made / "tokenizer.json").read_bytes()}
        repos["models", "mlfoundations/fasttext-oh-eli5", "main"] = {model: (made / "model.bin").read_bytes()}
        repos["datasets", f"mlfoundations/{banned}", "main"] = {f"{banned}.txt": b"blocked.example\nworse.example\n"}
        sizes = {path: size for path, size in tree(newest=False).items() if "0000.json" not in path}
        hub = FakeHub(hub_web, repos, page=1000, sizes=sizes)
        paths = [f"{CRAWL}/segments/{1000 + n % 10}.{n % 10}/warc/CC-MAIN-{n:05d}.warc.gz" for n in range(200)]
        web.files = {path: path.encode() * 100 for path in paths}
        web.files[paths[0]] = warc(TEXTS[:60])
        web.files[f"{CRAWL}/warc.paths.gz"] = gzip.compress("".join(f"{path}\n" for path in paths).encode())
        for kind in ("strict", "hard", "soft"):
            web.files[f"{BANLISTS}/refinedweb_banned_words_{kind}_reverse_engineered.txt"] = f"word{kind}\n".encode()
        settings = {"HF_ENDPOINT": hub_web.address, "HEADRACE_CACHE": str(tmp_path / "cache"), "HF_TOKEN_PATH": "none"}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield Servers(hub, web, made / "run")


def planned(name: str, servers: Servers, changes: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    """The exit status and the result of `plan --profile full`."""
    sets = [flag for change in changes for flag in ("--set", change)]
    cluster = ["--nodes", "100", "--cores", "64", "--memory", "4000"]
    recipe = [str(CONFIGS / f"{name}.yaml"), "--profile", "full"]
    code = main(["plan", *recipe, "--rates", str(servers.rates), "--json", *cluster, *sets])
    return code, orjson.loads(capsys.readouterr().out)


def test_full_profiles_are_measured_on_the_beginnings_of_their_own_files(
    servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = [str(CONFIGS / "dclm_mix.yaml"), "--profile", "full"]
    sets = [flag for name in SOURCES for flag in ("--set", f"sources.{name}.read.paths=['{first_file(name)}']")]
    sets += [flag for name in SOURCES for flag in ("--set", f"sources.{name}.expected.files=null")]
    assert main(["plan", *recipe, "--measure", "--json", "--nodes", "100", "--memory", "4000", *sets]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert "of 7 files" in found["rates"] and found["rate_notes"] == []
    read = [path for path in servers.hub.resolved if path.startswith("data/")]
    assert len(read) == len(set(read)) == 7  # one request that counts a file
    assert found["mixture_tokens"] == 5_133_000_000_000  # of what the recipe expects
    crawl = [str(CONFIGS / "dclm_from_warc.yaml"), "--profile", "full"]
    changes = [*crawl_changes(servers.web, "#lines=1-1"), "expected.documents=1K", "expected.text_bytes=10MB"]
    sets = [flag for change in changes for flag in ("--set", change)]
    assert main(["plan", *crawl, "--measure", "--json", "--memory", "4000", *sets]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert "of 1 files" in found["rates"] and not any("sample's pages" in note for note in found["rate_notes"])


def first_tasks(name: str, changes: list[str], out: Path) -> Any:
    """Run a full profile over the first file of each source."""
    recipe = load_recipe(CONFIGS / f"{name}.yaml", "full", changes)
    files = {source: listed[:1] for source, listed in list_all(recipe).items()}
    return run_recipe(recipe, Options(str(out), inline=True, progress=Progress(quiet=True)), files)


def test_the_mix_is_planned_as_it_lies_on_the_hub(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = planned("dclm_mix", servers, [], capsys)
    assert (code, found["problems"]) == (0, [])
    reading = {stage["source"]: stage for stage in found["stages"] if stage["phase"] == "read and filter"}
    files = {"dclm": 1970, "starcoder": 863, "pes2o": 26, "arxiv": 100, "open-web-math": 13, "algebraic-stack": 16, "wiki": 2}
    tasks = {source: stage["tasks"] for source, stage in reading.items()}
    assert {name: tasks[name] for name in ("dclm", "pes2o", "open-web-math", "algebraic-stack", "wiki")} == {
        name: files[name] for name in ("dclm", "pes2o", "open-web-math", "algebraic-stack", "wiki")
    }
    assert 863 / 3 < tasks["starcoder"] <= 863 and tasks["arxiv"] <= 100  # small files are gathered
    assert all(source["origin"].startswith("its files as listed") for source in found["sources"].values())
    assert not [stage for stage in found["stages"] if "dedup" in stage["phase"]]
    assert servers.hub.resolved.count("data/dclm/dclm-0000.json.zst") == 0  # a listing tells all that a plan needs


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (f"sources.arxiv.read.paths=['hf://datasets/{MIX}@{NEWEST}/data/arxiv/*']", "sources.arxiv.read.paths: nothing found at"),
        (f"sources.wiki.read.paths=['hf://datasets/{MIX}@{'1' * 40}/data/wiki/*']", "has no revision"),
        ("tokenizer.path=hf://allenai/gpt-neox-olmo-dolma-v1_5/none.json", "tokenizer.path: .*no such file"),
    ],
)
def test_what_a_listing_does_not_hold_is_a_problem_of_the_plan(
    change: str, told: str, servers: Servers, capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = planned("dclm_mix", servers, [change], capsys)
    assert code == 1 and len(found["problems"]) == 1
    assert re.search(told, found["problems"][0])


def test_the_first_task_of_each_source_of_the_mix(servers: Servers, tmp_path: Path) -> None:
    changes = ["mixture.tokens=null", "mixture.epochs=1.26", "shards.held_out=0.1"]
    sources = ("dclm", "starcoder", "pes2o", "open-web-math", "algebraic-stack", "wiki")
    changes += [f"sources.{name}.expected.files=null" for name in sources]
    summary = first_tasks("dclm_mix", changes, tmp_path / "out")
    found = summary.sources
    assert [len(name) + 10 for name in found] == [s.documents_in for s in found.values()]
    assert all(0 < s.documents_kept <= s.documents_in for s in found.values())
    read = [path for path in servers.hub.resolved if path.startswith("data/")]
    assert len(read) == len(set(read)) == 7  # one request that counts a file
    manifest = load_manifest(tmp_path / "out")
    assert manifest["profile"] == "full"
    assert manifest["made_by"]["revisions"][f"hf://datasets/{MIX}@{NEWEST}"] == NEWEST
    shard = manifest["sources"]["wiki"]["shards"][0]
    assert len(np.fromfile(tmp_path / "out" / shard["path"], manifest["dtype"])) == shard["tokens"]
    assert not list((tmp_path / "out").glob("parts/**/*.kept.parquet"))  # keep: none


def crawl_changes(web: WebServer, part: str = "") -> list[str]:
    """The crawl's full profile with its web addresses at a server on loopback."""
    recipe = load_recipe(CONFIGS / "dclm_from_warc.yaml", "full")
    assert recipe.sources["dclm"].read.paths == (f"list:s3://commoncrawl/{CRAWL}/warc.paths.gz",)
    lists = dict(recipe.sources["dclm"].steps)["url_filter"]
    changed = [f"sources.dclm.read.paths=['list:{web.url(CRAWL)}/warc.paths.gz{part}']"]
    for key in ("strict_files", "hard_files", "soft_files"):
        address = getattr(lists, key).replace("https://raw.githubusercontent.com", web.address)
        changed.append(f"sources.dclm.steps.url_filter.{key}={address}")
    return [*changed, f"sources.dclm.steps.language.model={packaged_model()}", "sources.dclm.steps.dedup.memory=64MiB"]


def test_a_crawl_is_planned_by_its_list_of_paths(servers: Servers, capsys: pytest.CaptureFixture[str]) -> None:
    # The size of all files decides how many are made up where one of them is missing: 80,000 are not needed here.
    size = ["expected.documents=1M", "expected.text_bytes=10GB", "expected.file_bytes=2GB"]
    changes = [*crawl_changes(servers.web), *size]
    code, found = planned("dclm_from_warc", servers, changes, capsys)
    assert (code, found["problems"]) == (0, [])
    assert found["sources"]["dclm"]["file_bytes"] == sum(len(d) for n, d in servers.web.files.items() if n.endswith("warc.gz"))
    assert found["sources"]["dclm"]["text_bytes"] == 10**10
    del servers.web.files[next(name for name in servers.web.files if name.endswith("00007.warc.gz"))]
    code, found = planned("dclm_from_warc", servers, changes, capsys)
    assert code == 1 and any("of 200 paths in list:http" in told and "1 lead to no file" in told for told in found["problems"])


def test_the_first_task_of_a_crawl(servers: Servers, tmp_path: Path) -> None:
    summary = first_tasks("dclm_from_warc", crawl_changes(servers.web, "#lines=1-20"), tmp_path / "out")
    source = first_source(summary)
    assert source.documents_in == 60 and 0 < source.documents_kept < 60
    assert source.dropped["url_filter.banned_domain.max"].documents == 1
