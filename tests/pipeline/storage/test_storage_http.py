import base64
import hashlib
import io
import random
import time
from email.utils import formatdate

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.storage import http, retry, stream

DATA = random.Random(0).randbytes(3_000_000)


def test_stat_and_reads(web):
    web.files["a/b.gz"] = DATA
    uri = web.url("a/b.gz")
    assert storage.stat(uri).size == len(DATA) and storage.stat(uri).version == hashlib.sha1(DATA).hexdigest()[:16]
    assert storage.read_bytes(uri) == DATA
    with storage.open_stream(uri, offset=1_000, length=2_000_000) as file:
        assert file.read() == DATA[1_000:2_001_000]
    assert storage.exists(uri) and not storage.exists(web.url("none"))
    assert [e.uri for e in storage.list_files(uri)] == [uri] and storage.list_files(web.url("none")) == []
    assert all(hit.headers["Accept-Encoding"] == "identity" for hit in web.hits)


def test_redirects_are_followed(web):
    web.files["real"] = b"abc"
    web.redirects["moved"] = web.url("real")
    assert storage.read_bytes(web.url("moved")) == b"abc"


@pytest.mark.parametrize("change", [{"head": False}, {"ranges": False}, {"etags": False}])
def test_lesser_servers(web, change):
    vars(web).update(change)
    web.files["x"] = DATA
    assert storage.read_bytes(web.url("x")) == DATA
    with storage.open_stream(web.url("x"), offset=2_000_000, length=5) as file:
        assert file.read() == DATA[2_000_000:2_000_005]


def test_a_stream_goes_on_where_its_connection_broke(web):
    web.files["x"] = DATA
    web.cut_after = 700_000
    assert storage.read_bytes(web.url("x")) == DATA
    starts = [asked[0] for asked in web.ranges_asked("x")]
    assert len(starts) > 4 and starts == sorted(starts) and starts[-1] > 2_000_000
    assert web.hits[-1].headers["If-Range"] == f'"{hashlib.sha1(DATA).hexdigest()[:16]}"'


def test_a_stream_goes_on_where_the_server_knows_no_ranges(web):
    web.files["x"] = DATA
    web.ranges, web.cut_after, web.cuts = False, 1_500_000, 2
    assert storage.read_bytes(web.url("x")) == DATA


def test_a_changed_file_is_an_error_and_no_splice(web):
    web.files["x"] = DATA
    web.cut_after, web.cuts = 1_000_000, 1
    with storage.open_stream(web.url("x")) as file:
        assert file.read(500_000) == DATA[:500_000]
        web.files["x"] = DATA[::-1]
        with pytest.raises(storage.ChangedError, match="changed while it was being read"):
            file.read()
    known = storage.stat(web.url("x"))
    web.files["x"] = DATA
    with pytest.raises(storage.ChangedError), storage.open_stream(web.url("x"), version=known.version) as file:
        file.read(1)


def test_a_transfer_that_never_goes_on_is_given_up(web):
    web.files["x"] = DATA
    web.cut_after = 0
    with pytest.raises(storage.StorageError, match=r"the connection was closed early|the connection broke"):
        storage.read_bytes(web.url("x"))
    web.cut_after = 1_000_000
    web.before_body = lambda hit: setattr(web, "cut_after", 0) if hit.range and hit.range[0] else None
    with pytest.raises(
        storage.StorageError, match=r"broke off at byte 9\d\d,\d{3} of 3,000,000|broke off at byte 1,000,"
    ):
        storage.read_bytes(web.url("x"))
    assert len(web.ranges_asked("x")) >= retry.PATIENCE


def test_busy_servers_are_asked_again_and_may_say_when(web):
    web.files["x"] = b"abc"
    web.failures = [(429, {"Retry-After": "0.2"}), (503, {}), (500, {})]
    began = time.monotonic()
    assert storage.read_bytes(web.url("x")) == b"abc"
    assert time.monotonic() - began >= 0.2  # a lower bound: the server asked for it
    web.failures = [(503, {})] * 50
    with pytest.raises(storage.TransientError, match="the server answers 503 Service Unavailable; try again later"):
        storage.stat(web.url("x"))


