"""CSV and plain text: every row, line or file is a document, a named problem, or named as left out."""

import csv
import gzip
import io
import json
import random

import pytest

from stages.document import DOCUMENT
from stages.errors import InputError
from stages.read import Dropped, Problem, ReadSpec, Repaired, Skipped, read_batches


def read(raw, name="in/x.csv", batch_bytes=1 << 20, **spec):
    events = []
    batches = list(
        read_batches(io.BytesIO(raw), name, ReadSpec(**spec), batch_bytes=batch_bytes, on_event=events.append)
    )
    for batch in batches:
        assert batch.schema == DOCUMENT
        batch.validate(full=True)
    return [row for batch in batches for row in batch.to_pylist()], events


def test_rows_of_a_table():
    raw = b'\xef\xbb\xbfid,text,url,n,n\r\n7,"one, ""two""\nthree",http://x,1,2\r\n\r\n,\xc3\xa9,,,\r\n'
    rows, events = read(raw)
    assert [(row["id"], row["text"], row["url"]) for row in rows] == [
        ("7", 'one, "two"\nthree', "http://x"),
        ("in/x.csv:2", "é", None),
    ]
    assert json.loads(rows[0]["metadata"]) == {"n": "1", "n#2": "2"}
    assert [raw[row["offset"] :][:2] for row in rows] == [b"7,", b",\xc3"]
    same = "of columns with one name the first kept it, and those behind it became NAME#2, NAME#3"
    assert events == [Skipped("in/x.csv", "empty line", 1, 0), Repaired("in/x.csv", same, 2)]
    assert read(raw, metadata=False, id_field=None)[0][0]["id"] == "in/x.csv:1"


def test_delimiters_and_compression():
    raw = b"text\tid\na b, c\t1\n"
    assert read(raw, "x.tsv")[0][0]["text"] == "a b, c"
    assert read(gzip.compress(raw), "x.TSV.gz")[0][0]["text"] == "a b, c"
    assert read(raw.replace(b"\t", b";"), delimiter=";")[0][0]["text"] == "a b, c"


def test_rows_are_those_of_the_standard_library():
    rng = random.Random(5)
    values = [["".join(rng.choices('ab"",\n\r é', k=rng.randrange(12))) for _ in range(3)] for _ in range(2000)]
    out = io.StringIO()
    csv.writer(out).writerows([["id", "text", "x"], *values])
    raw = out.getvalue().encode()
    rows, events = read(raw, batch_bytes=3000, id_field=None)
    assert events == []
    assert [(row["text"], json.loads(row["metadata"])["x"]) for row in rows] == [(v[1], v[2]) for v in values]
    assert [row["record"] for row in rows] == list(range(1, 2001))


def test_bad_rows_cost_themselves():
    long = b"x" * 5000
    raw = b'text,n\na,1\nb\nc,2,3\n"d"e,4\n\xff,5\n' + long + b',6\n"' + long + b"\n" + long + b'",7\ng,8\n'
    rows, events = read(raw, max_record_bytes=1000)
    assert [(row["text"], row["record"]) for row in rows] == [("a", 1), ("\ufffd", 5), ("g", 8)]
    assert [(type(event), event.record) for event in events[:-1]] == [
        (Problem, 2), (Problem, 3), (Problem, 4), (Dropped, 6), (Dropped, 7),
    ]  # fmt: skip
    assert events[0].reason == "it has 1 fields, and the header has 2"
    assert "not valid CSV" in events[2].reason and not events[2].damage
    assert events[-1] == Repaired("in/x.csv", "invalid UTF-8 was replaced", 1)
    assert [raw[event.offset :][: event.bytes][:2] for event in events[:4]] == [b"b\n", b"c,", b'"d', b"xx"]
    assert [row["record"] for row in read(b"text\na\n\xff\n", strict=True)[0]] == [1]


def test_a_quoted_field_that_is_too_long_is_passed_over_whole():
    inside = b"looks, like\n" * 300 + b'a ""row"", too\n' + b"x, " * 50_000 + b"\nlooks, like\n"
    far = b"y" * 600_000  # more than is read at once: no line of it is held
    for begin, end in ((b"", b""), (far, b""), (b"", far), (far, far)):
        row = b'"' + begin + inside + end + b'",2\n'
        rows, events = read(b"text,n\na,1\n" + row + b"b,3\n", max_record_bytes=2000, batch_bytes=500)
        assert [(row["text"], row["record"]) for row in rows] == [("a", 1), ("b", 3)]
        assert events == [Dropped("in/x.csv", "max_record_bytes", 2, 11, len(row))]


def test_a_quoted_field_without_an_end_is_damage_and_its_rows_are_no_documents():
    rows, events = read(b'text,n\na,1\n"b,2\n' + b"c,3\n" * 5000, max_record_bytes=1000)
    assert [row["text"] for row in rows] == ["a"]
    assert [(event.record, event.bytes, event.damage) for event in events] == [(2, 20_005, True)]
    assert "the file ends inside this row: a quoted field has no end" in events[0].reason
    with pytest.raises(InputError, match=r"its header is longer than read\.max_record_bytes"):
        read(b'"text,n\n' + b"c,3\n" * 5000, max_record_bytes=1000)


