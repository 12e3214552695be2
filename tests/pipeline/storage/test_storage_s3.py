import hashlib
import io
import itertools
import logging
import pickle
import random
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from botocore.exceptions import ClientError
from cutting_proxy import running_proxy
from faulty_proxy import KINDS, running_faulty_proxy

from pipeline import storage
from pipeline.storage import s3 as s3_storage
from pipeline.storage import s3_client, s3_errors, s3_objects, s3_upload
from pipeline.storage.backends import remote
from pipeline.storage.digest import Check
from pipeline.storage.stream import ResumingStream

DATA = random.Random(3).randbytes(6_000_000)


def key_of(uri: str) -> str:
    return uri.removeprefix("s3://").partition("/")[2]


@contextmanager
def cut(s3, monkeypatch, after: int, times: int):
    """Goes through a proxy that cuts the next `times` connections after some bytes."""
    with running_proxy(urlsplit(s3.endpoint).port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        proxy.cut_after, proxy.cuts = after, times
        yield proxy
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)


def test_small_objects(s3):
    uri = s3.uri("a", "b c+%41?#.txt")
    storage.write_bytes(uri, b"hello")
    assert storage.read_bytes(uri) == b"hello"
    stat = storage.stat(uri)
    assert (stat.size, stat.version) == (5, hashlib.md5(b"hello").hexdigest())
    assert stat.digest == f"sha256:{hashlib.sha256(b'hello').hexdigest()}"
    with storage.open_stream(uri, offset=1, length=3) as stream:
        assert stream.read() == b"ell"
    storage.write_bytes(s3.uri("empty"), b"")
    assert storage.read_bytes(s3.uri("empty")) == b""
    assert storage.exists(uri) and storage.exists(s3.uri("a")) and storage.exists(s3.uri("a") + "/")
    assert not storage.exists(s3.uri("b")) and not storage.exists(s3.uri("a", "b"))
    storage.delete(uri)
    storage.delete(uri)
    assert not storage.exists(uri)


def put_many(s3, keys: list[str]) -> None:
    """Writes one byte at each key of the open bucket, unsigned: signing a thousand requests takes its time."""
    address = urlsplit(s3.endpoint)
    connection = HTTPConnection(address.hostname, address.port)
    for key in keys:
        connection.request("PUT", f"/{s3.public_bucket}/{key}", body=b"x")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200
    connection.close()


def test_over_a_thousand_keys_are_listed_and_deleted(s3):
    root = f"s3://{s3.public_bucket}/{key_of(s3.root)}"
    uris = [f"{root}/many/{i % 7}/{i:05d}.gz" for i in range(1_037)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: put_many(s3, [key_of(uri) for uri in uris[i::4]]), range(4)))
    s3.client().put_object(Bucket=s3.public_bucket, Key=f"{key_of(root)}/many/", Body=b"")  # the marker of a folder
    found = storage.list_files(f"{root}/many")
    assert [entry.uri for entry in found] == sorted(uris)
    assert found[0].size == 1 and found[0].version == storage.stat(found[0].uri).version
    storage.delete_many([entry.uri for entry in found])
    assert storage.list_files(f"{root}/many") == []


def test_patterns(s3):
    for name in ("x/a.gz", "x/b.txt", "y/a.gz", "y/deep/c.gz", "x.gz", ".tmp-1"):
        storage.write_bytes(s3.uri("p", name), b"1")

    def names(pattern):
        return [entry.uri.removeprefix(s3.uri("p") + "/") for entry in storage.list_files(s3.uri("p") + pattern)]

    assert names("") == names("/") == ["x.gz", "x/a.gz", "x/b.txt", "y/a.gz", "y/deep/c.gz"]
    assert names("/x.gz") == ["x.gz"] and names("/x") == ["x/a.gz", "x/b.txt"] and names("/none") == []
    assert names("/*/*.gz") == ["x/a.gz", "y/a.gz"] and names("/[x]/?.*") == ["x/a.gz", "x/b.txt"]
    assert names("/**/*.gz") == ["x.gz", "x/a.gz", "y/a.gz", "y/deep/c.gz"]
    assert names("/y*/**") == ["y/a.gz", "y/deep/c.gz"]
    storage.delete_tree(s3.uri("p"))
    assert (
        not storage.exists(s3.uri("p"))
        and s3.client().list_objects_v2(Bucket=s3.bucket, Prefix=key_of(s3.uri("p"))).get("KeyCount") == 0
    )


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(s3_upload, "PART_BYTES", 5 << 20)  # the least that S3 allows


