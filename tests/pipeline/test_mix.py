"""Mixtures of finished folders: the arithmetic in a table, a manifest written, no token touched, training on the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from token_runs import TEXTS, documents, train, write_run
from told import as_json

from pipeline.carry_out import Options, run_recipe
from pipeline.cli import main
from pipeline.mixture.mix import MixOptions, mix
from pipeline.progress import Progress
from pipeline.recipe.recipe import build_recipe
from stages.errors import UserError
from stages.tokens.manifest import build_manifest, source_entry
from stages.tokens.mixture import MixtureError
from stages.tokens.shard_format import load_manifest, manifest_bytes
from trainer.loader.data import DataError, open_data

OLMOE = {  # OLMoE-MIX-0924 (arXiv 2409.02060, table 2), tokens
    "dclm": 3_860_000_000_000,
    "starcoder": 101_000_000_000,
    "pes2o": 57_200_000_000,
    "arxiv": 21_100_000_000,
    "open-web-math": 12_700_000_000,
    "algebraic-stack": 12_600_000_000,
    "wiki": 3_690_000_000,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two folders, `a` with two sources and `b` with one, of the same tokenizer."""
    root = tmp_path_factory.mktemp("mix")
    tokenizer = train(root / "tokenizer.json")
    write_run(root / "a", tokenizer, TEXTS)
    write_run(root / "b", tokenizer, {"news": TEXTS["docs"][20:]})
    return root


