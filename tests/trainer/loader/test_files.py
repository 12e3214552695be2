"""Reading pieces of files into an array: in one system call or one by one, the same bytes; what is wrong is named."""

import errno
import multiprocessing
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from trainer.loader.files import DataError, Reader
from trainer.loader.submit import READS, Submitter

FILES, SIZE = 7, 50_000


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> dict[Path, np.ndarray]:
    folder = tmp_path_factory.mktemp("files")
    made = {}
    for number in range(FILES):
        data = np.random.default_rng(number).integers(0, 256, SIZE).astype(np.uint8)
        (folder / f"{number}").write_bytes(data.tobytes())
        made[folder / f"{number}"] = data
    return made


def one_by_one(reader: Reader) -> Reader:
    """A reader where the kernel does not take many reads at once."""
    opened = [reader._free.get() for _ in range(reader._free.qsize())]
    for one in opened:
        one.submitter.works = False
        reader._free.put(one)
    return reader


def draw(seed: int, count: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 3000, count)
    return rng.integers(0, FILES, count), rng.integers(0, SIZE - 3000, count), sizes, np.cumsum(sizes) - sizes


def check(reader: Reader, contents: dict[Path, np.ndarray], seed: int, count: int) -> None:
    files, offsets, sizes, targets = draw(seed, count)
    out = np.zeros(int(sizes.sum()), np.uint8)
    reader.read(files, offsets, sizes, targets, out)
    data = list(contents.values())
    parts = [data[f][o : o + s] for f, o, s in zip(files, offsets, sizes, strict=True)]
    assert np.array_equal(out, np.concatenate(parts))


@pytest.mark.parametrize("limit", [512, 3 * (os.cpu_count() or 1)])
@pytest.mark.parametrize("way", ["together", "one by one"])
def test_every_piece_lands_where_it_should(contents, limit, way):
    reader = Reader(limit)
    assert reader.add(list(contents)) == 0
    if way == "one by one":
        one_by_one(reader)
    for count in (1, 2, READS, READS + 1, 3 * READS + 7):
        check(reader, contents, count, count)
    held = [reader._free.get().count for _ in range(reader._free.qsize())]
    assert 0 < sum(held) <= limit


def test_several_threads_and_other_processes_read_at_once(contents):
    reader = Reader()
    reader.add(list(contents))
    with ThreadPoolExecutor(6) as pool:
        for done in [pool.submit(check, reader, contents, seed, 400) for seed in range(30)]:
            done.result()
    check(pickle.loads(pickle.dumps(reader)), contents, 1, 50)
    child = multiprocessing.get_context("fork").Process(target=check, args=(reader, contents, 2, 300))
    child.start()
    child.join(30)
    assert child.exitcode == 0


@pytest.mark.parametrize("way", ["together", "one by one"])
def test_a_missing_or_cut_file_is_named(contents, tmp_path, way):
    reader = Reader()
    first = reader.add([*contents, tmp_path / "gone"])
    if way == "one by one":
        one_by_one(reader)
    out = np.zeros(100, np.uint8)
    numbers = (np.array([0]), np.array([10]), np.array([0]))
    with pytest.raises(DataError, match="gone: the file cannot be read"):
        reader.read(np.array([first + FILES]), *numbers, out)
    with pytest.raises(DataError, match=r"0: ends before byte 50050; it was cut"):
        reader.read(np.array([0]), np.array([SIZE - 50]), np.array([100]), np.array([0]), out)


def test_the_kernel_reads_many_at_once_and_tells_each_error(contents):
    submitter = Submitter()
    if not submitter.works:
        pytest.skip("this kernel offers no io_submit; reads go one by one")
    path, data = next(iter(contents.items()))
    descriptor = os.open(path, os.O_RDONLY)
    out = np.zeros((READS, 10), np.uint8)
    descriptors = np.full(READS, descriptor)
    descriptors[5] = 9999
    offsets = np.arange(READS) * 3
    got = submitter.read(descriptors, offsets, np.full(READS, 10), out.ctypes.data + np.arange(READS) * 10)
    os.close(descriptor)
    if got is None:
        # A bad descriptor makes the kernel refuse the call where it is met; the caller then reads one by one.
        assert not submitter.works
    else:
        assert got[5] == -errno.EBADF and (np.delete(got, 5) == 10).all()
    assert np.array_equal(out[4], data[12:22])


def test_what_follows_one_another_in_both_places_is_one_read(contents, monkeypatch):
    reader = Reader()
    reader.add(list(contents))
    reads = []
    some = reader._some
    monkeypatch.setattr(
        reader, "_some", lambda opened, files, *rest: (reads.append(len(files)), some(opened, files, *rest))
    )
    out = np.zeros(600, np.uint8)
    # Of file 2, bytes 100..399 in three pieces, given out of order; of file 3 what would follow them; a gap in `out`.
    files, offsets = np.array([2, 3, 2, 2, 2]), np.array([300, 400, 100, 200, 400])
    reader.read(files, offsets, np.full(5, 100), np.array([200, 300, 0, 100, 500]), out)
    data = list(contents.values())
    assert reads == [3]
    monkeypatch.setattr("trainer.loader.files.JOINED_BYTES", 150)  # no read grows without end
    reader.read(files, offsets, np.full(5, 100), np.array([200, 300, 0, 100, 500]), out)
    assert reads == [3, 4]
    assert np.array_equal(out[:400], np.concatenate([data[2][100:400], data[3][400:500]]))
    assert not out[400:500].any() and np.array_equal(out[500:], data[2][400:500])
