"""Parquet: any text type, any part of the row groups, other columns as JSON, bad rows named."""

import datetime
import decimal
import io
import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.document import DOCUMENT
from stages.errors import InputError
from stages.read import Dropped, Part, Problem, ReadSpec, Repaired, read_batches
from stages.read.parquet_pages import DICTIONARY, PageError, read_pages


def write(table, row_group_size=1000, **options):
    sink = io.BytesIO()
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), sink, row_group_size, **options)
    return sink.getvalue()


def read(raw, batch_bytes=1 << 20, part=None, **spec):
    events = []
    batches = list(
        read_batches(
            io.BytesIO(raw),
            "in/x.parquet",
            ReadSpec(**spec),
            batch_bytes=batch_bytes,
            on_event=events.append,
            part=part,
        )
    )
    for batch in batches:
        assert batch.schema == DOCUMENT
        batch.validate(full=True)
    return [row for batch in batches for row in batch.to_pylist()], events, batches


TEXTS = ["Wasser", "", "水 Mühle", "Wasser"]


@pytest.mark.parametrize(
    "type",
    [pa.string(), pa.large_string(), pa.binary(), pa.large_binary(), pa.dictionary(pa.int32(), pa.string())],
    ids=str,
)
def test_text_types(type):
    values = [text.encode() for text in TEXTS] if "binary" in str(type) else TEXTS
    raw = write({"text": pa.array(values).cast(type) if "dict" in str(type) else pa.array(values, type)})
    rows, events, _ = read(raw)
    assert [row["text"] for row in rows] == TEXTS
    assert [row["id"] for row in rows] == [f"in/x.parquet:{i}" for i in (1, 2, 3, 4)]
    assert [row["metadata"] for row in rows] == [None] * 4
    assert events == []


def test_other_columns():
    when = datetime.datetime(2024, 1, 2, 3, 4, 5)
    raw = write(
        {
            "content": ["a", "b"],
            "id": [1, None],
            "url": ["http://x", None],
            "meta": [{"stars": 3, "names": ["x"]}, None],
            "when": [when, None],
            "raw": [b"\xff", b"ok"],
            "big": pa.array([2**64 - 1, 0], pa.uint64()),
        }
    )
    rows, events, _ = read(raw, text_field="content")
    assert [(row["id"], row["url"], row["text"]) for row in rows] == [
        ("1", "http://x", "a"),
        ("in/x.parquet:2", None, "b"),
    ]
    known = json.loads(rows[0]["metadata"])
    assert known == {
        "meta": {"stars": 3, "names": ["x"]},
        "when": "2024-01-02T03:04:05",
        "raw": "\ufffd",
        "big": 2**64 - 1,
    }
    assert events == [Repaired("in/x.parquet", "invalid UTF-8 in other fields than the text was replaced", 1)]
    rows, _, _ = read(raw, text_field="content", metadata=False, url_field="meta.names")
    assert [(row["metadata"], row["url"]) for row in rows] == [(None, None), (None, None)]


def test_columns_that_are_no_id_and_no_url_stay_in_metadata():
    rows, events, _ = read(write({"text": ["a"], "id": [1.5], "url": [["u"]]}))
    assert (rows[0]["id"], rows[0]["url"], events) == ("in/x.parquet:1", None, [])
    assert json.loads(rows[0]["metadata"]) == {"id": 1.5, "url": ["u"]}


def damaged(values):
    """A string column whose bytes were never checked."""
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values, pa.binary()).buffers())


