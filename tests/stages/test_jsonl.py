"""JSON lines: every line is a document, a named problem, or named as left out; compression and cuts change nothing."""

import gzip
import io
import json
import random
import tracemalloc
from types import NoneType

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from json_lines import lines, read

from stages.errors import InputError
from stages.read import Dropped, Problem, ReadSpec, Repaired, Skipped, read_batches
from stages.read.split import line_parts


def test_fields():
    raw = lines(
        {"id": "a", "text": "Wasser\n\u0000 Mühle 水", "url": "http://x", "added": {"b": [1, {"c": None}]}, "n": 1.5},
        {"id": 7, "text": ""},
        {"text": "t", "url": 3, "id": None},
    )
    rows, events = read(raw)
    assert events == []
    assert rows[0] | {"metadata": json.loads(rows[0]["metadata"])} == {
        "id": "a",
        "text": "Wasser\n\u0000 Mühle 水",
        "url": "http://x",
        "file": "in/x.jsonl",
        "record": 1,
        "offset": 0,
        "metadata": {"added": {"b": [1, {"c": None}]}, "n": 1.5},
    }
    assert [(row["id"], row["url"], row["metadata"]) for row in rows[1:]] == [
        ("7", None, None),
        ("in/x.jsonl:3", None, '{"url":3}'),
    ]
    offsets = [0, raw.index(b"\n") + 1, raw.index(b"\n", raw.index(b"\n") + 1) + 1]
    assert [row["offset"] for row in rows] == offsets


@pytest.mark.parametrize("value", [1.5, True, ["a"], {"a": 1}])
def test_what_is_no_id_and_no_url_stays_in_metadata(value):
    raw = lines({"id": value, "text": "t", "url": value, "n": 1}, {"id": "b", "text": "t", "url": "u"})
    rows, events = read(raw)
    assert events == []
    assert [row["id"] for row in rows] == ["in/x.jsonl:1", "b"]
    assert json.loads(rows[0]["metadata"]) == {"n": 1, "id": value, "url": value}
    assert (rows[0]["url"], rows[1]["url"], rows[1]["metadata"]) == (None, "u", None)
    rows, _ = read(lines({"text": "t", "meta": {"id": value}}), id_field="meta.id")
    assert (rows[0]["id"], json.loads(rows[0]["metadata"])) == ("in/x.jsonl:1", {"meta": {"id": value}})


def test_other_field_names():
    raw = lines({"key": "k", "content": "t", "meta": {"url": "http://u", "stars": 3}, "a.b": 1})
    rows, _ = read(raw, text_field="content", id_field="key", url_field="meta.url")
    assert (rows[0]["id"], rows[0]["text"], rows[0]["url"]) == ("k", "t", "http://u")
    assert json.loads(rows[0]["metadata"]) == {"meta": {"url": "http://u", "stars": 3}, "a.b": 1}
    rows, _ = read(raw, text_field="content", metadata=False, id_field=None)
    assert (rows[0]["id"], rows[0]["metadata"]) == ("in/x.jsonl:1", None)
    rows, _ = read(raw, text_field="meta.url")
    assert rows[0]["text"] == "http://u"


BAD = {
    b'{"text": "cut': "not valid JSON",
    b"[1, 2]": "a list, not a JSON object",
    b'"t"': "a string",
    b"12": "a number",
    b"null": "null",
    b"{}": "no text in the field 'text'",
    b'{"text": null}': "no text",
    b'{"text": 5}': "is a number, not a string",
    b'{"text": ["t"]}': "is a list",
    b'{"text": true}': "is a truth value",
    b'{"text": "a\tb"}': "Invalid control character",
    b'{"text": "t"} {}': "Extra data",
    b"[" * 100_000: "not readable as JSON",
    b"\x00\xff\xfe": "not valid JSON",
}


def test_bad_lines_cost_themselves():
    good = {"text": "t"}
    values = [value for bad in BAD for value in (good, bad)]
    rows, events = read(lines(*values, good))
    assert [row["record"] for row in rows] == list(range(1, 2 * len(BAD) + 2, 2))
    offset = 0
    for number, (event, (bad, reason)) in enumerate(zip(events, BAD.items(), strict=True)):
        offset += len(lines(good))
        assert isinstance(event, Problem)
        assert (event.record, event.offset, event.documents, event.bytes) == (2 * number + 2, offset, 1, len(bad))
        assert reason in event.reason, bad
        offset += len(bad) + 1
        assert str(event.error()).startswith(f"in/x.jsonl, record {event.record}, byte {event.offset}: ")