def test_multipart_upload_and_parallel_fetch(s3, tmp_path, cache, small_parts):
    data = DATA * 2
    uri = s3.uri("big.bin")
    with storage.open_output(uri, tmp_path) as path:
        assert path.parent == tmp_path and path.name.endswith("big.bin")
        path.write_bytes(data)
    assert list(tmp_path.iterdir()) == []
    stat = storage.stat(uri)
    assert stat.size == len(data) and stat.version.endswith("-3")
    assert stat.digest == f"sha256:{hashlib.sha256(data).hexdigest()}"
    cache.max_bytes, cache.part_bytes = 20_000_000, 1 << 20
    assert storage.fetch(uri, cache).read_bytes() == data
    assert storage.read_bytes(uri) == data
    entry = storage.list_files(uri)[0]
    assert storage.fetch(uri, cache, version=entry.version).read_bytes() == data
    storage.copy_to(uri, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    (tmp_path / "kept").write_bytes(b"1")
    storage.publish(tmp_path / "kept", uri, keep=True)
    assert storage.read_bytes(uri) == b"1" and (tmp_path / "kept").exists()


def multipart(s3, uri: str, sizes: list[int]) -> bytes:
    """An upload by another tool, in parts of those sizes; returns the content."""
    client, place = s3.client(), {"Bucket": s3.bucket, "Key": key_of(uri)}
    place["UploadId"] = client.create_multipart_upload(**place)["UploadId"]
    parts, data = [], b""
    for number, size in enumerate(sizes, 1):
        piece = bytes([number]) * size
        answer = client.upload_part(**place, PartNumber=number, Body=piece)
        parts.append({"PartNumber": number, "ETag": answer["ETag"], "ChecksumCRC32": answer["ChecksumCRC32"]})
        data += piece
    client.complete_multipart_upload(**place, MultipartUpload={"Parts": parts})
    return data


def test_uploads_in_parts_by_other_tools_are_checked(s3, cache, monkeypatch):
    least = 5 << 20
    for name, sizes, kind in (
        ("even", [least, least, 77], f"md5-parts-{least}"),
        ("uneven", [least, least + 1, 5], ""),
    ):
        uri = s3.uri(name)
        data = multipart(s3, uri, sizes)
        cache.max_bytes = 40_000_000
        assert storage.fetch(uri, cache).read_bytes() == data
        known = storage.stat(uri)
        assert known.digest == "" and s3_storage.find_digest(uri, known) == (f"{kind}:{known.version}" if kind else "")
    digest = s3_storage.find_digest(s3.uri("even"), storage.stat(s3.uri("even")))
    monkeypatch.setattr(s3_storage, "find_digest", lambda uri, stat: digest.replace(":", ":0"))
    with pytest.raises(storage.StorageError, match="downloaded twice, and wrong both times: its md5-parts"):
        storage.fetch(s3.uri("even"), storage.Cache(cache.folder.with_name("other"), 40_000_000))


def test_the_checksum_of_parts():
    data = DATA[:1000]
    for size in (1, 7, 250, 999, 1000, 1001):
        parts = [hashlib.md5(data[i : i + size]).digest() for i in range(0, 1000, size)]
        check = Check(f"md5-parts-{size}:{hashlib.md5(b''.join(parts)).hexdigest()}-{len(parts)}", 1000)
        for i in range(0, 1000, 33):
            check.update(data[i : i + 33])
        assert check.mismatch() == ""


def test_a_failed_multipart_upload_is_aborted(s3, tmp_path, small_parts, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(DATA)
    check = s3_upload._check_etag
    monkeypatch.setattr(s3_upload, "_check_etag", lambda uri, answer, md5: check(uri, answer, "0" * 32))
    with pytest.raises(storage.StorageError, match="arrived damaged: its MD5 is"):
        storage.publish(path, s3.uri("x"))
    assert path.exists() and not storage.exists(s3.uri("x"))
    assert not s3.client().list_multipart_uploads(Bucket=s3.bucket).get("Uploads")


def test_leftover_uploads_are_cleared(s3):
    client = s3.client()
    inside, outside = key_of(s3.uri("run", "x")), key_of(s3.uri("other"))
    for key in (inside, outside):
        client.create_multipart_upload(Bucket=s3.bucket, Key=key)
    storage.clear_scratch(s3.uri("run"))
    left = client.list_multipart_uploads(Bucket=s3.bucket)["Uploads"]
    assert [item["Key"] for item in left] == [outside]
    client.abort_multipart_upload(Bucket=s3.bucket, Key=outside, UploadId=left[0]["UploadId"])


def test_broken_connections_are_continued(s3, monkeypatch, cache):
    uri = s3.uri("x")
    s3.client().put_object(Bucket=s3.bucket, Key=key_of(uri), Body=DATA)
    cache.max_bytes, cache.part_bytes = 20_000_000, 1 << 20
    with cut(s3, monkeypatch, 2_000_000, 2) as proxy:
        assert storage.read_bytes(uri) == DATA
        assert proxy.cuts == 0
        proxy.cut_after, proxy.cuts = 300_000, 5
        assert storage.fetch(uri, cache).read_bytes() == DATA
        assert proxy.cuts == 0


def test_a_changed_object_is_an_error_and_no_splice(s3, monkeypatch):
    uri = s3.uri("x")
    storage.write_bytes(uri, DATA)
    with cut(s3, monkeypatch, 2_000_000, 1), storage.open_stream(uri) as stream:
        assert stream.read(1_000_000) == DATA[:1_000_000]
        s3.client().put_object(Bucket=s3.bucket, Key=key_of(uri), Body=DATA[::-1])
        with pytest.raises(storage.ChangedError, match="changed while it was being used; start the run again"):
            stream.read()
    known = storage.Stat(len(DATA), "0" * 32)
    with pytest.raises(storage.ChangedError), storage.open_random(uri, version=known.version) as file:
        file.read(1)


def test_a_damaged_object_is_noticed(s3, cache):
    uri, wrong = s3.uri("x"), hashlib.sha256(b"other").hexdigest()
    s3.client().put_object(Bucket=s3.bucket, Key=key_of(uri), Body=b"12345", Metadata={s3_objects.SHA256: wrong})
    with pytest.raises(storage.StorageError, match="was damaged on its way: its sha256 is"):
        storage.read_bytes(uri)
    with pytest.raises(storage.StorageError, match="downloaded twice"):
        storage.fetch(uri, cache)


def test_parquet_is_read_in_place(s3, tmp_path):
    table = pa.table({"id": range(20_000)})
    with storage.open_output(s3.uri("x.parquet"), tmp_path) as path:
        pq.write_table(table, path, row_group_size=5_000)
    with storage.open_random(s3.uri("x.parquet")) as file:
        assert pq.ParquetFile(file).read_row_group(1).equals(table.slice(5_000, 5_000))
        file.seek(-4, io.SEEK_END)
        assert file.read() == b"PAR1"


def test_missing_things(s3, tmp_path):
    for ask in (storage.stat, storage.read_bytes, storage.open_random):
        with pytest.raises(storage.MissingError, match=f"{s3.uri('none')}: no such object; check bucket and key"):
            ask(s3.uri("none"))
        with pytest.raises(storage.MissingError, match=r"there is no bucket 'no-such-bucket' at http://127\.0\.0\.1:"):
            ask("s3://no-such-bucket/x")
    with pytest.raises(storage.MissingError, match="no bucket 'no-such-bucket'"):
        storage.list_files("s3://no-such-bucket/x/*")
    with pytest.raises(storage.MissingError, match="no bucket 'no-such-bucket'"):
        storage.write_bytes("s3://no-such-bucket/x", b"")
    with pytest.raises(storage.MissingError, match="no such file"):
        storage.publish(tmp_path / "none", s3.uri("x"))
    with pytest.raises(storage.StorageError, match="names no bucket"):
        storage.list_files("s3://")
    with pytest.raises(storage.StorageError, match="write s3://BUCKET/KEY"):
        storage.stat("s3://not a bucket/x")


def errors_of(s3, *asks) -> list[str]:
    texts = []
    for ask in asks:
        with pytest.raises(storage.StorageError) as caught:
            ask()
        assert not isinstance(caught.value, storage.MissingError)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None  # whose text may hold secrets
        texts.append(str(caught.value))
    return texts


def test_wrong_credentials(s3, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    storage.write_bytes(s3.uri("x"), b"1")
    asks = (
        lambda: storage.stat(s3.uri("x")),
        lambda: storage.list_files(s3.uri("")),
        lambda: storage.write_bytes(s3.uri("y"), b"2"),
        lambda: storage.delete_many([s3.uri("x")]),
        lambda: storage.RunLock(s3.root).__enter__(),
    )
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    for text in errors_of(s3, *asks):
        assert "refuses the AWS credentials (SignatureDoesNotMatch); check AWS_PROFILE" in text
        assert s3.key not in text and "not-the-secret" not in text
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")
    for text in errors_of(s3, *asks):
        assert "refuses the AWS credentials (InvalidAccessKeyId)" in text and "AKIANOBODY" not in text
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.reader_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.reader_secret)
    assert storage.read_bytes(s3.uri("x")) == b"1"
    for text in errors_of(s3, *asks[2:]):
        assert "these AWS credentials may not" in text and "ask the bucket's owner" in text
    for secret in (s3.key, s3.secret, s3.reader_key, s3.reader_secret, "not-the-secret", "AKIANOBODY"):
        assert secret not in caplog.text


def test_incomplete_credentials(s3, monkeypatch):
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(storage.StorageError, match="no usable AWS credentials"):
        storage.stat(s3.uri("x"))
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(storage.StorageError, match=r"\(nobody\) could not be found; correct AWS_PROFILE"):
        storage.stat(s3.uri("x"))


def test_public_buckets_without_credentials(s3, monkeypatch):
    s3.client().put_object(Bucket=s3.public_bucket, Key="a/x", Body=b"1")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert storage.read_bytes(f"s3://{s3.public_bucket}/a/x") == b"1"
    assert [e.uri for e in storage.list_files(f"s3://{s3.public_bucket}/a/*")] == [f"s3://{s3.public_bucket}/a/x"]
    for text in errors_of(s3, lambda: storage.stat(s3.uri("x")), lambda: storage.write_bytes(s3.uri("x"), b"")):
        assert "no AWS credentials were found" in text and "set AWS_PROFILE" in text
    denied = ClientError({"Error": {"Code": "AccessDenied"}}, "GetObject")
    told = s3_errors.from_boto_error(denied, "s3://commoncrawl/x", "read", s3_client.client("s3://commoncrawl/x"))
    assert "https://data.commoncrawl.org/" in str(told)


def test_no_server(s3, monkeypatch):
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    for ask in (storage.stat, storage.list_files, storage.read_bytes, lambda uri: storage.write_bytes(uri, b"")):
        with pytest.raises(
            storage.StorageError, match=r"cannot reach http://127.0.0.1:9 \(connection refused\); check"
        ):
            ask(s3.uri("x"))
    with pytest.raises(storage.StorageError, match="connection refused"):
        ResumingStream(remote("s3://b"), s3.uri("x"), storage.Stat(1, "v"), 0, 1).read_some(1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "nonsense")
    with pytest.raises(storage.StorageError, match="correct AWS_ENDPOINT_URL"):
        storage.stat(s3.uri("x"))


def test_one_client_for_all_threads(s3):
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(lambda i: s3_client.client("s3://b"), range(32)))
    assert len({id(client) for client in clients}) == 1


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("ExpiredToken", "have expired"),
        ("RequestTimeTooSkewed", "set the clock"),
        ("PermanentRedirect", "set AWS_REGION"),
        ("InvalidObjectState", "archived"),
        ("QuotaExceeded", "no space left"),
        ("SlowDown", "keeps answering SlowDown; try again later"),
        ("Odd", "answers Odd (because)"),
    ],
)
def test_reasons_of_the_server(code, words):
    error = ClientError({"Error": {"Code": code, "Message": "because"}}, "GetObject")
    text = str(s3_errors.from_boto_error(error, "s3://b/k", "read", None))
    assert text.startswith("s3://b/k: ") and words in text