ODD = {
    "timestamp[ns]": (pa.array([1700000000123456789, None, -1], pa.timestamp("ns")), "2023-11-14T22:13:20.123456789"),
    "timestamp far": (pa.array([2**62, None, -(2**62)], pa.timestamp("us")), "148108-07-06T14:00:27.387904"),
    "timestamp[ms] far": (pa.array([10**15, None, 0], pa.timestamp("ms")), "33658-09-27T01:46:40.000"),
    "unknown zone": (pa.array([0, None, 1], pa.timestamp("us", "Mars/Olympus")), "1970-01-01T00:00:00.000000+00:00"),
    "zone": (pa.array([0, None, 1], pa.timestamp("ms", "+01:00")), "1970-01-01T01:00:00+01:00"),
    "time64[ns]": (pa.array([1, None, 2], pa.time64("ns")), "00:00:00.000000001"),
    "time beyond a day": (pa.array([90_000_000_000, None, 2], pa.time64("us")), "25:00:00"),
    "duration[ns]": (pa.array([86_400_000_000_001, None, -1], pa.duration("ns")), "1 days 00:00:00.000000001"),
    "date32 far": (pa.array([2**30, None, -(2**30)], pa.date32()), "2941775-04-07"),
    "date64": (pa.array([0, None, 86_400_000], pa.date64()), "1970-01-01"),
    "invalid UTF-8": (damaged([b"a\xff", None, b"c"]), "a\ufffd"),
    "dictionary": (pa.array(["a", None, "b"]).dictionary_encode(), "a"),
    "decimal": (pa.array([decimal.Decimal("1.50"), None, decimal.Decimal("0")]), "1.50"),
    "half": (pa.array([1.5, None, 2], pa.float16()), 1.5),
    "NaN": (pa.array([math.nan, None, 1.0]), None),
    "infinities": (pa.array([[math.inf], None, [1.0]]), [None]),
    "nested nanoseconds": (
        pa.array([[{"t": 1}], None, []], pa.list_(pa.struct([("t", pa.timestamp("ns"))]))),
        [{"t": "1970-01-01T00:00:00.000000001"}],
    ),
    "nested bad text": (pa.ListArray.from_arrays([0, 1, 1, 2], damaged([b"\xfe", b"b"])), ["\ufffd"]),
    "map": (pa.array([[("a", 1)], None, []], pa.map_(pa.string(), pa.int64())), [["a", 1]]),
    "map of bytes": (pa.array([[("a", b"\xe9")], None, []], pa.map_(pa.string(), pa.binary())), [["a", "�"]]),
    "uuid": (pa.array([b"\0" * 16, None, b"\1" * 16], pa.uuid()), "00000000-0000-0000-0000-000000000000"),
    "fixed bytes": (pa.array([b"ab", None, b"\xff\xfe"], pa.binary(2)), "ab"),
    "null": (pa.nulls(3), None),
}


@pytest.mark.parametrize("name", ODD)
def test_no_value_of_another_column_ends_a_run(name):
    column, expected = ODD[name]
    rows, events, _ = read(write(pa.table({"text": ["a", "b", "c"], "other": column})))
    assert [row["text"] for row in rows] == ["a", "b", "c"]
    values = [json.loads(row["metadata"])["other"] for row in rows]
    assert values[0] == expected
    assert not values[1]
    assert all(isinstance(event, Repaired) for event in events)
    told = [event.documents for event in events]
    assert told == {
        "NaN": [1],
        "infinities": [1],
        "invalid UTF-8": [1],
        "nested bad text": [1],
        "map of bytes": [1],
        "fixed bytes": [1],
    }.get(name, [])
    rows, events, _ = read(write(pa.table({"text": ["a", "b", "c"], "other": column})), metadata=False)
    assert len(rows) == 3 and events == []


def test_dates_of_spark_do_not_wrap():
    far = pa.array([datetime.datetime(9999, 12, 31), datetime.datetime(1, 1, 1)], pa.timestamp("us"))
    raw = write(pa.table({"text": ["a", "b"], "t": far}), use_deprecated_int96_timestamps=True)
    rows, _, _ = read(raw)
    assert [json.loads(row["metadata"])["t"] for row in rows] == ["9999-12-31T00:00:00", "0001-01-01T00:00:00"]


def test_columns_of_one_name():
    names = ["id", "text", "x", "x", "text"]
    columns = [
        pa.array(["1", "2"]),
        pa.array(["one", "two"]),
        pa.array(["a", "b"]),
        pa.array([1, 2]),
        pa.array(["c", "d"]),
    ]
    rows, events, _ = read(write(pa.table(columns, names=names)))
    assert [(row["id"], row["text"]) for row in rows] == [("1", "one"), ("2", "two")]
    assert json.loads(rows[1]["metadata"]) == {"x": "b", "x#2": 2, "text#2": "d"}
    assert [(type(event), event.documents) for event in events] == [(Repaired, 2)]
    assert "NAME#2" in events[0].what
    rows, events, _ = read(write(pa.table(columns, names=names)), metadata=False, max_record_bytes=6)
    assert [row["text"] for row in rows] == ["one", "two"]


def repeated(values, rows, nested=False):
    """A table of many rows that take few bytes on disk: long values, each in a dictionary once."""
    column = pa.DictionaryArray.from_arrays(pa.array(np.arange(rows) % len(values), pa.int32()), pa.array(values))
    if nested:
        column = pa.ListArray.from_arrays(np.arange(rows + 1, dtype=np.int32), column.dictionary_decode())
    return pa.table({"text": [f"text {i}" for i in range(rows)], "long": column})