def state(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file with tokens."""
    return {str(p.relative_to(folder)): (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.rglob("tokens/*/*")}


def mixed(folders: Path, *runs: str, **options: Any) -> dict[str, Any]:
    assignments = options.pop("set", [])
    return as_json(mix([str(folders / run) for run in runs], MixOptions(assignments=assignments, **options)))


def test_a_mixture_is_trained_on_as_asked(folders: Path, tmp_path: Path) -> None:
    before = state(folders / "a")
    code, docs = (load_manifest(folders / "a")["sources"][name]["tokens"] for name in ("code", "docs"))
    found = mixed(
        folders, "a", out=str(tmp_path / "m"), set=["per_source.code.repeats=2.5", "per_source.docs.share=0.2"]
    )
    asked = {name: source["asked"] for name, source in found["sources"].items()}
    assert asked["code"] == int(2.5 * code)
    assert asked["docs"] == pytest.approx(asked["code"] / 4, abs=2)
    data = open_data(tmp_path / "m", 32)
    sources = data.train.source_of(0, len(data.train))
    counts = np.bincount(sources, minlength=2) * 32
    for number, name in enumerate(data.sources):
        assert counts[number] == pytest.approx(asked[name], rel=0.05)
    assert data.train.batch(0, 4).shape[0] == 4
    assert documents(tmp_path / "m", "docs", "held_out") == documents(folders / "a", "docs", "held_out")
    assert state(folders / "a") == before
    linked = {name: inode for name, (inode, _) in state(tmp_path / "m").items()}
    assert linked == {name: inode for name, (inode, _) in before.items()}
    assert main(["inspect", str(tmp_path / "m"), "--json"]) == 0
    assert docs == found["sources"]["docs"]["available"]


def test_another_mixture_does_not_go_on_where_this_one_was(folders: Path, tmp_path: Path) -> None:
    mixed(folders, "a", out=str(tmp_path / "one"), set=["epochs=1"])
    mixed(folders, "a", out=str(tmp_path / "two"), set=["epochs=2"])
    mixed(folders, "a", out=str(tmp_path / "three"), set=["epochs=1"])
    one, two, three = (open_data(tmp_path / name, 32) for name in ("one", "two", "three"))
    with pytest.raises(DataError, match="trained on other data"):
        two.check(one.fingerprint)
    three.check(one.fingerprint)


def test_several_folders_make_one_mixture(folders: Path, tmp_path: Path) -> None:
    mixed(folders, "a", "b", out=str(tmp_path / "m"), set=["tokens=20K", "per_source.news.share=0.5"])
    manifest = load_manifest(tmp_path / "m")
    assert sorted(manifest["mixture"]["sources"]) == ["code", "docs", "news"]
    assert (manifest["mixture"]["tokens"], manifest["sources"]["news"]["budget_tokens"]) == (20_000, 10_000)
    assert documents(tmp_path / "m", "news") == documents(folders / "b", "news")
    again = mixed(tmp_path, "m", set=["epochs=1"])  # goes on from what was asked: the share stays, the total is another
    assert again["mixture"]["tokens"] is None and again["sources"]["news"]["share"] == pytest.approx(0.5, abs=1e-3)
    other = mixed(tmp_path, "m", set=["per_source.news.repeats=0.1"])
    assert other["mixture"]["per_source"]["news"]["share"] is None and other["tokens"] == 20_000


def test_folders_that_cannot_be_mixed_are_refused(folders: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source docs is in .*/a and in .*/a2: .*--rename .*/a2/docs=docs_2"):
        write_run(folders / "a2", folders / "tokenizer.json", {"docs": TEXTS["docs"][:9]})
        mixed(folders, "a", "a2")
    renamed = mixed(folders, "a", "a2", rename=[f"{folders}/a2/docs=more"], out=str(tmp_path / "r"))
    assert "more" in renamed["sources"] and documents(tmp_path / "r", "more") == documents(folders / "a2", "docs")
    other = train(tmp_path / "other.json", vocab_size=500)
    write_run(tmp_path / "c", other, {"c": TEXTS["docs"][:9]})
    with pytest.raises(UserError, match=r"have different tokenizers .*tokenize one of them again"):
        mix([str(folders / "a"), str(tmp_path / "c")], MixOptions())
    with pytest.raises(UserError, match=r"tokens = 'many': not a quantity"):
        mixed(folders, "a", set=["tokens=many"])
    with pytest.raises(UserError, match=r"mixture: tokenz.*unknown key; did you mean tokens\?"):
        mixed(folders, "a", set=["tokenz=5"])
    with pytest.raises(MixtureError, match=r"code: [\d,]+ asked / [\d,]+ available = 50 repeats, 4 allowed \(at most"):
        mixed(folders, "a", out=str(tmp_path / "no"), set=["per_source.code.repeats=50"])
    assert not (tmp_path / "no").exists()
    mixed(folders, "a", out=str(tmp_path / "m"))
    with pytest.raises(UserError, match="holds a finished mix"):
        mixed(folders, "a", out=str(tmp_path / "m"))
    with pytest.raises(UserError, match="a is not empty"):
        mixed(folders, "b", out=str(folders / "a"))


@pytest.mark.parametrize("files", ["symlink", "copy"])
def test_where_hard_links_cannot_be(folders: Path, tmp_path: Path, files: Any) -> None:
    mixed(folders, "a", out=str(tmp_path / "m"), files=files)
    path = tmp_path / "m/tokens/docs/00000.npy"
    assert path.is_symlink() == (files == "symlink") and path.lstat().st_nlink == 1
    assert files == "copy" or not path.readlink().is_absolute()
    assert documents(tmp_path / "m", "docs") == documents(folders / "a", "docs")


def test_mixtures_have_names_of_their_own(folders: Path, tmp_path: Path) -> None:
    """What is another mixture has another name, and the same one has the same wherever it is made."""
    asked = (["epochs=1"], ["epochs=2"], ["epochs=1", "seed=3"], ["per_source.docs.repeats=2"])
    names = [mixed(folders, "a", set=keys)["name"] for keys in asked]
    assert len(set(names)) == len(asked) and all(name.startswith("a-") for name in names)
    assert mixed(folders, "a", set=["epochs=1"], out=str(tmp_path / "m"))["name"] == names[0]
    assert mixed(folders, "b", set=["epochs=1"])["name"] != names[0]
    assert mixed(folders, "a", set=["epochs=1"], name="mine")["name"] == "mine"


def test_a_failed_link_names_the_other_ways(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(UserError, match=r"cross-device link.*--files symlink .* or --files copy"):
        mixed(folders, "a", out=str(tmp_path / "m"))
    monkeypatch.undo()
    mixed(folders, "a", out=str(tmp_path / "m"))  # goes on
    assert (tmp_path / "m/manifest.json").exists()


def test_a_shard_that_is_cut_off_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", train(tmp_path / "t.json"), {"docs": TEXTS["docs"][:9]})
    path = tmp_path / "a/tokens/docs/00000.npy"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(UserError, match=r"00000.npy: has [\d,]+ bytes, the manifest says"):
        mix([str(tmp_path / "a")], MixOptions(out=str(tmp_path / "m")))


def test_a_run_and_its_mixtures_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    rows = [{"id": str(i), "text": text} for i, text in enumerate(TEXTS["docs"])]
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data: dict[str, Any] = {
        "name": "small",
        "sources": {"docs": {"read": {"paths": [str(tmp_path / "docs.jsonl")]}}},
        "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "50KB"}},
        "mixture": {"epochs": 1},
    }

    def run(*assignments: str, out: str = "run") -> bool:
        options = Options(str(tmp_path / out), inline=True, progress=Progress(quiet=True))
        return run_recipe(build_recipe(data, None, assignments), options).unchanged

    run()
    shards, first = state(tmp_path / "run"), load_manifest(tmp_path / "run")
    mix([str(tmp_path / "run")], MixOptions(assignments=["epochs=3"], out=str(tmp_path / "m")))
    manifest = (tmp_path / "m/manifest.json").read_bytes()
    assert run()  # the run is as it was, and up to date
    with pytest.raises(UserError, match=r"was made by `python -m pipeline mix` \(mixture.json\); choose another --out"):
        run(out="m")
    # Changed in the recipe, the mixture changes the run's own manifest: its shards stay the files they were.
    assert not run("mixture.epochs=2")
    second = load_manifest(tmp_path / "run")
    assert second["mixture"]["tokens"] == 2 * first["mixture"]["tokens"]
    assert second["fingerprint"] != first["fingerprint"]
    assert state(tmp_path / "run") == shards and (tmp_path / "m/manifest.json").read_bytes() == manifest
    assert main(["mix", str(tmp_path / "run")]) == 0  # what the run asks now
    assert ": a mixture of" in (out := capsys.readouterr().out) and "--out NEW writes" in out


def olmoe(folder: Path) -> Path:
    """A folder that has the manifest of OLMoE's corpus, and nothing else: shards of 2^29 tokens, as 1 GiB holds."""
    entries = {}
    for source, tokens in OLMOE.items():
        whole, rest = divmod(tokens, 2**29)
        shard = {"documents": 1, "text_bytes": 4, "sha256": "0"}
        shards = [shard | {"tokens": size} for size in [2**29] * whole + [rest] * (rest > 0)]
        entries[source] = source_entry(source, shards, [], tokens, 4)
    manifest = build_manifest(
        name="olmoe",
        profile="full",
        recipe_hash="0",
        seed=0,
        tokenizer_sha256="0",
        vocab_size=50_280,
        eos_id=50_279,
        pad_id=1,
        sources=entries,
        mixture_tokens=sum(OLMOE.values()),
        mixture_seed=0,
    )
    folder.mkdir()
    (folder / "manifest.json").write_bytes(manifest_bytes(manifest))
    return folder


def test_olmoes_own_mixture(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """4.07T tokens, of which training sees 5.133T; the last 100B in an order of their own."""
    recipe = Path(__file__).resolve().parents[2] / "configs/dclm_mix.yaml"
    folder = olmoe(tmp_path / "olmoe")
    found = as_json(mix([str(folder)], MixOptions(recipe=str(recipe), profile="full")))
    assert found["tokens"] == 5_133_000_000_000 and found["mixture"]["reshuffle_last_tokens"] == 100_000_000_000
    assert {round(source["repeats"], 4) for source in found["sources"].values()} == {1.2617}
    shares = {name: round(100 * source["share"], 2) for name, source in found["sources"].items()}
    assert (shares["dclm"], shares["starcoder"], shares["wiki"]) == (94.88, 2.48, 0.09)
    assert main(["mix", str(folder), "--recipe", str(recipe), "--profile", "full", "--dry-run", "--out", "x"]) == 0
    shown = capsys.readouterr().out
    assert ": a mixture of 5.13T tokens" in shown
    assert "each epoch of a source in an order of its own, the last 100B tokens in another" in " ".join(shown.split())
    with pytest.raises(MixtureError, match=r"wiki: .* = 6.\d+ repeats, 4 allowed"):
        mix([str(folder)], MixOptions(str(recipe), "full", ["per_source.wiki.tokens=25B"]))


def test_olmoes_mixture_by_the_flags_alone(tmp_path: Path) -> None:
    flags = ["mixture.tokens=5.133T", "reshuffle_last_tokens=100B", "max_repeats=2"]
    found = as_json(mix([str(olmoe(tmp_path / "olmoe"))], MixOptions(assignments=flags)))
    assert found["tokens"] == 5_133_000_000_000
    assert found["mixture"] | {"per_source": {}} == {
        "tokens": 5_133_000_000_000,
        "epochs": None,
        "seed": 0,
        "max_repeats": 2.0,
        "reshuffle_last_tokens": 100_000_000_000,
        "per_source": {},
    }


def test_folders_and_flags_come_in_any_order(folders: Path, capsys: pytest.CaptureFixture) -> None:
    a, b = str(folders / "a"), str(folders / "b")
    keys = ["--set", "epochs=2", "per_source.docs.share=0.2"]
    orders = ([a, b, *keys], [*keys, a, b], [a, *keys, "--json", b], [*keys, a, "--name", "x", b])
    found = []
    for order in orders:
        assert main(["mix", "--json", *order]) == 0
        found.append(json.loads(capsys.readouterr().out)["sources"])
    assert found == [found[0]] * len(orders) and list(found[0]) == ["docs", "code", "news"]
    for wrong, message in (
        (["--set", "epochs=2"], "error: name a finished folder whose sources are mixed: python -m pipeline mix DIR"),
        ([a, "--set", "epochs"], "error: --set epochs: write it as key.path=value"),
        ([a, "--set", "epochs=2", "tokens=5"], "error: mixture: tokens and epochs are both set;"),
    ):
        assert main(["mix", *wrong]) == 2
        assert capsys.readouterr().err.startswith(message)
