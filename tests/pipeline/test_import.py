"""Corpora that others tokenized: taken in token for token, held out by hash, and what is wrong with them is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from token_runs import TEXTS, documents, train, wide, write_run
from told import as_json

from pipeline import storage
from pipeline.carry_out import Options, run_recipe
from pipeline.cli import main
from pipeline.convert.export import ExportOptions, export
from pipeline.convert.import_tokens import ImportOptions, import_tokens
from pipeline.mixture.mix import MixOptions, mix
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from stages.errors import UserError
from stages.tokens.formats import block
from stages.tokens.shard_format import load_manifest
from stages.tokens.tokenizer import load_tokenizer
from trainer.loader.data import open_data

QUIET: dict[str, Any] = {"inline": True, "progress": Progress(quiet=True)}


@pytest.fixture(scope="module", params=["uint16", "uint32"])
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imported") / request.param
    tokenizer = folder.with_suffix(".json")
    write_run(folder, (train if request.param == "uint16" else wide)(tokenizer), {"docs": TEXTS["docs"]})
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("tokenizer") / "tokenizer.json")


def taken(src: Any, out: Path, kind: Any, tokenizer: Path, **options: Any) -> dict[str, Any]:
    asked = {"source": "docs", "held_out": 0.0, **QUIET, **options}
    return as_json(import_tokens([str(src)], str(out), ImportOptions(format=kind, tokenizer=str(tokenizer), **asked)))


@pytest.mark.parametrize("kind", ["olmo", "datatrove", "megatron", "parquet", "jsonl"])
def test_an_export_comes_back_token_for_token(run: Path, tmp_path: Path, kind: Any) -> None:
    src = run / "tokens/docs/0*.npy"
    if kind != "olmo":
        export(str(run), str(tmp_path / "x"), ExportOptions(kind, tokens=True, **QUIET))
        src = tmp_path / "x"
    found = taken(src, tmp_path / "out", kind, run.with_suffix(".json"))
    assert (found["ended"], found["skip_empty"], found["without_index"]) == (0, 0, [])
    before, after = load_manifest(run), load_manifest(tmp_path / "out")
    assert after["tokenizer"] == before["tokenizer"] and after["dtype"] == before["dtype"]
    mine, theirs = documents(tmp_path / "out", "docs"), documents(run, "docs")
    assert [row[3] for row in mine] == [row[3] for row in theirs]
    if kind in ("olmo", "parquet", "jsonl"):  # the other two have no place for where a document is from
        assert mine == theirs
    else:
        assert [row[2] for row in mine][:16] == [*range(1, 16), 1]
        assert mine[15][0].startswith("00001.") and mine[15][1].endswith(mine[15][0].split(":")[0])
    if before["dtype"] == "uint16":
        assert after["sources"]["docs"]["text_bytes"] == before["sources"]["docs"]["text_bytes"]
    assert main(["inspect", str(tmp_path / "out"), "--json"]) == 0


def test_what_datatroves_own_tokenizers_write_is_read(tokenizer: Path, tmp_path: Path) -> None:
    from datatrove.data import Document
    from datatrove.pipeline.tokens import DocumentTokenizer, MegatronDocumentTokenizer

    made = {"tokenizer_name_or_path": str(tokenizer), "eos_token": "<|endoftext|>"}
    texts = TEXTS["docs"][:12]
    DocumentTokenizer(str(tmp_path / "ds"), shuffle_documents=False, **made).run(
        [Document(text, str(i)) for i, text in enumerate(texts)]
    )
    MegatronDocumentTokenizer(str(tmp_path / "mega"), **made).run([Document(t, str(i)) for i, t in enumerate(texts)])
    loaded = load_tokenizer(tokenizer)
    want = [[*loaded.reference.tokenizer.encode(text, add_special_tokens=False).ids, loaded.eos_id] for text in texts]
    taken(tmp_path / "ds", tmp_path / "a", "datatrove", tokenizer)
    taken(tmp_path / "mega/00000_tokens", tmp_path / "b", "megatron", tokenizer)
    for out in ("a", "b"):
        assert [row[3] for row in documents(tmp_path / out, "docs")] == want


def test_raw_arrays_without_an_index_are_told_by_the_end_token(run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for number in (0, 1):
        (bare / f"{number}.npy").write_bytes((run / f"tokens/docs/0000{number}.npy").read_bytes())
    found = taken(bare, tmp_path / "out", "olmo", run.with_suffix(".json"))
    assert [Path(name).name for name in found["without_index"]] == ["0.npy", "1.npy"]
    assert [row[3] for row in documents(tmp_path / "out", "docs")] == [row[3] for row in documents(run, "docs")][:30]


def test_a_file_without_end_tokens_is_not_held_as_one_document(
    tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block, "LONGEST", 2000)
    for length, name in ((2001, "longer"), (2000, "right")):
        np.concatenate([[7, 7, 0], np.full(length, 5)]).astype("<u2").tofile(tmp_path / f"{name}.npy")
    with pytest.raises(UserError, match=r"document longer.npy:2 has 2,001 tokens, .* is the end token right"):
        taken(tmp_path / "longer.npy", tmp_path / "out", "olmo", tokenizer)
    assert taken(tmp_path / "right.npy", tmp_path / "out", "olmo", tokenizer)["documents_in"] == 2


def test_documents_are_ended_and_empty_ones_left_out(tokenizer: Path, tmp_path: Path) -> None:
    lists = [[5, 6, 0], [7], [], [0], [8, 0, 9]]
    table = pa.table({"input_ids": pa.array(lists, pa.list_(pa.int32())), "id": ["a", None, "c", "d", "e"]})
    pq.write_table(table, tmp_path / "hf.parquet")
    lines = "".join(json.dumps({"tokens": tokens}) + "\n" for tokens in lists)
    (tmp_path / "x.jsonl").write_text(lines)
    for kind, name in (("parquet", "hf.parquet"), ("jsonl", "x.jsonl")):
        found = taken(tmp_path / name, tmp_path / kind, kind, tokenizer)
        assert (found["documents_in"], found["skip_empty"], found["ended"]) == (5, 1, 2)
        rows = documents(tmp_path / kind, "docs")
        assert [row[3] for row in rows] == [[5, 6, 0], [7, 0], [0], [8, 0, 9, 0]]
        ids = ["a", "hf.parquet:2", "d", "e"] if kind == "parquet" else [f"x.jsonl:{i}" for i in (1, 2, 4, 5)]
        assert [row[0] for row in rows] == ids and [row[2] for row in rows] == [1, 2, 4, 5]
    taken(tmp_path / "x.jsonl", tmp_path / "as_is", "jsonl", tokenizer, append_eos=False)
    assert [row[3] for row in documents(tmp_path / "as_is", "docs")] == [[5, 6, 0], [7], [0], [8, 0, 9]]


def test_held_out_documents_are_chosen_by_what_they_say(run: Path, tmp_path: Path) -> None:
    export(str(run), str(tmp_path / "x"), ExportOptions("jsonl", tokens=True, **QUIET))
    export(str(run), str(tmp_path / "m"), ExportOptions("megatron", **QUIET))
    whole = [tuple(row[3]) for row in documents(run, "docs")]
    held = []
    for kind, src, size in (("jsonl", tmp_path / "x", 4096), ("megatron", tmp_path / "m", 2**30)):
        out = tmp_path / f"out_{kind}"
        taken(src, out, kind, run.with_suffix(".json"), held_out=0.3, shard_bytes=size)
        kept = [tuple(row[3]) for row in documents(out, "docs")]
        held.append([tuple(row[3]) for row in documents(out, "docs", "held_out")])
        assert sorted(kept + held[-1]) == sorted(whole) and not set(kept) & set(held[-1])
    assert held[0] == held[1] and 2 < len(held[0]) < 20


def test_an_import_can_hold_out_what_a_run_holds_out(tmp_path: Path) -> None:
    rows = [{"id": str(i), "text": f"\n {text} "} for i, text in enumerate(TEXTS["docs"])]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data: dict[str, Any] = {
        "name": "made",
        "sources": {"docs": {"read": {"paths": [str(tmp_path / "docs.jsonl")]}}},
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "50KB"}},
        "shards": {"held_out": 0.3},
        "mixture": {},
    }
    run = tmp_path / "run"
    run_recipe(build_recipe(data), Options(str(run), inline=True, progress=Progress(quiet=True)))
    files = [str(run / "tokens/docs/0*.npy"), str(run / "tokens/docs/held_out*.npy")]
    options = ImportOptions("olmo", "docs", str(run / "tokenizer/tokenizer.json"), held_out_as=str(run), **QUIET)
    import_tokens(files, str(tmp_path / "out"), options)
    for split in ("train", "held_out"):
        assert len(documents(run, "docs", split)) > 5
        assert documents(tmp_path / "out", "docs", split) == documents(run, "docs", split)
    # A mixture tells where its folders do not hold out by one rule, also where one of them is a mixture itself.
    taken(files[0], tmp_path / "own", "olmo", run / "tokenizer/tokenizer.json", source="own", held_out=0.3)
    renamed = MixOptions(rename=[f"{tmp_path}/out/docs=more"], out=str(tmp_path / "one_rule"))
    assert mix([str(run), str(tmp_path / "out")], renamed).notes == []
    notes = mix([str(tmp_path / "one_rule"), str(tmp_path / "own")], MixOptions(out=str(tmp_path / "both"))).notes
    assert len(notes) == 1 and f"{run} and {tmp_path / 'own'} hold out by rules of their own" in notes[0]
    assert mix([str(tmp_path / "both")], MixOptions()).notes == notes
    with pytest.raises(UserError, match=r"--held-out-as .*out: holds no run"):
        taken(files[0], tmp_path / "b", "olmo", run / "tokenizer/tokenizer.json", held_out_as=str(tmp_path / "out"))


def test_again_there_is_nothing_to_do_and_other_shards_are_cut_anew(run: Path, tmp_path: Path) -> None:
    src, out, tokenizer = run / "tokens/docs/0*.npy", tmp_path / "out", run.with_suffix(".json")
    assert taken(src, out, "olmo", tokenizer)["tasks_run"] > 0
    before = (out / "manifest.json").read_bytes()
    assert taken(src, out, "olmo", tokenizer)["tasks_run"] == 0
    assert (out / "manifest.json").read_bytes() == before
    assert not list(out.rglob("*.tokens"))  # the tokens lie there once
    found = taken(src, out, "olmo", tokenizer, shard_bytes=8192)
    assert found["splits"]["train"]["shards"] > 3
    assert documents(out, "docs") == documents(run, "docs")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"tokens": [5, 600_000]},
            r"x.jsonl: document x.jsonl:1 has token 600000, and .* has [\d,]+ entries: .*another tokenizer",
        ),
        ({"tokens": [5, -1]}, "has token -1"),
        ({"text": "no tokens"}, r"x.jsonl, line 1: has no tokens or input_ids \(--tokens-field\)"),
        ({"tokens": [1.5]}, "tokens are a list of whole numbers"),
    ],
)
def test_what_is_no_corpus_of_this_tokenizer_is_named(
    content: Any, message: str, tokenizer: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(content) + "\n")
    with pytest.raises(UserError, match=message):
        taken(tmp_path / "x.jsonl", tmp_path / "out", "jsonl", tokenizer)
    assert not (tmp_path / "out/manifest.json").exists()


def test_the_command(tokenizer: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "x.jsonl").write_text("".join(json.dumps({"toks": [i, 9]}) + "\n" for i in range(40)))
    call = [
        "import",
        str(tmp_path / "x.jsonl"),
        "--format",
        "jsonl",
        "--tokenizer",
        str(tokenizer),
        "--inline",
        "--quiet",
    ]
    out = ["--out", str(tmp_path / "out"), "--shard-bytes", "4KiB", "--held-out", "0.1", "--tokens-field", "toks"]
    assert main([*call, *out, "--source", "x"]) == 0
    shown = capsys.readouterr().out
    assert "40 of 40 documents did not end in token 0: it was added; is --eos-token right?" in shown
    assert (
        main(
            [*call, *out, "--source", "x", "--json", "--held-out", "0", "--eos-token", "<|padding|>", "--no-append-eos"]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["splits"]["train"]["tokens"], found["tokenizer"]["eos_id"], found["ended"]) == (80, 1, 0)
    assert main([*call, *out, "--source", "a/b"]) == 2 and "make a source's name" in capsys.readouterr().err
    assert main([*call, *out, "--source", "x", "--shard-bytes", "much"]) == 2
    assert "--shard-bytes much: not a quantity" in capsys.readouterr().err
    assert main([*call, *out, "--source", "x", "--held-out-as", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def test_mistakes_are_one_sentence(run: Path, tokenizer: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: there is no \.ds file; is --format datatrove right\?"):
        taken(tmp_path / "empty", tmp_path / "out", "datatrove", tokenizer)
    with pytest.raises(UserError, match=r"--tokenizer: .*has no token '<end>'"):
        taken(run / "tokens", tmp_path / "out", "olmo", tokenizer, eos_token="<end>")
    (tmp_path / "a.bin").write_bytes(b"xx")
    with pytest.raises(UserError, match=r"its index .*a.idx is missing"):
        taken(tmp_path / "a.bin", tmp_path / "out", "megatron", tokenizer)
    np.save(tmp_path / "b.npy", np.arange(4, dtype=np.uint16))
    with pytest.raises(UserError, match=r"b.npy: has a numpy header"):
        taken(tmp_path / "b.npy", tmp_path / "out", "olmo", tokenizer)
    pq.write_table(pa.table({"text": ["x"]}), tmp_path / "c.parquet")
    with pytest.raises(UserError, match=r"has no column tokens or input_ids; its columns are text"):
        taken(tmp_path / "c.parquet", tmp_path / "out", "parquet", tokenizer)
    with pytest.raises(UserError, match=r"held_out-00000.npy: a run holds these documents out of training; name the other"):
        taken(run / "tokens", tmp_path / "out", "olmo", tokenizer)
    with pytest.raises(UserError, match="holds a run; choose another --out"):
        taken(run / "tokens/docs/0*", run, "olmo", tokenizer)


def test_from_s3_to_s3(s3: Any, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    there = s3.uri("formats", run.name)
    for entry in storage.list_files(str(run)):
        storage.publish(entry.uri, storage.join(there, entry.uri.removeprefix(f"{run}/")), keep=True)
    export(there, f"{there}-x", ExportOptions("megatron", **QUIET))
    found = taken(f"{there}-x", f"{there}-out", "megatron", Path(run.with_suffix(".json")))
    assert found["splits"]["train"]["documents"] == load_manifest(run)["sources"]["docs"]["documents"]
    tokens = storage.read_bytes(f"{there}-out/tokens/docs/00000.npy")
    assert tokens == b"".join(path.read_bytes() for path in sorted((run / "tokens/docs").glob("0*.npy")))
    mix([f"{there}-out"], MixOptions(assignments=["epochs=2"], out=f"{there}-mix", files="copy"))
    assert storage.read_bytes(f"{there}-mix/tokens/docs/00000.npy") == tokens
    mix([f"{there}-out"], MixOptions(out=str(tmp_path / "here"), files="copy"))
    assert open_data(tmp_path / "here", 8).train.tokens(0, 1).shape == (1, 8)
    with pytest.raises(UserError, match="only local files can; --files copy copies them"):
        mix([f"{there}-out"], MixOptions(out=str(tmp_path / "m")))
