"""Indexes as Arrow batches: the bytes of the plain writer, the rows of the plain reader, any ids, any damage."""

import gzip
import io
import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.tokens import index_table
from stages.tokens.index_table import ROWS, csv_lines, read_index_batches, write_index_batches
from stages.tokens.shard_format import ShardError, read_index, write_index


def batch(rows):
    columns = list(zip(*rows, strict=True)) or [[]] * 5
    arrays = [pa.array(values, field.type) for values, field in zip(columns, ROWS, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=ROWS)


def read(data, name="index"):
    return [
        tuple(row.values()) for rows in read_index_batches(lambda: io.BytesIO(data), name) for row in rows.to_pylist()
    ]


names = st.one_of(st.text(max_size=20), st.text(alphabet='a,"\n\r é', max_size=12))
documents = st.lists(
    st.tuples(st.integers(0, 2**48), st.integers(0, 2**48), names, names, st.integers(0, 2**31)), max_size=30
)


@settings(max_examples=60, deadline=None)
@given(documents, st.integers(1, 9))
def test_any_row_is_written_and_read_back(tmp_path_factory, rows, size):
    folder = tmp_path_factory.mktemp("index")
    batches = [batch(rows[start : start + size]) for start in range(0, len(rows), size)]
    assert write_index_batches(folder / "a.csv.gz", batches) == len(rows)
    data = (folder / "a.csv.gz").read_bytes()
    assert read(data) == rows
    assert [tuple(row) for row in read_index(folder / "a.csv.gz")] == rows
    if not any("\r" in row[2] + row[3] for row in rows):  # the plain writer leaves them bare, and they break the row
        write_index(folder / "b.csv.gz", rows)
        assert data == (folder / "b.csv.gz").read_bytes()


def test_many_rows_give_the_plain_writers_bytes(tmp_path):
    rows = [
        (i * 7, i * 7 + 7, f"urn:uuid:{i * 7919:032x}", f"web-{i // 9000:05d}.warc.gz", i % 9000) for i in range(60_000)
    ]
    write_index(tmp_path / "plain.csv.gz", rows)
    for size in (1000, 60_000):
        write_index_batches(tmp_path / "a.csv.gz", [batch(rows[i : i + size]) for i in range(0, len(rows), size)])
        assert (tmp_path / "a.csv.gz").read_bytes() == (tmp_path / "plain.csv.gz").read_bytes()
    assert read((tmp_path / "a.csv.gz").read_bytes()) == rows


def test_slices_are_written_as_they_are():
    whole = batch([(i, i + 1, f"d{i}", 'a"b', i) for i in range(10)])
    assert bytes(csv_lines(whole.slice(3, 2))) == b'3,4,d3,"a""b",3\n4,5,d4,"a""b",4\n'


def test_rows_longer_than_a_block(tmp_path, monkeypatch):
    monkeypatch.setattr(index_table, "BLOCK_BYTES", 1 << 12)
    rows = [(i, i + 1, ("i" if i != 700 else "long") * (3 if i != 700 else 9000), "f", i) for i in range(1500)]
    write_index_batches(tmp_path / "a.csv.gz", [batch(rows)])
    assert read((tmp_path / "a.csv.gz").read_bytes()) == rows


def test_two_columns_no_rows_and_damage():
    assert read(gzip.compress(b"0,4\n4,9\n")) == [(0, 4, "", "", 0), (4, 9, "", "", 0)]
    assert read(gzip.compress(b"")) == []
    with pytest.raises(ShardError, match=r"here\.csv\.gz, row 1: 3 columns"):
        read(gzip.compress(b"0,4,x\n"), "here.csv.gz")
    with pytest.raises(ShardError, match=r"here\.csv\.gz, after row 3: .*damaged"):
        read(gzip.compress(b"0,4\n4,9\nx,9\n"), "here.csv.gz")
    with pytest.raises(ShardError, match=r"here\.csv\.gz, row 2: 3 columns"):
        read(gzip.compress(b"0,4\n4,9,x\n"), "here.csv.gz")
    with pytest.raises(ShardError, match=r"here\.csv\.gz, after row 2: .*damaged"):
        read(gzip.compress(b"0,4,a,f,1\n4,,b,f,2\n"), "here.csv.gz")
    whole = gzip.compress(b"".join(b"%d,%d\n" % (i * i * 7919 % 10007, i) for i in range(5000)))
    with pytest.raises(ShardError, match=r"here\.csv\.gz, .*damaged"):
        read(whole[: len(whole) // 2], "here.csv.gz")
    with pytest.raises(ShardError, match=r"here\.csv\.gz, .*damaged"):
        read(whole[:-6], "here.csv.gz")
    with pytest.raises(ShardError, match="damaged"):
        read(b"no gzip at all", "here.csv.gz")


def test_nulls_are_not_written():
    whole = batch([(0, 1, "d", "f", 1)])
    nothing = whole.set_column(2, "id", pa.array([None], pa.large_string()))
    with pytest.raises(ValueError, match="null"):
        csv_lines(nothing)


def test_reading_may_stop_at_any_batch(tmp_path, monkeypatch):
    monkeypatch.setattr(index_table, "BLOCK_BYTES", 1 << 12)
    rows = [(i, i + 1, f"document-{i * 7919}", "f", i) for i in range(20_000)]
    write_index_batches(tmp_path / "a.csv.gz", [batch(rows)])
    opened = []

    def open_index():
        opened.append((tmp_path / "a.csv.gz").open("rb"))
        return opened[-1]

    for _ in range(100):
        batches = read_index_batches(open_index, "a")
        assert next(batches).num_rows > 10
        batches.close()
    assert len(opened) == 100 and all(file.closed for file in opened)


def test_what_is_left_before_its_end_is_read_no_further(tmp_path, monkeypatch):
    """Else Arrow's thread comes back to a Python that has ended, and the process is aborted."""
    monkeypatch.setattr(index_table, "BLOCK_BYTES", 1 << 12)
    path = tmp_path / "index.csv.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(f"{i},{i + 1},{i * 7919 % 1_000_003},f,{i}\n" for i in range(100_000))

    class Slow(io.BytesIO):
        begun = ended = 0

        def read(self, size=-1):
            Slow.begun += 1
            time.sleep(0.05)
            data = super().read(4096)
            Slow.ended += 1
            return data

    rows = read_index_batches(lambda: Slow(path.read_bytes()), "index")
    assert next(rows).num_rows
    rows.close()
    begun = Slow.begun
    assert Slow.ended == begun < path.stat().st_size / 4096 / 2  # none is under way
    time.sleep(0.2)
    assert Slow.begun == begun
