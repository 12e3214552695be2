import hashlib
import random

import pytest
from fake_hub import FakeHub, commit_of, git_hash

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


def test_a_listed_file_costs_one_request_that_the_hub_counts(hub):
    entry = next(e for e in storage.list_files(f"{ROOT}/data/dclm") if e.size == len(LARGE))
    hub.resolved.clear()
    stat = storage.listed(entry.uri, entry.size, entry.witness)
    with storage.open_random(entry.uri, version=entry.witness, stat=stat) as file:
        for place in (290_000, 5, 150_000):  # as a reader of Parquet looks at its end, and then at columns
            file.seek(place)
            assert file.read(100) == LARGE[place : place + 100]
    hub.web.cut_after, hub.web.cuts = 100_000, 2
    with storage.open_stream(entry.uri, version=entry.witness, stat=stat) as file:
        assert file.read() == LARGE
    assert hub.resolved == ["data/dclm/0000.jsonl.gz"]


def test_an_address_that_lapses_is_asked_for_again(hub):
    uri = f"{ROOT}/data/dclm/0000.jsonl.gz"
    stat = storage.stat(uri)
    with storage.open_stream(uri, 0, 10, stat=stat) as file:
        assert file.read() == LARGE[:10]
    hub.web.failures = [(403, {})]
    with storage.open_stream(uri, 10, 10, stat=stat) as file:
        assert file.read() == LARGE[10:20]
    assert len(hub.resolved) == 3 and len(hub.web.failures) == 0


def test_a_budget_of_requests_is_kept_to_and_waited_for(hub):
    files = {f"many/{i:02d}.txt": b"%d" % i for i in range(12)}
    hub.repos["datasets", "org/mix", "main"].update(files)
    entries = storage.list_files(f"{ROOT}/many/")
    hub.budget = 5
    for entry in entries:
        stat = storage.listed(entry.uri, entry.size, entry.witness)
        with storage.open_stream(entry.uri, version=entry.witness, stat=stat) as file:
            assert file.read() == files[entry.uri.removeprefix(f"{ROOT}/")]
    assert hub.resolved == sorted(files) and hub.refused == 0  # the answers told when there was none left


def test_the_commit_of_a_branch_is_told(hub):
    pattern = f"{ROOT}@main/data/*/*.jsonl.gz"
    storage.list_files(pattern)
    assert storage.revisions([pattern, "s3://bucket/x"]) == {f"{ROOT}@main": commit_of("main")}
    assert [e.stat for e in storage.list_files(f"{ROOT}@{commit_of('main')}/data/wiki")] == [
        e.stat for e in storage.list_files(f"{ROOT}/data/wiki")
    ]


def test_without_a_network_the_hubs_own_cache_is_read(hub, monkeypatch, tmp_path):
    from huggingface_hub import constants, snapshot_download

    listed = {entry.uri: entry.stat for entry in storage.list_files(f"{ROOT}/data")}
    place, address = tmp_path / "hub", hub.web.address
    hub.web.address = address.replace("127.0.0.1", "localhost")  # bytes lie on another host, as huggingface_hub expects it
    snapshot_download("org/mix", repo_type="dataset", cache_dir=place, endpoint=address, allow_patterns="data/*")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(place))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.web.hits.clear()
    assert {entry.uri: entry.stat for entry in storage.list_files(f"{ROOT}/data")} == listed
    assert [e.uri for e in storage.list_files(f"{ROOT}/data/*/note.txt")] == [f"{ROOT}/data/wiki/note.txt"]
    uri = f"{ROOT}/data/dclm/0000.jsonl.gz"
    with storage.open_stream(uri, 1000, 50, version=listed[uri].version) as file:
        assert file.read() == LARGE[1000:1050]
    with pytest.raises(storage.MissingError, match="HF_HUB_OFFLINE is set, and the hub's cache does not hold this file"):
        storage.stat(f"{ROOT}/README.md")
    with pytest.raises(storage.MissingError, match="does not hold org/other at revision main; unset it, or run `hf download`"):
        storage.list_files("hf://datasets/org/other/*")
    assert hub.web.hits == []
