"""Shards and manifests: written the same every time, read back whole, refused with a reason when damaged."""

import gzip
import hashlib
import json

import numpy as np
import pytest

from stages.tokens import shard_format as sf
from stages.tokens.manifest import build_manifest, source_entry

ROWS = [(0, 3, "a", "x.jsonl", 1), (3, 4, 'with "quotes", commas\nand a new line', "ü.warc.gz", 7), (4, 9, "c", "", 2)]


def test_dtype_follows_the_vocabulary():
    assert sf.token_dtype(8192) == sf.token_dtype(65_536) == np.dtype("<u2")
    assert sf.token_dtype(65_537) == np.dtype("<u4")
    with pytest.raises(sf.ShardError):
        sf.token_dtype(0)


def test_tokens_are_raw_and_read_back(tmp_path):
    chunks = [np.arange(5, dtype=np.uint16), np.zeros(0, np.uint16), np.array([65_535], np.uint16)]
    count, digest = sf.write_tokens(tmp_path / "s" / "0.npy", chunks, np.dtype(np.uint16))
    raw = (tmp_path / "s" / "0.npy").read_bytes()
    assert count == 6 and len(raw) == 12  # no header
    assert digest == hashlib.sha256(raw).hexdigest() == sf.sha256_file(tmp_path / "s" / "0.npy")
    tokens = sf.open_tokens(tmp_path / "s" / "0.npy", "uint16", 6)
    assert tokens.tolist() == [0, 1, 2, 3, 4, 65_535] and not tokens.flags.writeable
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["0.npy"]


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(sf.ShardError, match="uint32"):
        sf.write_tokens(tmp_path / "0.npy", [np.zeros(3, np.uint32)], np.dtype(np.uint16))
    assert list(tmp_path.iterdir()) == []


def test_damaged_token_files_are_refused(tmp_path):
    with pytest.raises(sf.ShardError, match="missing"):
        sf.open_tokens(tmp_path / "none.npy", "uint16")
    np.save(tmp_path / "headed.npy", np.zeros(4, np.uint16))
    with pytest.raises(sf.ShardError, match="numpy header"):
        sf.open_tokens(tmp_path / "headed.npy", "uint16")
    (tmp_path / "odd.npy").write_bytes(b"abc")
    with pytest.raises(sf.ShardError, match="cut off"):
        sf.open_tokens(tmp_path / "odd.npy", "uint16")
    (tmp_path / "short.npy").write_bytes(b"abcd")
    with pytest.raises(sf.ShardError, match="holds 2 uint16 tokens, 3 were expected"):
        sf.open_tokens(tmp_path / "short.npy", "uint16", 3)
    (tmp_path / "empty.npy").write_bytes(b"")
    assert len(sf.open_tokens(tmp_path / "empty.npy", "uint32", 0)) == 0


def test_index_round_trip_and_same_bytes(tmp_path):
    assert sf.write_index(tmp_path / "a.csv.gz", ROWS) == 3
    sf.write_index(tmp_path / "b.csv.gz", iter(ROWS))
    assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "b.csv.gz").read_bytes()
    assert [tuple(row) for row in sf.read_index(tmp_path / "a.csv.gz")] == ROWS
    assert gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).startswith(b"0,3,a,x.jsonl,1\n")


def test_index_of_two_columns_and_damage(tmp_path):
    (tmp_path / "two.csv.gz").write_bytes(gzip.compress(b"0,4\n4,9\n"))
    assert [row[:2] for row in sf.read_index(tmp_path / "two.csv.gz")] == [(0, 4), (4, 9)]
    (tmp_path / "bad.csv.gz").write_bytes(gzip.compress(b"0,4\n4,9,x\n"))
    with pytest.raises(sf.ShardError, match="row 2"):
        list(sf.read_index(tmp_path / "bad.csv.gz"))
    whole = gzip.compress(b"0,4\n" * 1000)
    (tmp_path / "cut.csv.gz").write_bytes(whole[:-6])
    with pytest.raises(sf.ShardError, match="damaged"):
        list(sf.read_index(tmp_path / "cut.csv.gz"))
    with pytest.raises(sf.ShardError, match="missing"):
        list(sf.read_index(tmp_path / "none.csv.gz"))