def test_a_server_that_says_when_is_asked_more_often_than_one_that_does_not(web):
    """A rate limit that others use up too may be met many times in a row, and nothing is wrong with that."""
    web.files["x"] = b"abc"
    web.failures = [(429, {"RateLimit": '"resolvers";r=0;t=0.05'})] * (3 * retry.OPEN_ATTEMPTS)
    assert storage.read_bytes(web.url("x")) == b"abc"
    assert len(web.hits) > 3 * retry.OPEN_ATTEMPTS


def test_what_an_answer_asks_for():
    asked = retry.asked_to_wait
    assert asked({"Retry-After": "7"}) == 7 and asked({}) == 0 and asked({"Retry-After": "soon"}) == 0
    assert 50 < asked({"Retry-After": formatdate(time.time() + 60, usegmt=True)}) <= 60
    assert asked({"Retry-After": "86400"}) == retry.LONGEST_ASKED
    assert asked({"Retry-After": "-3", "RateLimit": '"resolvers";r=0;t=57'}) == 57
    assert asked({"RateLimit": '"api";r=12;t=200, "resolvers";r=0;t=57'}) == 57
    assert asked({"RateLimit": '"api";r=12;t=200'}) == 0 and asked({"RateLimit": "nonsense;r=0"}) == 0


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (404, storage.MissingError, "no such file on the server"),
        (403, storage.StorageError, "the server refuses access"),
        (418, storage.StorageError, "answers 418"),
    ],
)
def test_refusals_show_no_query(web, status, kind, words):
    web.failures = [(status, {})] * 2
    with pytest.raises(kind, match=words) as caught:
        storage.stat(web.url("x.gz?X-Amz-Signature=topsecret"))
    assert "topsecret" not in str(caught.value) and web.url("x.gz") in str(caught.value)


def test_no_server(monkeypatch):
    with pytest.raises(
        storage.StorageError, match=r"cannot reach the server \(connection refused\); check the address"
    ):
        storage.stat("http://127.0.0.1:9/x?sig=topsecret")
    with pytest.raises(storage.StorageError, match="check the address"):
        storage.stat("http:///x")


def test_stated_checksums_are_checked(web):
    web.files["x"] = DATA
    digest = base64.b64encode(hashlib.md5(DATA).digest()).decode()
    web.headers["x"] = {"Content-MD5": digest}
    assert storage.read_bytes(web.url("x")) == DATA
    web.headers["x"] = {"Repr-Digest": f"sha-256=:{base64.b64encode(bytes(32)).decode()}:"}
    with pytest.raises(storage.StorageError, match="was damaged on its way: its sha256 is"):
        storage.read_bytes(web.url("x"))


def test_a_size_must_be_told(web):
    web.files["x"] = b"abc"
    web.lengths = web.ranges = False
    with pytest.raises(storage.StorageError, match="does not tell the file's size"):
        storage.stat(web.url("x"))


def test_encoded_answers_are_refused_unless_it_is_the_file_itself(web):
    web.files["x.jsonl"] = web.files["x.jsonl.gz"] = b"abc"
    web.headers["x.jsonl"] = web.headers["x.jsonl.gz"] = {"Content-Encoding": "gzip"}
    with pytest.raises(storage.StorageError, match="sends it encoded"):
        storage.read_bytes(web.url("x.jsonl"))
    assert storage.read_bytes(web.url("x.jsonl.gz")) == b"abc"


def test_patterns_are_refused():
    with pytest.raises(storage.StorageError, match="cannot be listed"):
        storage.list_files("https://127.0.0.1/*.gz")