def test_repairs():
    raw = lines(
        b'{"text": "a \\ud800 b"}',
        b'{"text": "a \xff b"}',
        b'{"text": "\\ud83d\\ude00", "n": NaN, "m": {"\\udfff": [-Infinity]}}',
        b'\xef\xbb\xbf{"text": "after a mark"}',
        b'{"text": "fine"}\r',
    )
    rows, events = read(raw)
    assert [row["text"] for row in rows] == ["a \ufffd b", "a \ufffd b", "😀", "after a mark", "fine"]
    assert json.loads(rows[2]["metadata"]) == {"n": None, "m": {"\ufffd": [None]}}
    assert {event.what: event.documents for event in events if isinstance(event, Repaired)} == {
        "unpaired surrogates were replaced": 2,
        "invalid UTF-8 was replaced": 1,
        "NaN, infinities and numbers beyond a double became null": 1,
    }


def test_strict_refuses_what_would_be_mended():
    raw = lines(b'{"text": "a \\ud800"}', b'{"text": "a \xff"}', b'{"text": "t", "n": NaN}', {"text": "t", "n": 1e300})
    rows, events = read(raw, strict=True)
    assert [row["record"] for row in rows] == [4]
    assert [event.reason for event in events] == [
        "`strict` refuses it: unpaired surrogates were replaced",
        "`strict` refuses it: invalid UTF-8 was replaced",
        "`strict` refuses it: NaN, infinities and numbers beyond a double became null",
    ]


def test_numbers_beyond_a_double_are_told():
    huge = b"9" * 5000
    rows, events = read(
        lines(b'{"text": "t", "a": 1e999, "b": [-1e400, 1e-400, 12]}', b'{"text": "t", "n": ' + huge + b"}")
    )
    assert [json.loads(row["metadata"]) for row in rows] == [{"a": None, "b": [None, 0.0, 12]}, {"n": None}]
    assert events == [Repaired("in/x.jsonl", "NaN, infinities and numbers beyond a double became null", 2)]


def test_a_missing_text_names_the_fields_and_the_key():
    rows, events = read(lines({"content": "t", "id": "1", "n": 2}, {}, {f"field {i}": 0 for i in range(30)}))
    assert rows == []
    assert events[0].reason == (
        "it has no text in the field 'text'; its fields are 'id', 'content', 'n': set `read.text_field` to the one that "
        "holds the text"
    )
    assert "it has no fields" in events[1].reason
    assert events[2].reason.count("'field ") == 12 and "and 18 more" in events[2].reason


def test_lines_that_end_in_carriage_returns_alone_are_named():
    rows, events = read(b'{"text": "a"}\r{"text": "b"}\r')
    assert rows == []
    assert [(event.documents, event.damage) for event in events] == [(1, True)]
    assert "its lines end in carriage returns alone" in events[0].reason


def test_a_half_copied_file_is_damaged():
    raw = lines({"text": "a"}, {"text": "b"})
    _, events = read(raw[:-4])
    assert events[0].damage
    assert events[0].reason.startswith("the file ends inside this record: not valid JSON")
    _, events = read(raw[:-4] + b"\n")
    assert not events[0].damage
    for name in ("x.jsonl.gz", "x.jsonl.zst", "x.jsonl.bz2", "x.jsonl.xz"):
        rows, events = read(b"", name)
        assert rows == [] and events[0].damage and "the file is empty" in events[0].reason


def test_numbers_in_metadata_stay_exact():
    big = 10**40 + 1
    row = read(lines({"text": "t", "big": big, "small": -(2**63), "deep": [{"n": 18446744073709551616}]}))[0][0]
    assert json.loads(row["metadata"]) == {"big": big, "small": -(2**63), "deep": [{"n": 18446744073709551616}]}


def test_empty_lines_and_last_line_without_end():
    rows, events = read(b'\n{"text": "a"}\n  \n{"text": "b"}')
    assert [(row["text"], row["record"]) for row in rows] == [("a", 2), ("b", 4)]
    assert events == [Skipped("in/x.jsonl", "empty line", 2, 0)]
    assert read(b"") == ([], [])


def test_lines_that_are_too_long():
    long = {"text": "x" * 5_000_000}
    raw = lines({"text": "a"}, long, {"text": "b"}, long)
    for name, packed in (("x.jsonl", raw), ("x.jsonl.gz", gzip.compress(raw))):
        rows, events = read(packed, name, max_record_bytes=1000)
        assert [(row["text"], row["record"]) for row in rows] == [("a", 1), ("b", 3)]
        assert [(event.record, event.reason, event.bytes) for event in events] == [
            (2, "max_record_bytes", 5_000_012),
            (4, "max_record_bytes", 5_000_012),
        ]
        assert all(isinstance(event, Dropped) for event in events)
        assert rows[1]["offset"] == raw.index(b'{"text": "b"}')


