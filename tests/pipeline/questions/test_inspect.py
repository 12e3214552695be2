"""Inspecting a finished run: its figures, and each kind of damage by shard and document."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from token_run import write_run

from pipeline.cli import main
from pipeline.mixture.mix import MixOptions, mix
from pipeline.questions import check_shard
from pipeline.questions.inspect import inspect
from stages.errors import UserError
from stages.tokens.shard_format import MANIFEST, fingerprint, manifest_bytes

WEB = [[[5] * (n % 7) + [0] for n in range(1, 40)], [[9, 8, 7, 0], [6, 0]]]
CODE = [[[11] * n + [0] for n in (5000, 3, 9)]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(
        tmp_path_factory.mktemp("run") / "r", {"web": WEB, "code": CODE}, {"web": [[[4, 4, 0]]]}, repeats=1.5
    )


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


def problems(run: Path, **options: Any) -> list[str]:
    return inspect(str(run), **options).problems


def change(run: Path, path: str, places: dict[int, int]) -> None:
    tokens = np.fromfile(run / path, np.uint16)
    for place, value in places.items():
        tokens[place] = value
    tokens.tofile(run / path)


def change_index(run: Path, path: str, lines: list[str]) -> None:
    (run / path).write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))


def change_manifest(run: Path, edit: Any) -> None:
    manifest = json.loads((run / MANIFEST).read_bytes())
    edit(manifest)
    manifest["fingerprint"] = fingerprint(manifest)
    (run / MANIFEST).write_bytes(manifest_bytes(manifest))


@pytest.mark.parametrize("chunk", [3, 1 << 22])
def test_the_figures_of_a_whole_run(whole: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(check_shard, "CHUNK_TOKENS", chunk)
    found = inspect(str(whole), documents=2)
    assert found.problems == found.notes == []
    web, code = found.sources["web"], found.sources["code"]
    lengths = sorted(len(document) for shard in WEB for document in shard)
    assert web.lengths == {
        "min": 1,
        "median": lengths[(len(lengths) - 1) // 2],
        "p90": lengths[int(np.ceil(0.9 * len(lengths))) - 1],
        "p99": 7,
        "max": 7,
        "mean": round(sum(lengths) / len(lengths), 2),
    }
    assert web.held_out.lengths["max"] == 3 and web.bytes_per_token == 4.0
    assert code.lengths["max"] == 5001 and code.shards[0].lengths["min"] == 4
    assert round(web.share + code.share, 5) == 1 and web.repeats == pytest.approx(1.5, abs=0.01)
    assert [s.path for s in web.shards] == [f"tokens/web/{n}.npy" for n in ("00000", "00001", "held_out-00000")]
    assert [s.id for s in found.samples["web"]] == ["web-train-0-0", "web-train-0-1"]
    assert found.samples["web"][1].tokens == len(WEB[0][1])


def test_documents_of_several_shards_are_shown(whole: Path) -> None:
    shown = inspect(str(whole), documents=41).samples["web"]
    assert [s.id for s in shown[-3:]] == ["web-train-0-38", "web-train-1-0", "web-train-1-1"]


@pytest.mark.parametrize("chunk", [2, 1 << 22])
def test_wrong_tokens_are_named_by_document(copy: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(check_shard, "CHUNK_TOKENS", chunk)
    change(
        copy, "tokens/code/00000.npy", {5000: 11, 5008: 299, 5009: 300}
    )  # two ends, of documents 1 and 2, one beyond
    change(copy, "tokens/web/00001.npy", {1: 0})
    found = problems(copy)
    assert (
        "tokens/code/00000.npy: document 1 (code-train-0-0) does not end in the end token 0 (1 such document)" in found
    )
    assert (
        "tokens/code/00000.npy: 1 token beyond the vocabulary of 300; the first is 300 at token 5,009, in document 3 "
        "(code-train-0-2)"
    ) in found
    assert (
        "tokens/web/00001.npy: the end token 0 stands inside document 1 (web-train-1-0), first at token 1 of the shard (1 in all)"
    ) in found
    assert sum("are not those that were written" in problem for problem in found) == 2 and len(found) == 5
    assert problems(copy, quick=True) == []


def test_end_tokens_that_a_recipe_lets_stand_are_a_note(copy: Path) -> None:
    change(copy, "tokens/web/00001.npy", {1: 0})
    rules = {"rules": {"special_tokens_in_text": "match"}}
    recipe = {"name": "web", "shards": {"held_out": 0.0}, "tokenizer": rules}
    (copy / "recipe.json").write_bytes(orjson.dumps(recipe))
    found = inspect(str(copy))
    assert len(found.problems) == 1 and "sha256" in found.problems[0]
    assert "stands inside document 1 (web-train-1-0)" in found.notes[0]
    assert found.sources["web"].eos_inside == found.sources["web"].shards[1].eos_inside == 1


def test_a_mixture_goes_by_the_rules_of_the_folders_it_is_made_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = {"web": [[[5, 0, 6], [7, 8]]]}
    strict, loose = write_run(tmp_path / "strict", texts), write_run(tmp_path / "loose", {"code": [[[5, 0, 6], [8, 9]]]})
    rules = {"append_eos": False, "special_tokens_in_text": "match"}
    recipe = {"name": "loose", "seed": 0, "shards": {"held_out": 0.0}, "tokenizer": {"rules": rules}}
    (loose / "recipe.json").write_bytes(orjson.dumps(recipe))
    mix([str(loose)], MixOptions(out=str(tmp_path / "one")))
    mix([str(strict), str(tmp_path / "one")], MixOptions(out=str(tmp_path / "both")))
    for run in (loose, tmp_path / "one"):
        found = inspect(str(run))
        assert found.problems == [] and len(found.notes) == 1 and found.sources["code"].eos_inside == 1
    found = inspect(str(tmp_path / "both"))
    assert len(found.problems) == 2 and all("tokens/web/" in text for text in found.problems)
    assert len(found.notes) == 1 and "tokens/code/" in found.notes[0]
    for source, told in (("web", "documents end in token 0"), ("code", "not every document ends in token 0")):
        call = ["export", str(tmp_path / "both"), "--format", "megatron", "--source", source, "--inline", "--quiet", "--out"]
        assert main([*call, str(tmp_path / source)]) == 0 and told in capsys.readouterr().out
    shard, tokenizer = str(strict / "tokens/web/00000.npy"), str(strict / "tokenizer/tokenizer.json")
    flags = ["--format", "olmo", "--source", "raw", "--no-append-eos", "--held-out", "0", "--inline", "--quiet"]
    assert main(["import", shard, *flags, "--tokenizer", tokenizer, "--out", str(tmp_path / "import")]) == 0
    found = inspect(str(tmp_path / "import"))
    assert found.problems == [] and len(found.notes) == 1


def test_gaps_and_counts_of_an_index(copy: Path) -> None:
    index = "tokens/web/00001.csv.gz"
    change_index(copy, index, ["0,3,a,f,1", "4,6,b,f,2"])
    wrong = f"{index}: document 2 (b) is at tokens 4 to 6, and the one before it ends at 3"
    assert wrong in problems(copy) and problems(copy, quick=True) == [wrong]
    change_index(copy, index, ["0,4,a,f,1", "4,3,b,f,2", "3,6,c,f,3"])
    assert problems(copy, quick=True) == [
        f"{index}: document 2 (b) is at tokens 4 to 3, and the one before it ends at 4"
    ]
    change_index(copy, index, ["0,0,a,f,1", "0,4,b,f,2", "4,4,c,f,3", "4,6,c,f,4"])  # as other tools may write them
    found = inspect(str(copy))
    assert found.problems == [f"{index}: 4 documents, the manifest says 2"]
    assert found.notes == [f"{index}: 2 documents hold no tokens"]
    change_index(copy, index, ["1,4,a,f,1", "4,6,c,f,3"])
    assert problems(copy, quick=True) == [
        f"{index}: document 1 (a) is at tokens 1 to 4, and the one before it ends at 0"
    ]
    change_index(copy, index, ["0,4,a,f,1"])
    assert problems(copy) == [
        f"{index}: 1 documents, the manifest says 2",
        f"{index}: its documents end at token 4 of the shard's 6",
    ]
    (copy / index).write_bytes((copy / index).read_bytes()[:-5])
    assert any(index in problem and "damaged" in problem for problem in problems(copy))
    (copy / index).unlink()
    assert problems(copy) == [f"{index}: the index is missing; run the recipe again to rebuild it"]


def test_files_that_are_cut_missing_or_twice_there(copy: Path) -> None:
    path = copy / "tokens/web/00000.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert problems(copy) == [f"tokens/web/00000.npy: {len(whole) - 1:,} bytes, the manifest says {len(whole):,}"]
    path.unlink()
    assert problems(copy) == ["tokens/web/00000.npy: the file is missing; run the recipe again to rebuild it"]
    shutil.copy(copy / "tokens/web/00001.npy", copy / "tokens/web/held_out-00000.npy")
    shutil.copy(copy / "tokens/web/00001.csv.gz", copy / "tokens/web/held_out-00000.csv.gz")
    path.write_bytes(whole)

    def same(manifest: dict[str, Any]) -> None:
        web = manifest["sources"]["web"]
        web["held_out"]["shards"][0] |= {
            k: web["shards"][1][k] for k in ("tokens", "documents", "text_bytes", "sha256")
        }

    change_manifest(copy, same)
    found = problems(copy)
    assert [problem for problem in found if "the same tokens" in problem] == [
        f"tokens/web/held_out-00000.npy: the same tokens as tokens/web/00001.npy (sha256 {inspect_digest(copy)})"
    ]
    assert any(problem.startswith("manifest.json: web (held_out) has 3 tokens, its shards have 6") for problem in found)


def inspect_digest(run: Path) -> str:
    return json.loads((run / MANIFEST).read_bytes())["sources"]["web"]["shards"][1]["sha256"][:12]


def test_the_command_fails_where_something_is_wrong(
    whole: Path, copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", str(whole), "--show", "1"]) == 0
    out = capsys.readouterr().out
    assert "no problems" in out and "tokens/web/held_out-00000.npy" in out and "web-train-0-0" in out
    change(copy, "tokens/web/00001.npy", {5: 7})
    assert main(["inspect", str(copy), "--json"]) == 1
    assert "does not end in the end token 0" in orjson.loads(capsys.readouterr().out)["problems"][1]
    assert main(["inspect", str(copy)]) == 1
    assert "problem: tokens/web/00001.npy: document 2 (web-train-1-1) does not end" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("there", "message"),
    [
        (None, r"nor one that was begun; is the folder's name right\?"),
        ("ledger", "pipeline status .* tells how far it is"),
        ("import.json", "`python -m pipeline import` has not finished there; start the same command again"),
        ("export.json", "an export for other tools; name the run that it was made of"),
    ],
)
def test_a_folder_without_a_manifest_is_told_apart(tmp_path: Path, there: str | None, message: str) -> None:
    if there == "ledger":
        (tmp_path / there).mkdir()
    elif there:
        (tmp_path / there).write_text("{}")
    with pytest.raises(UserError, match=f"holds no finished run .*{message}"):
        inspect(str(tmp_path))


def test_documents_are_shown_as_they_are(
    whole: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "one [bold]line[/bold] of words, longer than any terminal is wide; " * 9
    monkeypatch.setattr("stages.tokens.tokenizer.Tokenizer.decode", lambda self, tokens: text)
    assert main(["inspect", str(whole), "--show", "1", "--quick"]) == 0
    assert f"{text}\n" in capsys.readouterr().out
    assert main(["inspect", str(whole), "--show", "-1"]) == 2
    assert "--show -1: a number of documents" in capsys.readouterr().err


@pytest.mark.parametrize("damage", ["index", "no index", "tokens", "no tokens"])
def test_what_is_damaged_is_told_where_documents_are_shown_too(
    copy: Path, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if damage == "index":
        (copy / "tokens/web/00000.csv.gz").write_bytes(b"no gzip")
    elif damage == "tokens":
        (copy / "tokens/web/00000.npy").write_bytes(b"x")
    else:
        (copy / f"tokens/web/00000.{'npy' if damage == 'no tokens' else 'csv.gz'}").unlink()
    assert main(["inspect", str(copy), "--show", "2"]) == 1
    out = capsys.readouterr().out
    assert "problem: tokens/web/00000" in out and "code-train-0-0" in out and "web-train" not in out


def test_instances_in_training_order_are_checked_too(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from trainer.loader.materialize import materialize

    materialize(whole, tmp_path / "ordered", 16)
    found = inspect(str(tmp_path / "ordered"))
    assert found.problems == [] and found.ordered["plan"]["sequence_length"] == 16
    path = found.ordered["shards"][0]["path"]
    change(tmp_path / "ordered", path, {3: 300})
    first, second = problems(tmp_path / "ordered")
    assert first.startswith(f"{path}: the tokens are not those that were written")
    assert second == f"{path}: 1 token beyond the vocabulary of 300; the first is 300 at token 3"
    for call in (["mix", "--out", "m"], ["export", "--format", "jsonl", "--out", "m"], ["trace", "web/00000:1"], ["report"]):
        assert main([call[0], str(tmp_path / "ordered"), *call[1:]]) == 2
        assert "which have no documents; name the run that it was made from" in capsys.readouterr().err
    (tmp_path / "ordered" / path).unlink()
    assert problems(tmp_path / "ordered", quick=True) == [
        f"{path}: the file is missing; run the recipe again to rebuild it"
    ]