def manifest(**changes):
    shard = {"tokens": 10, "documents": 2, "text_bytes": 40, "sha256": "0" * 64}
    facts = {
        "name": "mix",
        "profile": "sample",
        "recipe_hash": "abc",
        "seed": 0,
        "tokenizer_sha256": "1" * 64,
        "vocab_size": 300,
        "eos_id": 0,
        "pad_id": 1,
        "sources": {"web": source_entry("web", [shard, shard], [shard], 15, 4.0)},
        "mixture_tokens": 15,
        "mixture_seed": 3,
    }
    return build_manifest(**(facts | changes))


def test_manifest_round_trip(tmp_path):
    built = manifest()
    sf.write_bytes(tmp_path / sf.MANIFEST, sf.manifest_bytes(built))
    assert sf.load_manifest(tmp_path) == built
    web = built["sources"]["web"]
    assert web["tokens"] == 20 and web["held_out"]["documents"] == 2 and built["dtype"] == "uint16"
    assert [shard["path"] for shard in web["shards"]] == ["tokens/web/00000.npy", "tokens/web/00001.npy"]
    assert web["held_out"]["shards"][0]["index"] == "tokens/web/held_out-00000.csv.gz"
    assert sf.manifest_bytes(manifest()) == sf.manifest_bytes(built)
    assert manifest(mixture_seed=4)["fingerprint"] != built["fingerprint"]
    renamed = manifest(name="other", profile="full", recipe_hash="def", seed=1)
    assert renamed["fingerprint"] == built["fingerprint"]  # the same tokens in the same order


def test_a_manifest_whose_fingerprint_covers_the_recipe_too_is_read(tmp_path):
    former = manifest()
    facts = {key: value for key, value in former.items() if key not in ("fingerprint", "made_by", "held_out")}
    former["fingerprint"] = hashlib.sha256(sf.canonical_json(facts)).hexdigest()
    sf.write_bytes(tmp_path / sf.MANIFEST, sf.manifest_bytes(former))
    assert sf.load_manifest(tmp_path) == former


def test_facts_that_do_not_fit_are_refused():
    with pytest.raises(sf.ShardError, match="sum up to 15 tokens, the mixture says 16"):
        manifest(mixture_tokens=16)
    with pytest.raises(sf.ShardError, match="relative"):
        manifest(tokenizer_path="/home/me/tokenizer.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(version=2), "version 2"),
        (lambda m: m.update(format="other"), "no headrace manifest"),
        (lambda m: m["sources"]["web"]["shards"][1].pop("tokens"), r"sources.web.shards\[1\]: the key 'tokens'"),
        (lambda m: m["sources"]["web"].update(budget_tokens="15"), "sources.web.budget_tokens: must be int, not '15'"),
        (lambda m: m["sources"]["web"].update(budget_tokens=-1), "must not be negative"),
        (lambda m: m["sources"].update(code=m["sources"]["web"]), "mixture.sources"),
        (lambda m: m.update(dtype="int64"), "dtype"),
        (lambda m: m["mixture"].update(seed=1), "was changed"),
    ],
)
def test_damaged_manifests_are_refused_with_the_key(tmp_path, change, message):
    damaged = json.loads(sf.manifest_bytes(manifest()))
    change(damaged)
    (tmp_path / sf.MANIFEST).write_text(json.dumps(damaged))
    with pytest.raises(sf.ShardError, match=message):
        sf.load_manifest(tmp_path)


def test_missing_manifest_says_what_is_missing(tmp_path):
    with pytest.raises(sf.ShardError, match="has not finished: start the same `python -m pipeline run` again"):
        sf.load_manifest(tmp_path)
    with pytest.raises(sf.ShardError, match="no such folder: name a finished run, or make one with"):
        sf.load_manifest(tmp_path / "none")
    for there, message in (("import.json", "python -m pipeline import"), ("export.json", "an export for other tools")):
        (tmp_path / there).mkdir()
        (tmp_path / there / there).write_text("{}")
        with pytest.raises(sf.ShardError, match=message):
            sf.load_manifest(tmp_path / there)
    (tmp_path / sf.MANIFEST).write_text("{")
    with pytest.raises(sf.ShardError, match="not JSON"):
        sf.load_manifest(tmp_path)


def test_ids_of_any_length_are_read_back(tmp_path):
    documents = [(0, 2, "i" * 200_000, "a.jsonl", 1), (2, 5, 'a,"b"\n\r', "a.jsonl", 2)]
    sf.write_index(tmp_path / "0.csv.gz", documents)
    assert [tuple(document) for document in sf.read_index(tmp_path / "0.csv.gz")] == documents