def test_compressions_read_the_same():
    raw = lines(*[{"id": str(i), "text": f"{i} " * (i * 7 % 500)} for i in range(3000)])
    expected, _ = read(raw)
    third = len(raw) // 3
    packs = {
        "in/x.jsonl.gz": gzip.compress(raw[:third]) + gzip.compress(raw[third:]),
        "in/x.jsonl.zst": zstandard.compress(raw[:third]) + zstandard.compress(raw[third:]),
    }
    for name, packed in packs.items():
        rows, events = read(packed, name, batch_bytes=10_000)
        assert events == []
        assert [row | {"file": "in/x.jsonl"} for row in rows] == expected


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.zst"])
def test_a_cut_file_costs_the_rest_and_says_so(name):
    one, two = lines({"text": "a"}, {"text": "b"}), lines(*[{"text": str(i) * 50} for i in range(100)])
    compress = gzip.compress if name.endswith("gz") else zstandard.compress
    first = compress(one)
    rows, events = read(first + compress(two)[:-20], name)
    assert [row["text"] for row in rows[:2]] == ["a", "b"]
    assert [row["record"] for row in rows] == list(range(1, len(rows) + 1))
    assert len(events) == 1
    assert isinstance(events[0], Problem)
    assert f"at byte {len(first)} of the compressed file" in events[0].reason
    assert "the rest of the file is lost" in events[0].reason
    whole = one + two
    assert events[0].offset == len(b"\n".join(whole.split(b"\n")[: len(rows)])) + 1


def test_an_array_is_one_part():
    raw = json.dumps([{"text": "x" * 100} for _ in range(200)], indent=1).encode()
    assert len(list(line_parts(io.BytesIO(raw), 1000))) == 1


def test_a_compressed_file_is_one_part_whatever_its_name():
    raw = gzip.compress(random.Random(1).randbytes(20_000))
    assert len(list(line_parts(io.BytesIO(raw), 1000))) == 1


def test_compression_is_known_by_the_content_or_as_the_key_says():
    raw = lines({"text": "a"}, {"text": "b"})
    for packed in (raw, gzip.compress(raw), zstandard.compress(raw)):
        for name in ("x.jsonl", "x.jsonl.gz", "x.jsonl.zst"):
            assert [row["text"] for row in read(packed, name)[0]] == ["a", "b"]
    assert read(gzip.compress(raw), "x.jsonl", compression="none")[0] == []
    assert len(read(gzip.compress(raw), "x.jsonl", compression="gzip")[0]) == 2


def test_a_window_that_is_too_large_is_refused_before_it_is_held():
    options = zstandard.ZstdCompressionParameters(window_log=27, write_content_size=False)
    out = io.BytesIO()
    with zstandard.ZstdCompressor(compression_params=options).stream_writer(out, closefd=False) as stream:
        stream.write(lines({"text": "a"}))
    for memory, kept in ((300 << 20, 1), (100 << 20, 0)):
        events, stream = [], io.BytesIO(out.getvalue())
        batches = list(read_batches(stream, "x.jsonl.zst", ReadSpec(), on_event=events.append, memory=memory))
        assert sum(batch.num_rows for batch in batches) == kept
        assert [event.damage for event in events] == [True] * (1 - kept)


