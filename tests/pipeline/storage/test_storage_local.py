import errno
import os
from pathlib import Path

import pytest

from pipeline import storage
from pipeline.storage import local, version


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in (
        "a.txt",
        "b.gz",
        "sub/c.txt",
        "sub/deep/d.txt",
        ".hidden",
        ".git/e.txt",
        "sub/.tmp-1-x.txt",
        "odd[1].txt",
        "_SUCCESS",
        "_temporary/0/f.txt",
        "sub/_metadata",
        "sub/c.txt.crc",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (".", ["./a.txt", "./b.gz", "./odd[1].txt", "./sub/c.txt", "./sub/deep/d.txt"]),
        ("./sub/", ["./sub/c.txt", "./sub/deep/d.txt"]),
        ("a.txt", ["a.txt"]),
        ("*.txt", ["a.txt", "odd[1].txt"]),
        ("[ab].*", ["a.txt", "b.gz"]),
        ("?.gz", ["b.gz"]),
        ("*/*.txt", ["sub/c.txt"]),
        ("**/*.txt", ["a.txt", "odd[1].txt", "sub/c.txt", "sub/deep/d.txt"]),
        ("sub/**", ["sub/c.txt", "sub/deep/d.txt"]),
        ("**/deep/*", ["sub/deep/d.txt"]),
        ("s*/", ["sub/c.txt", "sub/deep/d.txt"]),
        ("odd[1].txt", ["odd[1].txt"]),
        ("odd[[]*", ["odd[1].txt"]),
        (".git/*", [".git/e.txt"]),
        (".h*", [".hidden"]),
        ("_*", ["_SUCCESS"]),
        ("_SUCCESS", ["_SUCCESS"]),
        ("_temporary", ["_temporary/0/f.txt"]),
        ("_temp*/**/*.txt", ["_temporary/0/f.txt"]),
        ("**/_temporary/*/*.txt", ["_temporary/0/f.txt"]),
        ("*/*.crc", ["sub/c.txt.crc"]),
        ("sub/_meta*", ["sub/_metadata"]),
        ("{a,b}.*", ["a.txt", "b.gz"]),
        ("{a.txt,sub/{c,deep/d}.txt}", ["a.txt", "sub/c.txt", "sub/deep/d.txt"]),
        ("{*.txt,a.txt}", ["a.txt", "odd[1].txt"]),
        ("{missing,gone}.txt", []),
        ("{a}.txt", []),
        ("missing", []),
        ("missing/*", []),
        ("a.txt/x", []),
    ],
)
def test_list_files(tree, pattern, names):
    found = storage.list_files(pattern)
    assert [entry.uri for entry in found] == names
    for entry in found:
        assert entry.stat == storage.stat(entry.uri)


def test_an_alternative_that_is_missing_is_told(tree):
    with pytest.raises(storage.StorageError, match=r"\{a,z\}\.txt: nothing found at z\.txt, one of the names"):
        storage.list_files("{a,z}.txt")
    (tree / "{a,b}.txt").write_text("x")
    assert [entry.uri for entry in storage.list_files("{a,b}.txt")] == ["{a,b}.txt"]
    with pytest.raises(storage.StorageError, match="more than 10,000 names"):
        storage.list_files("{1,2,3,4,5,6,7,8,9,0}" * 5)


def test_a_name_that_is_no_utf8_is_read_by_its_address(tree):
    odd = os.fsencode(tree) + b"/sub/caf\xe9 1.txt"
    with open(odd, "wb") as file:  # noqa: PTH123
        file.write(b"x")
    address = f"{tree.as_uri()}/sub/caf%E9%201.txt"
    for pattern in ("sub", "sub/*.txt", "**/caf*", f"{tree.as_uri()}/sub", address):
        assert address in [entry.uri for entry in storage.list_files(pattern)]
    assert storage.read_bytes(address) == b"x"
    assert storage.stat(address).size == 1


def test_list_files_by_file_uri_and_absolute_path(tree):
    (tree / "sub" / "with space").write_text("x")
    base = tree.as_uri()
    assert [e.uri for e in storage.list_files(f"{base}/sub")] == [
        f"{base}/sub/c.txt",
        f"{base}/sub/deep/d.txt",
        f"{base}/sub/with%20space",
    ]
    assert storage.read_bytes(f"{base}/sub/with%20space") == b"x"
    assert [e.uri for e in storage.list_files(f"{base}/s*/*.txt")] == [f"{tree}/sub/c.txt"]
    assert [e.uri for e in storage.list_files(f"{tree}/s*/*.txt")] == [f"{tree}/sub/c.txt"]
    assert storage.exists(tree) and storage.exists(f"{tree}/a.txt") and not storage.exists(f"{tree}/zz")