@pytest.mark.parametrize("nested", [False, True])
def test_memory_follows_what_is_decoded(nested):
    values = [f"{i}" * 20_000 for i in range(10)]
    raw = write(repeated(values, 4000, nested), row_group_size=10_000, store_schema=False)
    assert len(raw) < 1 << 20
    before, sizes, seen = pa.total_allocated_bytes(), [], 0
    batches = read_batches(io.BytesIO(raw), "x.parquet", ReadSpec(), batch_bytes=1 << 20, on_event=print)
    for batch in batches:
        sizes.append(batch.nbytes)
        first = json.loads(batch.column("metadata")[0].as_py())["long"]
        assert (first[0] if nested else first) == values[seen % 10]
        seen += batch.num_rows
        assert pa.total_allocated_bytes() - before < 64 << 20
    assert seen == 4000
    assert max(sizes) < 2 << 20


def test_rows_of_very_different_sizes():
    texts = ["a" * 10] * 50_000 + ["b" * 300_000] * 200 + ["a" * 10] * 50_000
    raw = write({"text": texts}, row_group_size=200_000, use_dictionary=False, compression="zstd", write_batch_size=8)
    before, peak, seen = pa.total_allocated_bytes(), 0, 0
    options = {"batch_bytes": 1 << 20, "memory": 64 << 20}
    for batch in read_batches(io.BytesIO(raw), "x.parquet", ReadSpec(), on_event=print, **options):
        seen += batch.num_rows
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert seen == len(texts)
    assert peak < 40 << 20


def test_pages_that_are_too_large():
    table = pa.table({"text": ["a", "b"], "other": ["x", "y" * (8 << 20)], "id": ["1", "2"]})
    options = {"memory": 16 << 20, "on_event": None}
    for name, columns in (("other", ["text", "other", "id"]), ("text", ["other", "text", "id"])):
        raw = write(table.rename_columns(columns), use_dictionary=False, compression="zstd", data_page_version="2.0")
        events = []
        batches = list(read_batches(io.BytesIO(raw), "x.parquet", ReadSpec(), **options | {"on_event": events.append}))
        if name == "other":
            rows = [row for batch in batches for row in batch.to_pylist()]
            assert [(row["text"], row["metadata"]) for row in rows] == [("a", None), ("b", None)]
            assert [type(event) for event in events] == [Repaired]
            assert "the column 'other' was left out" in events[0].what and events[0].documents == 2
        else:
            assert batches == []
            assert [(type(event), event.documents) for event in events] == [(Problem, 2)]
            assert "a page of its column 'text' becomes 8,388,6" in events[0].reason
            assert "run.task_memory leaves 5,033,164 for that: raise it 1.7-fold" in events[0].reason


@pytest.mark.parametrize("version", ["1.0", "2.0"])
@pytest.mark.parametrize("compression", ["none", "snappy", "zstd"])
@pytest.mark.parametrize("dictionary", [False, True])
def test_page_headers(version, compression, dictionary):
    texts = [f"{i} " * (i % 400) for i in range(20_000)]
    options = {"use_dictionary": dictionary, "data_page_version": version, "compression": compression}
    raw = write({"text": texts}, row_group_size=100_000, **options, data_page_size=100_000, write_page_checksum=True)
    column = pq.ParquetFile(io.BytesIO(raw)).metadata.row_group(0).column(0)
    start = column.dictionary_page_offset if dictionary else column.data_page_offset
    pages = list(read_pages(io.BytesIO(raw), start, start + column.total_compressed_size))
    assert sum(page.values for page in pages if page.kind != DICTIONARY) == len(texts)
    assert [page.kind == DICTIONARY for page in pages] == [dictionary] + [False] * (len(pages) - 1)
    # What the file's footer counts besides are the headers.
    assert 0 <= column.total_uncompressed_size - sum(page.bytes for page in pages) < 4000 * len(pages)
    assert len(pages) >= 20
    with pytest.raises(PageError):
        list(read_pages(io.BytesIO(raw), start + 1, start + column.total_compressed_size))


def test_row_groups_and_batches():
    raw = write({"text": [f"{i}" * 100 for i in range(100)], "id": [str(i) for i in range(100)]}, row_group_size=10)
    rows, _, batches = read(raw, batch_bytes=1000)
    assert [row["record"] for row in rows] == list(range(1, 101))
    assert max(batch.num_rows for batch in batches) <= 10
    some, _, _ = read(raw, part=Part(row_groups=(2, 7)))
    assert some == rows[20:30] + rows[70:80]
    with pytest.raises(InputError, match="10 row groups, none with the number 10"):
        read(raw, part=Part(row_groups=(10,)))