def test_a_half_copied_table_is_damaged():
    for raw in (b'text,n\na,1\n"b c', b"text,n\na,1\nb c"):
        rows, events = read(raw)
        assert [row["text"] for row in rows] == ["a"]
        assert events[0].damage and events[0].reason.startswith("the file ends inside this row")
    rows, events = read(gzip.compress(b"text\n" + b"a\n" * 5000)[:-20], "x.csv.gz")
    assert events[-1].damage


def test_a_table_without_the_text():
    with pytest.raises(InputError, match=r"no column 'text'; its columns are 'a', 'b': set `read\.text_field`"):
        read(b"a,b\n1,2\n")
    with pytest.raises(InputError, match=r"no column 'text'; its columns are 'a;text;b': set `read.delimiter` to ';'"):
        read(b"a;text;b\n1;2;3\n")
    assert read(b"") == ([], [])


def test_a_file_or_a_line_is_a_document():
    raw = "\ufeffone é\r\n\r\n  \ntwo\nthree".encode()
    rows, events = read(raw, "in/x.txt")
    assert [(row["id"], row["text"], row["offset"]) for row in rows] == [
        ("in/x.txt:1", "one é\r\n\r\n  \ntwo\nthree", 0)
    ]
    assert events == []
    rows, events = read(raw, "in/x.txt", document="line")
    assert [(row["text"], row["record"]) for row in rows] == [("one é", 1), ("two", 4), ("three", 5)]
    assert raw[rows[1]["offset"] :].startswith(b"two")
    assert events == [Skipped("in/x.txt", "empty line", 2, 0)]
    assert read("\ufeffmühle".encode("utf-16-le"), "x.txt")[0][0]["text"] == "mühle"
    assert read(b" \n", "x.txt") == ([], [Skipped("x.txt", "empty file", 1, 0)])


def test_texts_that_are_too_long_damaged_or_no_utf8():
    rows, events = read(b"x" * 3_000_000, "x.txt", max_record_bytes=1_000_000)
    assert rows == [] and events == [Dropped("x.txt", "max_record_bytes", 1, 0, 3_000_000)]
    rows, events = read(b"a\n" + b"x" * 3_000_000 + b"\nb", "x.txt", max_record_bytes=1_000_000, document="line")
    assert [row["record"] for row in rows] == [1, 3] and events[0].bytes == 3_000_000
    rows, events = read(gzip.compress(random.Random(1).randbytes(5000))[:-20], "x.txt.gz")
    assert rows == [] and events[0].damage and events[0].documents == 1
    for spec, kept in (({}, 1), ({"strict": True}, 0)):
        rows, events = read(b"caf\xe9", "x.txt", **spec)
        assert len(rows) == kept and isinstance(events[0], Problem if spec else Repaired)


def test_a_file_in_another_encoding_is_no_mojibake():
    text = "Das Wasser fließt über die Räder der Mühle, größere Mühlräder drehen sich gemächlich.\n" * 3
    for encoding in ("cp1252", "utf-16-le", "utf-16"):
        rows, events = read(text.encode(encoding), "x.txt")
        assert [row["text"] for row in rows] == [text]
        assert [event.documents for event in events] == ([] if encoding == "utf-16" else [1])
    rows, events = read(text.encode("cp1252"), "x.txt", strict=True)
    assert rows == [] and "not UTF-8" in events[0].reason
    rows, events = read(text.encode().replace(b"\xc3\xbc", b"\xc3", 1), "x.txt")
    assert [row["text"] for row in rows] == [text.replace("ü", "\ufffd", 1)]
    assert [(type(event), event.documents) for event in events] == [(Repaired, 1)]


@pytest.mark.parametrize("raw", [b"%PDF-1.7 words", b"PK\x03\x04 words", bytes(range(256)) * 8])
def test_a_file_that_is_no_text_is_refused(raw):
    rows, events = read(raw, "x.txt")
    assert rows == [] and [(type(event), event.documents) for event in events] == [(Problem, 1)]
    assert "it is no text" in events[0].reason


def test_lines_that_end_in_carriage_returns_alone_are_named():
    with pytest.raises(InputError, match=r"its header: its lines end in carriage returns alone: .* \(tr"):
        read(b"text,id\ra b,1\rc d,2\r")
    rows, events = read(b"text,id\na b,1\rc d,2\ne,3\n")
    assert [row["text"] for row in rows] == ["e"]
    assert [event.reason[:42] for event in events] == ["its lines end in carriage returns alone: e"]


def test_a_header_that_is_no_csv_is_not_taken_from_the_next_row():
    with pytest.raises(InputError, match="its header: it is not valid CSV"):
        read(b'"text"x,id\ntext,id\na,1\n')