def test_listing_ends_where_links_go_round(tree):
    (tree / "sub" / "up").symlink_to(tree)
    assert len(storage.list_files(tree)) == 5


@pytest.mark.parametrize("pattern", [".", "sub/*.txt", "**/*.txt", "sub/lost.txt"])
@pytest.mark.parametrize("kind", ["link", "circle", "pipe"])
def test_what_is_listed_like_a_file_and_is_none_is_told(tree, kind, pattern):
    """A link to nothing is a file that is missing, and a pipe would be waited for without end."""
    lost = tree / "sub" / "lost.txt"
    if kind == "pipe":
        os.mkfifo(lost)
    else:
        lost.symlink_to("lost.txt" if kind == "circle" else "nowhere")
    if pattern == "sub/lost.txt" and kind == "link":
        assert storage.list_files(pattern) == []  # as of any name that is not there
        return
    with pytest.raises(storage.StorageError, match=r"lost\.txt"):
        storage.list_files(pattern)
    assert [entry.uri for entry in storage.list_files("*.txt")] == ["a.txt", "odd[1].txt"]


def test_the_version_changes_with_the_content(tree):
    before = storage.stat("a.txt")
    storage.write_bytes("a.txt", b"other")
    assert storage.stat("a.txt") != before and storage.stat("a.txt").size == 5
    with pytest.raises(storage.ChangedError, match="changed since it was listed"):
        storage.open_stream("a.txt", version=before.version)


def test_streams_and_random_reads(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(range(256)) * 10)
    with storage.open_stream(path, offset=5, length=7) as stream:
        assert stream.read() == bytes(range(5, 12))
    with storage.open_stream(str(path), offset=2559) as stream:
        assert stream.read(10) == b"\xff"
    with storage.open_stream(path, offset=9999) as stream:
        assert stream.read() == b""
    with storage.open_random(path) as file:
        file.seek(-1, 2)
        assert file.read() == b"\xff"


def test_publish_moves_or_copies_whole_files(tmp_path):
    source = tmp_path / "new"
    source.write_bytes(b"1")
    storage.publish(source, tmp_path / "deep" / "er" / "x", keep=True)
    storage.publish(source, tmp_path / "deep" / "er" / "x")
    assert not source.exists() and (tmp_path / "deep/er/x").read_bytes() == b"1"
    assert _names(tmp_path / "deep/er") == ["x"]
    with pytest.raises(storage.MissingError):
        storage.publish(source, tmp_path / "y")


def test_publish_across_file_systems(tmp_path, monkeypatch):
    """A rename that the kernel refuses becomes a copy that is renamed in the target's folder."""
    source, real = tmp_path / "new", Path.replace
    source.write_bytes(b"12")

    def replace(self, target):
        if self == source:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        assert self.parent == Path(target).parent
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)
    storage.publish(source, tmp_path / "to" / "x")
    assert (tmp_path / "to/x").read_bytes() == b"12" and not source.exists() and _names(tmp_path / "to") == ["x"]


def test_open_output_shows_whole_files_only(tmp_path):
    target = tmp_path / "out" / "00000.npy"
    with storage.open_output(target) as path:
        assert path.name.endswith("00000.npy") and path.parent == target.parent
        path.write_bytes(b"abc")
        assert storage.list_files(tmp_path) == []
    assert target.read_bytes() == b"abc"
    with pytest.raises(RuntimeError), storage.open_output(target) as path:
        path.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"abc" and _names(target.parent) == ["00000.npy"]