def test_bad_rows_are_named():
    raw = write({"text": pa.array([b"a", None, b"x" * 100, b"\xff\xfe", b"b"], pa.binary())})
    rows, events, _ = read(raw, max_record_bytes=50)
    assert [(row["record"], row["text"]) for row in rows] == [(1, "a"), (4, "\ufffd\ufffd"), (5, "b")]
    assert [type(event) for event in events] == [Dropped, Problem, Repaired]
    assert (events[0].record, events[0].reason, events[0].bytes) == (3, "max_record_bytes", 100)
    assert (events[1].record, events[1].documents) == (2, 1)
    assert events[2].documents == 1
    rows, events, _ = read(raw, strict=True)
    assert [row["record"] for row in rows] == [1, 3, 5]
    assert "`strict` refuses it" in events[1].reason


def test_nested_text():
    raw = write({"doc": [{"text": "a"}, None, {"text": "c"}]})
    rows, events, _ = read(raw, text_field="doc.text")
    assert [(row["record"], row["text"]) for row in rows] == [(1, "a"), (3, "c")]
    assert [event.record for event in events] == [2]


def test_what_cannot_be_read_at_all():
    with pytest.raises(InputError, match=r"in/x\.parquet: it has no column 'text'; its columns are 'other': set"):
        read(write({"other": ["a"]}))
    with pytest.raises(InputError, match="'text' holds int64, not text"):
        read(write({"text": [1]}))
    for raw in (b"", b"PAR1 nothing", write({"text": ["a"]})[:-3]):
        with pytest.raises(InputError, match=r"in/x\.parquet: it is no readable Parquet file"):
            read(raw)


def test_a_damaged_row_group_costs_its_rows():
    raw = bytearray(write({"text": [f"{i} " * 300 for i in range(30)]}, row_group_size=10, use_dictionary=False))
    start = pq.ParquetFile(io.BytesIO(bytes(raw))).metadata.row_group(1).column(0).data_page_offset
    raw[start : start + 200] = bytes(200)
    rows, events, _ = read(bytes(raw))
    assert [row["record"] for row in rows] == [*range(1, 11), *range(21, 31)]
    assert [(event.record, event.documents) for event in events] == [(11, 10)]
    assert "row group 1 cannot be read" in events[0].reason


@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_a_page_that_its_checksum_contradicts_costs_its_rows(compression):
    """A byte that changed within a text, which nothing else would tell."""
    options = {"use_dictionary": False, "compression": compression, "write_page_checksum": True}
    raw = bytearray(write({"text": [f"{i} " * 300 for i in range(30)]}, row_group_size=10, **options))
    column = pq.ParquetFile(io.BytesIO(bytes(raw))).metadata.row_group(1).column(0)
    raw[column.data_page_offset + column.total_compressed_size - 5] ^= 1
    rows, events, _ = read(bytes(raw))
    assert [row["record"] for row in rows] == [*range(1, 11), *range(21, 31)]
    assert [(event.record, event.documents, event.damage) for event in events] == [(11, 10, True)]


def test_a_footer_that_contradicts_itself():
    raw = write({"text": [f"{i}" for i in range(30)], "other": range(30)}, row_group_size=10, store_schema=False)
    place = raw.rindex(b"other")  # of the last row group's columns
    rows, events, _ = read(raw[:place] + b"\xff\xfe\xff\xfe\xff" + raw[place + 5 :])
    assert [row["record"] for row in rows] == [*range(1, 21)]
    assert [(event.record, event.documents, event.damage) for event in events] == [(21, 10, True)]
    number = b"\x16\x3c"  # field 3 of FileMetaData: rows, 30 as a zigzag number
    assert raw.count(number) == 1
    with pytest.raises(InputError, match="it says that it has 31 rows, and its row groups have 30"):
        read(raw.replace(number, b"\x16\x3e"))


def test_an_error_of_the_disk_is_no_damage():
    class Failing(io.BytesIO):
        reads = 0

        def read(self, size=-1):
            Failing.reads += 1
            if Failing.reads > 3:
                raise OSError(5, "Input/output error")
            return super().read(size)

    raw = write({"text": ["a" * 1000] * 10_000}, use_dictionary=False, compression="none", row_group_size=100)
    with pytest.raises(OSError, match="Input/output error"):
        list(read_batches(Failing(raw), "x.parquet", ReadSpec(), on_event=print))
