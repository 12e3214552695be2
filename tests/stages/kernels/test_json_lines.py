"""The JSON kernel against the standard library: it accepts nothing that is not JSON, and all that is ordinary."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.kernels.json_lines import NO_URL, PYTHON, URL, split_lines


def split(lines, names=("text", "id", "url"), with_rest=True):
    """(state, text, id, url, rest) of each line, by the kernel."""
    data = np.frombuffer(b"\n".join(lines) + b"\n", np.uint8)
    stops = np.cumsum([len(line) + 1 for line in lines]) - 1
    starts = np.concatenate([[0], stops[:-1] + 1])
    keys = np.frombuffer("".join(names).encode() + b" ", np.uint8)
    key_offsets = np.cumsum([0, *(len(name.encode()) for name in names)])
    size, count = int((stops - starts).sum()), len(lines)
    out = np.full(4 * size + count + 8, 0xEE, np.uint8)
    firsts = np.arange(4) * size
    ends, states = np.empty(4 * (count + 1), np.int64), np.empty(count, np.uint8)
    split_lines(data, starts, stops, keys, key_offsets, with_rest, out, firsts, ends, states)
    assert (out[-8:] == 0xEE).all()
    ends = ends.reshape(-1, 4)
    assert (ends[:, :3] <= firsts[1:]).all()
    parts = [[out[ends[i, k] : ends[i + 1, k]].tobytes() for k in range(4)] for i in range(count)]
    return [(int(state), *part) for state, part in zip(states, parts, strict=True)]


def reject(constant):
    raise ValueError(constant)


def standard(line):
    """The line as an object by the standard library, strictly; None where it is not valid."""
    try:
        value = json.loads(line.decode(), parse_constant=reject)
        json.dumps(value, ensure_ascii=False).encode()  # no lone surrogates
        return value if isinstance(value, dict) else None
    except (ValueError, RecursionError):
        return None


def check(line):
    """What the kernel accepts, it reads as the standard library does. Returns whether it accepted."""
    state, text, id, url, rest = split([line])[0]
    if state == PYTHON:
        assert (text, id, url, rest) == (b"", b"", b"", b"")
        return False
    value = standard(line)
    assert value is not None, line
    assert text.decode() == value.pop("text")
    own = value.pop("id", None)
    assert id.decode() == (own if isinstance(own, str) else "" if own is None else str(own))
    link = value.pop("url", None)
    assert (state == URL) == isinstance(link, str)
    assert url.decode() == (link if isinstance(link, str) else "")
    assert (json.loads(rest) if rest else {}) == value
    return True


SCALARS = st.none() | st.booleans() | st.integers() | st.text(max_size=12)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False).filter(lambda x: x == 0 or 1e-90 < math.fabs(x) < 1e90)
VALUES = st.recursive(
    SCALARS | NUMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)
DOCUMENTS = st.fixed_dictionaries(
    {"text": st.text()},
    optional={"id": st.text() | st.integers(min_value=0) | st.none(), "url": VALUES, "é key": VALUES, "a": VALUES},
)
SPACING = st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " :  ")])


@given(DOCUMENTS, st.booleans(), SPACING)
@settings(max_examples=150, deadline=None)
def test_ordinary_lines_are_accepted(document, ascii_only, separators):
    line = json.dumps(document, ensure_ascii=ascii_only, separators=separators).encode()
    escaped_key = ascii_only and "é key" in document  # the one thing here that is left to Python
    assert check(line) != escaped_key
    assert check(b" \t" + line + b" \r") != escaped_key


@given(DOCUMENTS, st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_lines_are_never_misread(document, data):
    line = bytearray(json.dumps(document, ensure_ascii=data.draw(st.booleans())).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(line)))
        line[at : at + data.draw(st.integers(0, 3))] = data.draw(
            st.binary(max_size=3)
            | st.sampled_from([b'"', b"\\", b"\\u", b"\\ud83d", b"{", b"}", b"[", b"]", b",", b":"])
        )
    check(bytes(line).replace(b"\n", b" "))


PIECES = [b'"', b"\\", b"u", b"00", b"d8", b"{", b"}", b"[", b"]", b",", b":", b" ", b"1", b"0", b"-", b".", b"e", b"+"]
PIECES += [
    b"true",
    b"null",
    b"false",
    b'"a"',
    b"\xc3\xa9",
    b"\xed\xa0\x80",
    b"\xf0\x9f\x98\x80",
    b"\x00",
    b"NaN",
    b"\xff",
]


@given(st.lists(st.sampled_from(PIECES), max_size=8))
@settings(max_examples=600, deadline=None)
def test_values_made_of_pieces(pieces):
    value = b"".join(pieces)
    for line in (b'{"text":"t","a":' + value + b"}", b'{"text":"' + value + b'"}', b'{"text":"t"' + value + b"}"):
        accepted = check(line)
        if not accepted and (found := standard(line)) is not None:
            # What is valid and yet left to Python: repeated and escaped keys, exponents of three digits, ids of floats.
            odd = b"\\" in line or line.count(b'"a"') > 1 or not isinstance(found.get("text"), str) or b"e" in value
            assert odd, line


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"  ",
        b"{}",
        b"[]",
        b'{"text":1}',
        b'{"text":null}',
        b'{"text":"a","text":"b"}',
        b'{"text":"a","id":1.5}',
        b'{"text":"a","id":-1}',
        b'{"text":"a","id":true}',
        b'{"text":"a","id":["x"]}',
        b'{"\\u0074ext":"a"}',
        b'{"id":"a"}',
        b'{"text":"a","x":1e999}',
        b'{"text":"a","x":01}',
        b'{"text":"a",}',
        b'{"text":"a"}}',
        b'{"text":"a","x":[1,]}',
        b'{"text":"a","x":{"y" 1}}',
        b'{"text":"\xc0\x80"}',
        b'{"text":"\xf4\x90\x80\x80"}',
        b'{"text":"a","x":' + b"[" * 64 + b"]" * 64 + b"}",
    ],
)
def test_left_to_python(line):
    assert split([line])[0][0] == PYTHON


def test_many_lines_with_bad_ones_between():
    lines = [
        b'{"text":"a","id":"1","n":[1, 2]}',
        b"bad",
        b'{"text":"b","id":"2","url":"u"}',
        b'{"text":"c","n":1',
        b"{}",
    ]
    assert split(lines) == [
        (NO_URL, b"a", b"1", b"", b'{"n":[1, 2]}'),
        (PYTHON, b"", b"", b"", b""),
        (URL, b"b", b"2", b"u", b""),
        (PYTHON, b"", b"", b"", b""),
        (PYTHON, b"", b"", b"", b""),
    ]
    assert split(lines[:1], ("n", "", "text"), with_rest=False)[0] == (PYTHON, b"", b"", b"", b"")
    assert split(lines[:1], ("text", "", ""), with_rest=False)[0] == (NO_URL, b"a", b"", b"", b"")


def test_numbers_keep_their_digits():
    line = b'{"text":"a","x":[123456789012345678901234567890,1.10,-0.0e+05]}'
    assert split([line])[0][4] == b'{"x":[123456789012345678901234567890,1.10,-0.0e+05]}'
