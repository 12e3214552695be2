"""Tracing tokens back: every sampled one leads to the record whose text, tokenized again, holds it where it is said to be."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from token_run import write_run
from told import as_json

from pipeline import storage
from pipeline.carry_out import Options, run_recipe
from pipeline.cli import main
from pipeline.progress import Progress
from pipeline.questions import trace_step
from pipeline.questions.inspect import inspect
from pipeline.questions.trace import documents_at, mark, trace
from pipeline.questions.trace_step import Batches
from pipeline.recipe.recipe import build_recipe
from stages.errors import UserError
from stages.tokens.index_table import ROWS, write_index_batches
from stages.tokens.shard_format import load_manifest, open_tokens
from stages.tokens.tokenizer import load_tokenizer
from trainer.loader.data import open_data

ROOT = Path(__file__).resolve().parents[3]
WORDS = [word for _, text in sorted(topics.items()) for word in text.split()]


def text_of(number: int) -> str:
    body = " ".join(WORDS[number * 61 : number * 61 + 40 + number % 50])
    return f"  Ünïcode document {number}: {body} 日本語 https://www.python.org/page/{number} end\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[tuple[str, int], str]]:
    """A run over two sources, one of whose steps edits, and the final text of each record by (file, record)."""
    folder = tmp_path_factory.mktemp("trace")
    for name in ("web", "wiki"):
        rows = [{"id": f"{name}-{i}", "text": text_of(i)} for i in range(60)]
        rows.insert(7, {"id": "copy", "text": text_of(3)})
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    edits = [{"remove_urls": {"urls": "all"}}, {"dedup": {"method": "exact"}}]
    recipe = build_recipe(
        {
            "name": "small",
            "sources": {
                "web": {"read": {"paths": [f"{folder}/web.jsonl"]}, "steps": edits},
                "wiki": {"read": {"paths": [f"{folder}/wiki.jsonl"]}, "steps": edits[1:]},
            },
            "tokenizer": {"train": {"vocab_size": 500}},
            "shards": {"bytes": "5KB", "held_out": 0.1},
            "mixture": {"epochs": 1.7},
        }
    )
    run_recipe(recipe, Options(str(folder / "run"), inline=True, progress=Progress(quiet=True)))
    finals = {
        (row["file"], row["record"]): row["text"]
        for part in (folder / "run").glob("parts/*/*/*.kept.parquet")
        for row in pq.read_table(part, columns=["file", "record", "text"]).to_pylist()
    }
    return folder / "run", finals


def test_sampled_tokens_lead_to_the_record_whose_text_holds_them(made: tuple[Path, dict[tuple[str, int], str]]) -> None:
    run, finals = made
    manifest = load_manifest(run)
    tokenizer = load_tokenizer(run / "tokenizer" / "tokenizer.json")
    rng = np.random.default_rng(0)
    seen = set()
    for source, entry in manifest["sources"].items():
        assert len(entry["shards"]) > 1 and entry["held_out"]["shards"]
        for shard in [*entry["shards"], *entry["held_out"]["shards"]]:
            stored = open_tokens(run / shard["path"], manifest["dtype"], shard["tokens"])
            for offset in [0, shard["tokens"] - 1, *rng.integers(0, shard["tokens"], 4).tolist()]:
                found = as_json(trace(str(run), f"{shard['path']}:{offset}", context=20))
                document = found["document"]
                assert found["source"] == source and found["token"] == stored[offset]
                text = finals[found["file"], found["record"]]
                again, _ = tokenizer.encode(pa.array([text], pa.large_string()))
                assert np.array_equal(again, stored[document["first_token"] : document["end_token"]])
                assert document["position"] == offset - document["first_token"]
                first, end = found["window"]
                window = again[first - document["first_token"] : end - document["first_token"]]
                assert np.array_equal(window, stored[first:end]) and first <= offset < end <= first + 41
                shown = found["before"] + found["text"] + found["after"]
                assert shown == tokenizer.decode(stored[first:end])
                if "\ufffd" not in shown:
                    assert shown.removesuffix("<|endoftext|>") in text.strip()
                line = Path(found["file"]).read_text().splitlines()[found["record"] - 1]  # as it is in the source file
                assert document["id"] == json.loads(line)["id"]
                seen.add((found["file"], found["record"]))
    assert len(seen) > 40


def test_the_hint_tells_the_documents_way(
    made: tuple[Path, dict[tuple[str, int], str]], capsys: pytest.CaptureFixture[str]
) -> None:
    run, _ = made
    found = as_json(trace(str(run), "web/00000:100"))
    assert main([*found["why"].split()[3:], "--json"]) == 0
    told = orjson.loads(capsys.readouterr().out)["documents"]
    assert [d["id"] for d in told] == [found["document"]["id"]]
    span = told[0]["shard"]
    assert (span["path"], span["first_token"], span["end_token"]) == (
        found["shard"],
        found["document"]["first_token"],
        found["document"]["end_token"],
    )
    assert any(edit["step"] == "remove_urls" for edit in told[0]["edits"])


@pytest.mark.parametrize("packing", ["concatenate", "best_fit"])
def test_a_steps_instances_are_those_that_training_reads(
    made: tuple[Path, dict[tuple[str, int], str]], packing: str
) -> None:
    run, finals = made
    data = open_data(run, 64, packing=packing)
    manifest = load_manifest(run)
    files = {
        shard["path"]: open_tokens(run / shard["path"], manifest["dtype"])
        for entry in manifest["sources"].values()
        for shard in entry["shards"]
    }
    steps = len(data.train) // 5
    assert steps > 20
    epochs = set()
    for step in (1, 2, steps // 2, steps):
        found = as_json(trace_step.trace_step(str(run), step, Batches(64, 5, packing=packing), top=0))
        read = data.train.tokens((step - 1) * 5, 5)
        names = [data.sources[number] for number in data.train.source_of((step - 1) * 5, 5)]
        assert [instance["source"] for instance in found["instances"]] == names
        assert sum(found["sources"].values()) == 5
        for row, instance in zip(read, found["instances"], strict=True):
            epochs.add(instance["epoch"])
            pieces = [files[p["shard"]][p["offset"] : p["offset"] + p["tokens"]] for p in instance["pieces"]]
            tokens = np.concatenate(pieces)
            assert np.array_equal(tokens, row[: len(tokens)])
            assert len(tokens) == 64 or (packing == "best_fit" and (row[len(tokens) :] == data.pad_id).all())
            for piece in instance["pieces"]:
                spans = [(d["first_token"], d["end_token"]) for d in piece["documents"]]
                assert spans[0][0] == piece["offset"] and spans[-1][1] == piece["offset"] + piece["tokens"]
                assert all(a[1] == b[0] for a, b in pairwise(spans))
                assert all((d["file"], d["record"]) in finals for d in piece["documents"])
    assert epochs == {0, 1}


def test_the_first_instances_are_told_of_and_all_are_counted(made: tuple[Path, dict[tuple[str, int], str]]) -> None:
    run = str(made[0])
    found = as_json(trace_step.trace_step(run, 2, Batches(64, 20), top=3))
    assert len(found["instances"]) == 3 and sum(found["sources"].values()) == 20
    assert found["instances"][0]["position"] == found["first_position"] == 20
    other = as_json(trace_step.trace_step(run, 2, Batches(64, 20, seed=5), top=3))
    assert other["seed"] == 5 and other["instances"] != found["instances"]


def test_the_command_with_a_trainers_configuration(
    made: tuple[Path, dict[tuple[str, int], str]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = str(made[0])
    (tmp_path / "t.yaml").write_text(
        "name: t\ndata: {sequence_length: 32, seed: 3}\ntrain: {batch_tokens: 128, micro_batch: 4}\n"
    )
    assert main(["trace", run, "--step", "2", "--config", str(tmp_path / "t.yaml"), "--json"]) == 0
    found = orjson.loads(capsys.readouterr().out)
    assert (found["sequence_length"], found["batch"], found["seed"], found["first_position"]) == (32, 4, 3, 4)
    assert (
        main(["trace", run, "--step", "2", "--sequence-length", "32", "--batch", "4", "--seed", "3", "--top", "1"]) == 0
    )
    out = capsys.readouterr().out
    assert "step 2: instances 4 to 7 of 32 tokens" in out and "the first 1 of 4 instances" in out
    assert main(["trace", run, "wiki/held_out-00000:3"]) == 0
    out = capsys.readouterr().out
    assert "held out from training" in out and ">>" in out and "wiki.jsonl, record" in out
    places = []
    for arguments in (["wiki/00000:3", "--context", "2"], ["--context", "2", "wiki/00000:3"]):
        assert main(["trace", run, *arguments, "--json"]) == 0
        places.append(orjson.loads(capsys.readouterr().out))
    assert places[0] == places[1] and places[0]["window"] == [1, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["web/00000"], "name a token as SHARD:OFFSET, such as web/00000:0"),
        (["web/00009:1"], "has no shard web/00009"),
        (["00000:1"], "shards end so, tokens/web/00000.npy and"),
        (["web/00000:99999"], "holds .* tokens, numbered from 0"),
        ([], "or a training step with --step"),
        (["--step", "1"], "--step needs --config TRAINER.yaml"),
        (["--step", "0", "--sequence-length", "8", "--batch", "1"], "counted from 1"),
        (["--step", "99999", "--sequence-length", "64", "--batch", "4"], "training ends with step"),
        (["--step", "1", "--sequence-length", "1000000", "--batch", "1"], "none of its shards .* holds one instance"),
        (["--step", "1", "--config", "none.yaml"], "none.yaml: cannot be read"),
    ],
)
def test_mistakes_are_told_in_a_sentence(
    made: tuple[Path, dict[tuple[str, int], str]],
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import re

    assert main(["trace", str(made[0]), *arguments]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error) and error.count("\n") == 1


def test_a_damaged_index_is_told(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"web": [[[5, 5, 0], [6, 0]]]})
    index = run / "tokens/web/00000.csv.gz"
    index.write_bytes(index.read_bytes()[:-9])
    with pytest.raises(UserError, match="inspect"):
        trace(str(run), "web/00000:4")


def test_characters_that_are_spread_over_tokens_are_marked_whole(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", {"web": [[[5, 0]]]})
    tokenizer = load_tokenizer(run / "tokenizer" / "tokenizer.json")
    tokens, _ = tokenizer.encode(pa.array(["the 日本 mill"], pa.large_string()))
    parts = [mark(tokenizer.decode, tokens, at) for at in range(len(tokens))]
    assert all("".join(part) == "the 日本 mill<|endoftext|>" for part in parts)
    assert all("\ufffd" not in text for part in parts for text in part)
    assert {part[1] for part in parts} >= {"日", "本", "<|endoftext|>"}


def test_an_index_is_not_read_to_its_end(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ends = np.cumsum(rng.integers(1, 2000, 150_000))
    starts = ends - np.diff(ends, prepend=0)
    names = pa.array([bytes(name).hex() for name in rng.integers(0, 256, (150_000, 16), np.uint8)], pa.large_string())
    record = pa.array(np.arange(150_000))
    write_index_batches(tmp_path / "i.csv.gz", [pa.record_batch([starts, ends, names, names, record], schema=ROWS)])
    whole = (tmp_path / "i.csv.gz").read_bytes()
    (tmp_path / "i.csv.gz").write_bytes(whole[: len(whole) * 3 // 4])  # what is gone is not missed
    found = documents_at(str(tmp_path), {"index": "i.csv.gz"}, [(int(starts[9]), int(ends[11])), (0, 1)])
    assert [[d.number for d in documents] for documents in found] == [[10, 11, 12], [1]]
    assert found[0][2].id == names[11].as_py()


def test_a_run_on_s3(s3: Any, tmp_path: Path) -> None:
    local = write_run(tmp_path / "run", {"web": [[[5] * n + [0] for n in range(1, 30)]] * 1}, {"web": [[[6, 6, 0]]]})
    remote = s3.uri("traced")
    for path in local.rglob("*"):
        if path.is_file():
            storage.write_bytes(storage.join(remote, path.relative_to(local).as_posix()), path.read_bytes())
    here, there = (as_json(trace(run, "web/00000:50")) for run in (str(local), remote))
    assert here["why"] is None  # there are shards alone: nothing that `why` could tell of
    assert {k: v for k, v in here.items() if k not in ("run", "why")} == {
        k: v for k, v in there.items() if k not in ("run", "why")
    }
    batches = Batches(8, 4)
    steps = [as_json(trace_step.trace_step(run, 3, batches))["instances"][0] for run in (str(local), remote)]
    assert steps[0]["pieces"][0]["offset"] == steps[1]["pieces"][0]["offset"]
    with pytest.raises(UserError, match="local copy"):
        trace_step.trace_step(remote, 1, Batches(8, 4, packing="best_fit"))
    found = inspect(remote)
    assert found.problems == [] and found.sources["web"].lengths["max"] == 30


def test_tracing_a_step_needs_no_torch() -> None:
    code = "import sys, pipeline.questions.trace_step, trainer.loader.places, trainer.config; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
