"""Parquet: any text type, any part of the row groups, other columns as JSON, bad rows named."""

import datetime
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.document import DOCUMENT
from stages.errors import InputError
from stages.read import Dropped, Part, Problem, ReadSpec, Repaired, read_batches


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
    assert [row["id"] for row in rows] == [f"x.parquet:{i}" for i in (1, 2, 3, 4)]
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
        ("x.parquet:2", None, "b"),
    ]
    known = json.loads(rows[0]["metadata"])
    assert known == {
        "meta": {"stars": 3, "names": ["x"]},
        "when": "2024-01-02T03:04:05",
        "raw": "\ufffd",
        "big": 2**64 - 1,
    }
    assert events == []
    rows, _, _ = read(raw, text_field="content", metadata=False, url_field="meta.names")
    assert [(row["metadata"], row["url"]) for row in rows] == [(None, None), (None, None)]


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
    assert [type(event) for event in events] == [Problem, Dropped, Repaired]
    assert (events[0].record, events[0].documents) == (2, 1)
    assert (events[1].record, events[1].reason, events[1].bytes) == (3, "max_record_bytes", 100)
    assert events[2].documents == 1


def test_nested_text():
    raw = write({"doc": [{"text": "a"}, None, {"text": "c"}]})
    rows, events, _ = read(raw, text_field="doc.text")
    assert [(row["record"], row["text"]) for row in rows] == [(1, "a"), (3, "c")]
    assert [event.record for event in events] == [2]


def test_what_cannot_be_read_at_all():
    with pytest.raises(InputError, match=r"in/x\.parquet: it has no column 'text'; its columns are other"):
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