def test_a_full_disk_while_writing_is_one_sentence(tmp_path):
    with pytest.raises(storage.StorageError, match="no space left"), storage.open_output(tmp_path / "x"):
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.skipif(os.geteuid() == 0, reason="permissions do not bind root")
def test_permissions(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(storage.StorageError, match="no permission to"):
        storage.write_bytes(tmp_path / "x", b"")


def test_errors_of_reading(tmp_path):
    with pytest.raises(storage.MissingError, match="no such file or folder; check the path"):
        storage.open_stream(tmp_path / "none")
    with pytest.raises(storage.MissingError):
        storage.open_random(tmp_path / "none")
    with pytest.raises(storage.StorageError, match="is a folder"):
        storage.stat(tmp_path)


def test_deleting(tmp_path):
    for name in ("a", "b", "c/d"):
        storage.write_bytes(tmp_path / name, b"")
    storage.delete(tmp_path / "a")
    storage.delete_many([tmp_path / "a", tmp_path / "b", tmp_path / "c/d/under-a-file"])
    assert [e.uri for e in storage.list_files(tmp_path)] == [f"{tmp_path}/c/d"]
    storage.delete_tree(tmp_path / "c")
    storage.delete_tree(tmp_path / "c")
    assert _names(tmp_path) == []


def test_scratch_of_killed_runs_is_cleared(tmp_path):
    scratch = Path(storage.scratch_folder(str(tmp_path)))
    assert scratch.parent == tmp_path
    (scratch / "headrace-x").mkdir()
    (scratch / "headrace-x" / "half").write_bytes(b"1")
    local.temporary(tmp_path / "parts" / "x.parquet").write_bytes(b"2")
    storage.write_bytes(tmp_path / "parts" / "y.parquet", b"3")
    storage.clear_scratch(tmp_path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["parts", "y.parquet"]


def test_folders_named_by_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("HEADRACE_SCRATCH", str(tmp_path / "s"))
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path / "c"))
    assert (
        storage.scratch_folder("s3://b/run") == str(tmp_path / "s") and storage.cache_folder() == tmp_path / "c/files"
    )


def test_nothing_is_written_to_the_web():
    for uri in ("https://host/x", "hf://datasets/o/n/x"):
        with pytest.raises(storage.StorageError, match="nothing can be written there; name a local folder, s3://"):
            storage.write_bytes(uri, b"")


def listed(path: Path) -> str:
    return storage.list_files(path)[0].witness


@pytest.mark.parametrize("kind", ["stream", "random"])
@pytest.mark.parametrize(
    "way", ["same", "written", "with its time", "replaced", "replaced, with its time", "grown", "removed"]
)
def test_the_listed_version_is_read_or_none(tmp_path, kind, way):
    path, old = tmp_path / "x", bytes(range(256)) * 4000

    def change() -> None:
        before = path.stat()
        if way in ("written", "with its time"):
            path.write_bytes(old[::-1])
        elif way.startswith("replaced"):
            (tmp_path / "new").write_bytes(old[::-1])
            (tmp_path / "new").replace(path)
        elif way == "grown":
            with path.open("ab") as file:
                file.write(b"more")
        elif way == "removed":
            path.unlink()
        if way.endswith("time"):
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    opened = storage.open_stream if kind == "stream" else storage.open_random
    path.write_bytes(old)
    witness = listed(path)
    change()
    if way == "same":
        with opened(path, version=witness) as file:
            assert file.read() == old
    else:
        with pytest.raises((storage.ChangedError, storage.MissingError)), opened(path, version=witness) as file:
            file.read()
    path.write_bytes(old)
    witness = listed(path)
    try:
        with opened(path, version=witness) as file:
            file.read(1000)
            change()
            file.read()
    except storage.ChangedError as error:
        assert way != "same" and "start the run again" in str(error)
    else:
        assert way == "same"
    if path.exists():
        with opened(path) as file:  # nothing is asked of a file that was not listed
            change()
            file.read()


def test_what_a_key_holds_of_a_file(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(b"12345")
    first, before = storage.stat(path), path.stat()
    path.chmod(0o600)
    os.link(path, tmp_path / "link")
    after = storage.stat(path)
    assert (after.version, after.witness != first.witness) == (first.version, True)  # another ctime
    (tmp_path / "copy").write_bytes(b"54321")
    (tmp_path / "copy").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert storage.stat(path).version != first.version
    with pytest.raises(storage.ChangedError, match="another file lies there"):
        storage.open_stream(path, version=first.witness)
    # Elsewhere the same path may lead to a copy, whose inode and ctime are its own.
    monkeypatch.setattr(version, "_machine", lambda: "elsewhere")
    storage.open_stream(path, version=first.witness).close()
    os.utime(path, ns=(0, 0))
    with pytest.raises(storage.ChangedError, match="it was written again"):
        storage.open_stream(path, version=first.witness)
    # FUSE hands out inodes as it likes.
    monkeypatch.setattr(version, "_is_fuse", lambda device: True)
    assert storage.stat(path).version.endswith(".0") and storage.stat(path).version != first.version
    known = storage.stat(path).witness
    path.chmod(0o640)
    storage.open_stream(path, version=known).close()


def test_a_file_of_before_1970_has_a_version(tmp_path):
    (tmp_path / "x").write_bytes(b"1")
    os.utime(tmp_path / "x", ns=(-5, -5))
    with storage.open_stream(tmp_path / "x", version=listed(tmp_path / "x")) as file:
        assert file.read() == b"1"