@pytest.mark.parametrize("value", [b"1", b"1.5", b"{}", b"[]", b'{"a":1}', b'"ab"', b'{"a":{"b":2,"c":[3]}}'])
@pytest.mark.parametrize("first", [b"1", b"NaN", b'"\\u00e9"'])
def test_values_that_would_take_more_memory_than_there_is_are_refused(value, first):
    line = b'{"text":"t","a":[' + first + (b"," + value) * ((4 << 20) // (len(value) + 1)) + b"]}"
    commas = json.dumps({"text": "1,{}" * (1 << 20)}).encode()  # what stands in strings are no values
    memory = 48 << 20
    tracemalloc.start()
    events, stream = [], io.BytesIO(b"\n".join([line, commas, b'{"text": "next"}']))
    batches = list(read_batches(stream, "x.jsonl", ReadSpec(), on_event=events.append, memory=memory))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2 * memory  # before: twelve times
    assert [record for batch in batches for record in batch["record"].to_pylist()][-2:] == [2, 3]
    refused = [event for event in events if isinstance(event, Problem)]
    assert all("values, which may take" in event.reason and not event.damage for event in refused)
    assert refused or value in (b"1", b"1.5", b'"ab"')


def test_records_that_the_memory_has_no_room_for_are_failures_and_not_drops():
    raw = lines({"text": "word " * (1 << 20)}, {"text": "b"})
    for name, data in (
        ("x.jsonl", raw),
        ("x.jsonl.gz", gzip.compress(raw)),
        ("x.json", b"[" + b",".join(raw.splitlines()) + b"]"),
    ):
        events = []
        batches = list(read_batches(io.BytesIO(data), name, ReadSpec(), on_event=events.append, memory=24 << 20))
        assert [row["text"] for batch in batches for row in batch.to_pylist()] == ["b"]
        (event,) = events
        assert isinstance(event, Problem) and "run.task_memory" in event.reason and event.documents == 1


@pytest.mark.parametrize("name", ["x.jsonl", "x.csv", "x.txt"])
def test_utf16_is_refused_by_name(name):
    text = 'text\n{"text": "a line of words"}\n'
    for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        rows, events = read(text.encode(encoding), name, document="line")
        assert rows == [] and [event.damage for event in events] == [True], encoding
        assert "it is UTF-16" in events[0].reason


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.csv.gz", "x.txt.zst"])
def test_a_file_that_is_compressed_twice_is_refused_by_name(name):
    inner = gzip.compress(b'text\n{"text": "a line of words"}\n' * 50)
    raw = zstandard.compress(inner) if name.endswith(".zst") else gzip.compress(inner)
    rows, events = read(raw, name, document="line")
    assert rows == [] and [event.damage for event in events] == [True]
    assert "compressed twice, and holds gzip data" in events[0].reason


def test_what_is_no_json_at_all_is_shown():
    _, events = read(b"version https://git-lfs.github.com/spec/v1\n")
    assert events[0].reason.endswith("at its first character, 'version https://git-lfs.github.com/spec/'")


def test_parts_read_as_one():
    raw = lines(*[{"text": "x" * (i * 37 % 300)} for i in range(2000)]) + b'{"text": "no line end"}'
    expected, _ = read(raw)
    for part_bytes in (1, 100, 5000, 10**9):
        parts = list(line_parts(io.BytesIO(raw), part_bytes))
        rows = [row for part in parts for row in read(raw, part=part)[0]]
        assert rows == expected
        if part_bytes == 5000:
            assert max(part.length for part in parts) < 5400
            assert len(parts) > 50


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(
    st.lists(st.dictionaries(st.sampled_from(["text", "id", "url", "n", "a b"]), JSON_VALUES), max_size=6),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_against_the_standard_library(values, ascii_only):
    raw = b"".join(json.dumps(v, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass") + b"\n" for v in values)
    rows, events = read(raw)
    kept = [v for v in values if isinstance(v.get("text"), str)]
    assert len(rows) == len(kept)
    assert len([event for event in events if isinstance(event, Problem)]) == len(values) - len(kept)
    for row, value in zip(rows, kept, strict=True):
        assert row["text"] == value.pop("text")
        own, url = value.get("id"), value.get("url")
        if isinstance(own, str) and own:
            assert row["id"] == own
        assert row["url"] == (url if isinstance(url, str) else None)
        # What is no id, or no URL, stays.
        if type(own) in (str, int, NoneType):
            value.pop("id", None)
        if type(url) in (str, NoneType):
            value.pop("url", None)
        assert (json.loads(row["metadata"]) if row["metadata"] else {}) == value


def test_memory_does_not_grow_with_the_file():
    line = json.dumps({"id": "x", "text": "water " * 300, "n": 1}).encode() + b"\n"

    class Endless(io.RawIOBase):
        def __init__(self, size):
            self.left = size

        def read(self, size=-1):
            size = min(size, self.left) // len(line) * len(line)
            self.left -= size
            return line * (size // len(line))

    peaks = []
    for size in (8 << 20, 80 << 20):
        tracemalloc.start()
        count = 0
        for batch in read_batches(Endless(size), "x.jsonl", ReadSpec(), batch_bytes=1 << 20, on_event=print):
            count += batch.num_rows
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert count > size // len(line) - 200
    assert peaks[1] < peaks[0] * 1.2
    assert peaks[1] < 20 << 20


def test_unknown_format():
    with pytest.raises(InputError, match=r"in/x\.pdf: its name does not say what it holds"):
        read(b"", "in/x.pdf")


def test_real_files(shared_data):
    for path in sorted(shared_data.glob("*.jsonl.zst")):
        raw = zstandard.ZstdDecompressor().stream_reader(path.open("rb"), read_across_frames=True).read()
        expected = [json.loads(one) for one in raw.splitlines()] if len(raw) < 3_000_000 else None
        rows, events = read(path.read_bytes(), path.name)
        assert events == []
        assert len(rows) == raw.count(b"\n")
        if expected:
            assert [row["text"] for row in rows] == [value["text"] for value in expected]
            assert [row["id"] for row in rows if "id" in expected[0]] == [v["id"] for v in expected if "id" in v]
            rest = [{key: v for key, v in value.items() if key not in ("text", "id")} for value in expected]
            assert [json.loads(row["metadata"]) for row in rows] == rest