def test_what_may_pass_is_told_from_what_will_not():
    def kind(code: str, status: int = 400) -> type:
        error = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}, "PutObject")  # type: ignore[arg-type]
        return type(pickle.loads(pickle.dumps(s3_errors.from_boto_error(error, "s3://b/k", "write", None))))

    assert {kind("SlowDown"), kind("IncompleteBody"), kind("Odd", 502), kind("429", 429)} == {storage.TransientError}
    assert {kind("AccessDenied", 403), kind("Odd"), kind("ExpiredToken")} == {storage.StorageError}


def test_a_busy_server_is_left_alone_as_long_as_it_asks(web, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    web.files["bucket/x"] = b"abc"
    web.failures = [(503, {"Retry-After": "2"})]
    began = time.monotonic()
    assert storage.read_bytes("s3://bucket/x") == b"abc"
    assert time.monotonic() - began >= 2  # a lower bound: botocore's own first wait is below one second


@pytest.mark.parametrize("kind", [*KINDS])
def test_each_fault_of_a_server_is_survived(s3, monkeypatch, kind):
    """Every third request meets it: what was written is there, is listed, and is read as it was."""
    count = itertools.count()
    with running_faulty_proxy(urlsplit(s3.endpoint).port, lambda method, path: kind if next(count) % 3 == 0 else None) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        storage.write_bytes(s3.uri("a", "small"), b"hello")
        storage.write_bytes(s3.uri("a", "large"), DATA)
        assert sorted(entry.uri for entry in storage.list_files(s3.uri("a"))) == [s3.uri("a", "large"), s3.uri("a", "small")]
        assert storage.read_bytes(s3.uri("a", "small")) == b"hello"
        with storage.open_stream(s3.uri("a", "large"), 1000) as file:
            assert file.read() == DATA[1000:]
        storage.delete_many([s3.uri("a", "small"), s3.uri("a", "large")])
        assert not list(storage.list_files(s3.uri("a")))
        with storage.RunLock(s3.uri("run")) as lock:  # its first write may be lost, or the answer to it
            lock.check()
    assert proxy.met.total() > 2
