"""Files that are one JSON array: read however they are laid out and wherever their pieces end."""

import gzip
import io
import json

import pytest
import zstandard
from json_lines import lines, read

from stages.read import ReadSpec, read_batches

ARRAY = [{"id": str(i), "text": f'{i} " \\ [x], {{y}}\n' * (i * 13 % 90), "n": [i, {"k": "]"}]} for i in range(400)]


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf \r\n"])
def test_an_array_is_read_however_it_is_laid_out(indent, mark):
    whole = mark + json.dumps(ARRAY, indent=indent).encode() + b"\n"
    expected, _ = read(lines(*ARRAY))
    names = {"in/x.json": whole, "in/x.json.gz": gzip.compress(whole), "in/x.json.zst": zstandard.compress(whole)}
    for name, raw in names.items():
        rows, events = read(raw, name, batch_bytes=10_000, max_record_bytes=20_000)
        assert events == []
        plain = [row | {"file": "in/x.jsonl", "offset": 0} for row in rows]
        assert plain == [row | {"offset": 0} for row in expected]
        for row in rows[::37]:
            value, _ = json.JSONDecoder().raw_decode(whole[row["offset"] :].decode())
            assert value["id"] == row["id"]


class Slow(io.BytesIO):
    """Gives few bytes at a time, so that tokens are cut everywhere."""

    def read(self, size=-1):
        return super().read(min(size, self.step) if size > 0 else size)


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_objects_over_several_lines_are_refused_by_name(end):
    raw = b"\n".join(json.dumps({"text": f"words {i}"}, indent=1).encode() for i in range(3)) + end
    rows, events = read(raw, "x.json")
    assert rows == [] and not any(event.damage for event in events)
    assert "several lines: write one object a line" in events[0].reason


def test_a_copy_that_was_broken_off_in_reserved_space_is_damaged():
    rows, events = read(lines({"text": "a"}) + bytes(50))
    assert len(rows) == 1 and [event.damage for event in events] == [True]


def test_what_is_nested_too_deep_is_named():
    rows, events = read(lines({"text": "a"}, b'{"text":"b","m":' + b"[" * 5000 + b"]" * 5000 + b"}"))
    assert len(rows) == 1 and "nested too deep" in events[0].reason


@pytest.mark.parametrize("mended", [b"", b',"n":NaN'], ids=["as it is", "mended"])
def test_how_deep_a_record_may_nest_hangs_on_no_version_of_python(mended):
    def record(depth: int) -> bytes:
        inner = depth - 1  # the record itself is one
        return b'{"text":"[[[","m":' + b'[{"a":' * (inner // 2) + b"1" + b"}]" * (inner // 2) + mended + b"}"

    rows, events = read(lines(record(501), record(503), {"text": "a"}))
    assert [row["record"] for row in rows] == [3] and all("more than 500" in event.reason for event in events[:2])
    rows, events = read(lines(record(499)))
    assert len(rows) == 1 and not any("nested" in f"{event}" for event in events)


def test_an_array_is_cut_the_same_wherever_its_pieces_end():
    raw = b' [ {"text": "a \\\\"} ,{"text":"b \\" ] , {"}, 3 , {"text": "c","m":[[],{"x":"]"}]}]  \n {"text": "d"}\n'
    found = []
    for step in (1, 2, 3, 7, 1000):
        stream, events = Slow(raw), []
        stream.step = step
        batches = read_batches(stream, "x.json", ReadSpec(), on_event=events.append)
        rows = [(row["text"], row["record"], row["offset"]) for batch in batches for row in batch.to_pylist()]
        found.append((rows, [(event.reason, event.record) for event in events]))
    assert found[0][0] == [
        ("a \\", 1, 3),
        ('b " ] , {', 2, raw.index(b'{"text":"b')),
        ("c", 4, raw.index(b'{"text": "c"')),
        ("d", 5, raw.index(b'{"text": "d"')),
    ]
    assert found[0][1] == [("the record is a number, not a JSON object", 3)]
    assert all(other == found[0] for other in found)


def test_elements_that_are_too_long_and_arrays_that_are_cut():
    long = {"text": "x, ]" * 1_000_000}
    raw = json.dumps([{"text": "a"}, long, {"text": "b"}, long]).encode()
    rows, events = read(raw, "x.json", max_record_bytes=1000)
    assert [(row["text"], row["record"]) for row in rows] == [("a", 1), ("b", 3)]
    assert [(event.record, event.reason, event.bytes) for event in events] == [
        (record, "max_record_bytes", len(json.dumps(long))) for record in (2, 4)
    ]
    assert [raw[event.offset :][:9] for event in events] == [b'{"text": '] * 2
    rows, events = read(json.dumps([{"text": "a"}, {"text": "b"}]).encode()[:-5], "x.json")
    assert [row["text"] for row in rows] == ["a"]
    assert [(event.reason, event.damage, event.record, event.documents) for event in events] == [
        ("the file ends inside its JSON array; the rest of the file is lost", True, 2, 1)
    ]
    assert read(b"[]\n", "x.json") == ([], [])
