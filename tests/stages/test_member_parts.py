"""Parts of compressed JSON lines: together they are the file, each begins behind a line end, and little is decompressed twice."""

from __future__ import annotations

import bz2
import functools
import gzip
import io
import json
import lzma
import random
from collections.abc import Callable
from itertools import pairwise

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from stages.errors import InputError
from stages.read.split import Member, MemberPart, member_parts, open_part

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": lambda data: gzip.compress(data, 1),
    ".zst": lambda data: zstandard.compress(data, 1),
    ".bz2": lambda data: bz2.compress(data, 1),
    ".xz": lambda data: lzma.compress(data, preset=0),
}


def content_of(data: bytes, name: str, part: MemberPart) -> bytes:
    stream = io.BytesIO(data)
    stream.seek(part.member.start)
    return open_part(stream, name, (part.offset, part.length), part.member).read()


def check(raw: bytes, data: bytes, name: str, parts: list[MemberPart]) -> None:
    at = 0
    for part in parts:
        assert part.offset == at and part.length > 0
        assert at == 0 or raw[at - 1 : at] == b"\n"
        assert part.first_record == raw.count(b"\n", 0, at) + 1
        assert content_of(data, name, part) == raw[at : at + part.length]
        at += part.length
    assert not parts or at == len(raw)


@functools.cache
def prose(size: int = 16_000_000) -> bytes:
    """Lines of letters drawn at random, some of them longer than what is decompressed at once."""
    draw = random.Random(0)
    letters = draw.choices(b"abcdefghijklmnopqrstuvwxyz     ", k=1 << 20)
    lines, made = [], 0
    while made < size:
        length = 2_000_000 if draw.random() < 0.0005 else draw.randrange(4000)
        begin = draw.randrange(len(letters) - 4000)
        text = bytes(letters[begin : begin + length]) * (1 + length // len(letters))
        lines.append(json.dumps({"text": text.decode()}).encode() + b"\n")
        made += len(lines[-1])
    return b"".join(lines)


def packed(suffix: str, members: int, size: int = 0) -> bytes:
    text = prose()[: size or None]
    step = len(text) // members + 1
    return b"".join(COMPRESS[suffix](text[at : at + step]) for at in range(0, len(text), step))


@pytest.mark.parametrize(
    ("suffix", "members", "least", "most"), [(".gz", 1, 4, 4), (".zst", 1, 4, 4), (".zst", 2, 7, 8), (".gz", 30, 30, 60)]
)
def test_as_many_parts_begin_in_a_member_as_are_asked_for(suffix: str, members: int, least: int, most: int) -> None:
    data = packed(suffix, members)
    parts = member_parts(io.BytesIO(data), f"a.jsonl{suffix}", len(data) // 60, in_member=4)
    check(prose(), data, f"a.jsonl{suffix}", parts)
    assert least <= len(parts) <= most and max(part.length for part in parts) < 0.4 * len(prose())


@pytest.mark.parametrize(("suffix", "members", "least"), [(".bz2", 1, 0), (".bz2", 6, 6), (".xz", 1, 0)])
def test_what_decompresses_slowly_is_cut_within_short_streams_only(suffix: str, members: int, least: int) -> None:
    size = 5_000_000
    data = packed(suffix, members, size)
    parts = member_parts(io.BytesIO(data), f"a.jsonl{suffix}", len(data) // 20, in_member=4)
    check(prose()[:size], data, f"a.jsonl{suffix}", parts)
    assert bool(parts) == bool(least) and len(parts) >= least


def test_only_its_beginning_and_what_can_be_told_from_it_is_needed_of_a_file_with_a_dictionary() -> None:
    samples = [json.dumps({"id": n, "text": f"the words of number {n}"}).encode() + b"\n" for n in range(3000)]
    dictionary = zstandard.train_dictionary(4000, samples)
    packer = zstandard.ZstdCompressor(dict_data=dictionary)
    held = dictionary.as_bytes()
    frames = [packer.compress(b"".join(samples[at : at + 100])) for at in range(0, 3000, 100)]
    data = b"\x5d\x2a\x4d\x18" + len(held).to_bytes(4, "little") + held + b"".join(frames)
    parts = member_parts(io.BytesIO(data), "a.jsonl.zst", len(data) // 10, in_member=4)
    check(b"".join(samples), data, "a.jsonl.zst", parts)
    assert len(parts) > 3 and {part.member for part in parts} == {Member()}


def test_a_part_that_begins_where_a_member_does_decompresses_nothing_before_it() -> None:
    lines = [json.dumps({"id": number, "text": "words " * 2000}).encode() + b"\n" for number in range(60)]
    data = b"".join(map(zstandard.compress, lines))
    parts = member_parts(io.BytesIO(data), "a.jsonl.zst", len(data) // 20, in_member=2)
    check(b"".join(lines), data, "a.jsonl.zst", parts)
    assert len(parts) > 10 and all(part.member.content == part.offset for part in parts)


@pytest.mark.parametrize("harm", [lambda data: data[:-10], lambda data: data + b"no member", lambda data: gzip.compress(data)])
def test_what_is_damaged_or_compressed_twice_is_read_as_a_whole(harm: Callable[[bytes], bytes]) -> None:
    data = harm(packed(".gz", 3))
    assert member_parts(io.BytesIO(data), "a.jsonl.gz", 100_000, in_member=4) == []


def test_one_array_is_read_as_a_whole() -> None:
    data = gzip.compress(b"[\n" + b",\n".join(b'{"text": "words"}' for _ in range(200_000)) + b"\n]", 1)
    assert member_parts(io.BytesIO(data), "a.json.gz", len(data) // 8, in_member=4) == []


def test_a_file_that_is_not_what_was_cut_is_an_error_of_that_file() -> None:
    data = packed(".gz", 2)
    *_, last = member_parts(io.BytesIO(data), "a.jsonl.gz", len(data) // 8, in_member=4)
    for other in (data[:-2000], gzip.compress(prose()[: last.offset // 2], 1)):
        with pytest.raises(InputError, match=r"a\.jsonl\.gz, byte"):
            content_of(other, "a.jsonl.gz", last._replace(member=Member()))


@given(
    lines=st.lists(st.binary(max_size=300).map(lambda line: line.replace(b"\n", b"") + b"\n"), min_size=1, max_size=300),
    ends=st.binary(max_size=5).filter(lambda text: b"\n" not in text),
    cuts=st.lists(st.integers(0, 30_000), max_size=6),
    suffix=st.sampled_from(sorted(COMPRESS)),
    part_bytes=st.integers(1, 20_000),
)
def test_parts_are_the_file(lines: list[bytes], ends: bytes, cuts: list[int], suffix: str, part_bytes: int) -> None:
    raw = b'{"first": 1}\n' + b"".join(lines) + ends
    places = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    data = b"".join(COMPRESS[suffix](raw[a:b]) for a, b in pairwise(places))
    check(raw, data, f"a.jsonl{suffix}", member_parts(io.BytesIO(data), f"a.jsonl{suffix}", part_bytes, in_member=3))
