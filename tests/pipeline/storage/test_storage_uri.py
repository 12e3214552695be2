from pathlib import Path

import pytest

from pipeline import storage
from pipeline.storage.errors import from_os_error, redact, shown
from stages.errors import UserError


@pytest.mark.parametrize(
    ("uri", "names", "joined"),
    [
        ("runs/a", ["x"], "runs/a/x"),
        ("runs/a/", ["x/y", "z"], "runs/a/x/y/z"),
        ("s3://b", ["k"], "s3://b/k"),
        ("s3://b/p?q/", ["k#1"], "s3://b/p?q/k#1"),
        ("hf://datasets/o/n@main", ["a b.txt"], "hf://datasets/o/n@main/a b.txt"),
        ("https://h/p?token=1", ["x"], "https://h/p/x?token=1"),
        ("runs/a", [""], "runs/a/"),
        ("runs/a/", [""], "runs/a/"),
    ],
)
def test_join(uri, names, joined):
    assert storage.join(uri, *names) == joined


@pytest.mark.parametrize("name", ["/etc/passwd", "../x", "a/../../x"])
def test_join_refuses_names_that_climb_out(name):
    with pytest.raises(ValueError, match="not a name"):
        storage.join("runs/a", name)


def test_local_paths():
    assert storage.local_path("file:///tmp/a%20b") == Path("/tmp/a b")
    assert storage.local_path("~/x") == Path.home() / "x"
    assert storage.is_local("a/b") and storage.is_local(Path("a")) and not storage.is_local("s3://b/k")
    with pytest.raises(storage.StorageError, match="write file:///PATH"):
        storage.local_path("file://server/share")
    with pytest.raises(storage.StorageError, match="an empty path"):
        storage.local_path("")


def test_unknown_schemes_name_the_known_ones():
    with pytest.raises(storage.StorageError, match="unknown kind of storage 'ftp'; use a local path, s3://, gs://, az://"):
        storage.stat("ftp://host/key")
    with pytest.raises(storage.StorageError, match="write s3://b/k"):
        storage.stat("s3a://b/k")


def test_names():
    assert storage.name_of("https://h/a/b.gz?x=/y#z") == "b.gz"
    assert storage.name_of("s3://b/a/c?d") == "c?d"
    assert storage.name_of("/a/b/") == "b"


def test_secrets_are_removed():
    signed = "https://me:pw@host/f.gz?X-Amz-Signature=abc&X-Amz-Credential=AKIA"
    assert shown(signed) == "https://host/f.gz"
    text = redact(f"Max retries with url: /f.gz?X-Amz-Signature=abc (Authorization: Bearer hf_secret) {signed}")
    for secret in ("abc", "AKIA", "hf_secret", "pw"):
        assert secret not in text
    assert shown("s3://b/what?") == "s3://b/what?"


def test_storage_errors_are_for_users_and_travel_between_processes():
    import pickle

    error = pickle.loads(pickle.dumps(storage.MissingError("x: no such file")))
    assert isinstance(error, UserError) and str(error) == "x: no such file"


def test_a_full_disk_names_path_need_and_free_bytes(tmp_path):
    text = str(from_os_error(OSError(28, "No space left on device"), tmp_path / "a" / "b", "write", needed=1234))
    assert str(tmp_path / "a" / "b") in text and "1,234 bytes needed" in text and " bytes free;" in text