def test_random_reads_ask_for_little_and_keep_it(web):
    web.files["x"] = DATA
    with storage.open_random(web.url("x")) as file:
        file.seek(-100, io.SEEK_END)
        assert file.read() == DATA[-100:]
        for place in (10, 5_000, 0, 2_000_000, 2_900_000):
            file.seek(place)
            assert file.read(1000) == DATA[place : place + 1000]
        assert file.tell() == 2_901_000 and len(web.ranges_asked("x")) == 5
        file.seek(0)
        assert file.read() == DATA
        assert file.read() == b""


def test_parquet_is_read_in_place(web, tmp_path):
    table = pa.table({"id": range(200_000), "text": [f"text {i}" for i in range(200_000)]})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=50_000)
    web.files["x.parquet"] = (tmp_path / "x.parquet").read_bytes()
    with storage.open_random(web.url("x.parquet")) as file:
        parquet = pq.ParquetFile(file)
        assert parquet.read_row_group(2).equals(table.slice(100_000, 50_000))
        assert parquet.read().equals(table)
    with storage.open_random(web.url("x.parquet")) as file:
        pq.ParquetFile(file).read_row_group(1, columns=["id"])
    asked = web.ranges_asked("x.parquet")
    assert sum(b - a for a, b in asked[-2:]) < len(web.files["x.parquet"]) / 2


def test_buffers_stay_small():
    assert stream.BUFFER <= 1 << 20 and http.TIMEOUT[0] <= 10


def test_what_tells_a_version(web):
    """A strong ETag, whatever stands in it; else a weak one or a date, with the size; else the size alone."""
    web.files["x"] = DATA[:1000]

    def version(**headers):
        web.etags, web.headers["x"] = False, {name.replace("_", "-"): value for name, value in headers.items()}
        return storage.stat(web.url("x")).version

    assert version(ETag='"a/b=="') == "a/b=="
    assert version(ETag='W/"1"') == 'weak:"1", 1000' and version(ETag='W/"2"') != version(ETag='W/"1"')
    date = "Sat, 01 Aug 2026 10:00:00 GMT"
    assert version(ETag='"1"', Last_Modified=date) == "1"
    assert version(Last_Modified=date) == f"modified:{date}, 1000"
    assert not storage.is_size_only(version(Last_Modified=date)) and storage.is_size_only(version())
    web.hits.clear()
    web.headers["x"] = {"ETag": '"a/b=="'}
    with storage.open_stream(web.url("x"), version="a/b==") as file:
        assert file.read() == DATA[:1000]
    assert [hit.headers.get("If-Range") for hit in web.hits if hit.method == "GET"] == ['"a/b=="']


@pytest.mark.parametrize("kind", ["stream", "random"])
def test_a_file_that_is_written_over_while_it_is_sent(web, kind):
    """The headers, and so the range, are of the old version; only asking again at the end tells."""
    web.files["x"] = DATA
    known = storage.stat(web.url("x")).version
    opened = storage.open_stream if kind == "stream" else storage.open_random
    with opened(web.url("x"), version=known) as file:
        assert file.read() == DATA
    web.before_body = lambda hit: web.files.update(x=DATA[::-1])
    with (
        pytest.raises(storage.ChangedError, match="changed while it was being read"),
        opened(web.url("x"), version=known) as file,
    ):
        file.read()


def test_a_listed_file_in_the_cache_needs_no_request_and_another_is_refused(web, cache):
    web.files["x"] = DATA[:1000]
    known = storage.stat(web.url("x")).version
    with storage.pinned(web.url("x"), cache, version=known) as path:
        assert path.read_bytes() == DATA[:1000]
    web.files["x"] = DATA[1000:2000]
    hits = len(web.hits)
    with storage.pinned(web.url("x"), cache, version=known) as path:
        assert path.read_bytes() == DATA[:1000] and len(web.hits) == hits
    with pytest.raises(storage.ChangedError, match="changed since it was listed"):
        storage.fetch(web.url("x"), cache, version="another")
