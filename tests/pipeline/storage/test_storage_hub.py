import hashlib
import random

import pytest
from fake_hub import FakeHub, git_hash

from pipeline import storage
from pipeline.storage import hub as hub_storage

LARGE = random.Random(1).randbytes(300_000)
FILES = {
    ".gitattributes": b"*",
    "README.md": b"# Mix",
    "data/dclm/0000.jsonl.gz": LARGE,
    "data/dclm/0001.jsonl.gz": b"small",
    "data/wiki/0000.jsonl.gz": b"wiki",
    "data/wiki/note.txt": b"n",
}
ROOT = "hf://datasets/org/mix"


@pytest.fixture
def hub(web, monkeypatch, tmp_path):
    hub = FakeHub(
        web, {("datasets", "org/mix", "main"): dict(FILES), ("models", "org/model", "v1"): {"tokenizer.json": b"{}"}}
    )
    hub.repos["datasets", "org/mix", "refs/convert/parquet"] = {"x.parquet": b"PAR1"}
    monkeypatch.setenv("HF_ENDPOINT", web.address)
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    return hub


def test_listing(hub):
    names = [entry.uri for entry in storage.list_files(ROOT)]
    assert names == [f"{ROOT}/{path}" for path in sorted(FILES) if not path.startswith(".")]
    assert [e.uri for e in storage.list_files(f"{ROOT}/data/wiki")] == [
        f"{ROOT}/data/wiki/{n}" for n in ("0000.jsonl.gz", "note.txt")
    ]
    globbed = storage.list_files(f"{ROOT}@main/data/*/*.jsonl.gz")
    assert [e.uri for e in globbed] == [f"{ROOT}@main/{path}" for path in sorted(FILES) if path.endswith("gz")]
    assert [e.uri for e in storage.list_files(f"{ROOT}/**/note.txt")] == [f"{ROOT}/data/wiki/note.txt"]
    assert storage.list_files(f"{ROOT}/none") == [] and storage.list_files(f"{ROOT}/none/*") == []


def test_listing_and_stat_agree(hub):
    for entry in storage.list_files(f"{ROOT}/data"):
        assert entry.stat == storage.stat(entry.uri)
    assert storage.stat(f"{ROOT}/data/dclm/0000.jsonl.gz").digest == f"sha256:{hashlib.sha256(LARGE).hexdigest()}"
    assert storage.stat(f"{ROOT}/README.md").digest == f"git-sha1:{git_hash(b'# Mix')}"
    assert storage.exists(f"{ROOT}/data") and storage.exists(f"{ROOT}/README.md") and not storage.exists(f"{ROOT}/x")


def test_reading_goes_through_the_redirect_and_survives_cuts(hub, cache):
    uri = f"{ROOT}/data/dclm/0000.jsonl.gz"
    hub.web.cut_after, hub.web.cuts = 100_000, 2
    assert storage.read_bytes(uri) == LARGE
    assert storage.fetch(uri, cache).read_bytes() == LARGE
    assert storage.read_bytes(f"{ROOT}/README.md") == b"# Mix"
    assert storage.read_bytes("hf://org/model@v1/tokenizer.json") == b"{}"
    assert storage.read_bytes(f"{ROOT}@refs/convert/parquet/x.parquet") == b"PAR1"


def test_a_damaged_small_file_is_noticed(hub):
    known = storage.stat(f"{ROOT}/README.md")
    hub.repos["datasets", "org/mix", "main"]["README.md"] = b"# Mux"
    with (
        pytest.raises(storage.ChangedError, match="name a revision"),
        storage.open_stream(f"{ROOT}/README.md", version=known.version) as file,
    ):
        file.read()


def test_the_token_goes_to_the_hub_only(hub, monkeypatch):
    hub.token = "hf_topsecret"
    with pytest.raises(
        storage.StorageError, match=r"there is no dataset org/mix that this user may see; .*set HF_TOKEN"
    ):
        storage.stat(f"{ROOT}/README.md")
    with pytest.raises(storage.StorageError, match="HF_TOKEN"):
        storage.list_files(ROOT)
    monkeypatch.setenv("HF_TOKEN", "hf_topsecret")
    # The bytes lie on another host ("localhost"), which must not be told the token.
    address = hub.web.address
    hub.web.address = address.replace("127.0.0.1", "localhost")
    assert storage.read_bytes(f"{ROOT}/data/dclm/0000.jsonl.gz") == LARGE
    hub.web.address = address
    assert len(storage.list_files(ROOT)) == 5
    stored = [hit for hit in hub.web.hits if hit.path.startswith("/cdn/")]
    assert stored and not any("Authorization" in hit.headers for hit in stored)


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("hf://datasets/org/none/x", "there is no dataset org/none"),
        ("hf://datasets/org/mix@old/x", "has no revision 'old'"),
        ("hf://datasets/org/mix/x", "no such file in org/mix at revision main"),
        ("hf://datasets/org", "write hf://datasets/ORG/NAME"),
        ("hf://datasets/org/mix", "names a folder"),
    ],
)
def test_errors(hub, uri, words):
    with pytest.raises(storage.StorageError, match=words):
        storage.stat(uri)


def test_a_gated_or_silent_hub(hub, monkeypatch):
    hub.web.failures = [(403, {"X-Error-Code": "GatedRepo"})]
    with pytest.raises(storage.StorageError, match="is gated; ask for access"):
        storage.stat(f"{ROOT}/README.md")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    for ask in (storage.stat, storage.list_files):
        with pytest.raises(storage.StorageError, match="connection refused"):
            ask(f"{ROOT}/README.md")


def test_parse():
    place = hub_storage.parse("hf://datasets/o/n@refs%2Fpr%2F1/a/b")
    assert place[:4] == ("dataset", "o/n", "refs/pr/1", "a/b") and place.root == "hf://datasets/o/n@refs%2Fpr%2F1/"
    assert hub_storage.parse("hf://o/n").path == "" and hub_storage.parse("hf://o/n").kind == "model"
