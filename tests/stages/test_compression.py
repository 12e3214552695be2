"""Members: every kind of compression gives the same bytes, knows its member starts, and locates damage."""

import bz2
import gzip
import io
import lzma
import random

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.errors import InputError
from stages.read import ReadSpec, compression
from stages.read.compression import DamagedError, Members, compression_of


def zstd_stream(data: bytes) -> bytes:
    """A frame of unknown content size, in many blocks, with a checksum."""
    compressor = zstandard.ZstdCompressor(write_checksum=True).compressobj()
    parts = [compressor.compress(data[i : i + 5000]) for i in range(0, len(data), 5000)]
    return b"".join(parts) + compressor.flush()


COMPRESS = {
    None: lambda data: data,
    "gzip": lambda data: gzip.compress(data, 6, mtime=0),
    "zstd": zstd_stream,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
}
ONE_SHOT_ZSTD = zstandard.ZstdCompressor(3).compress


class Dribble(io.BytesIO):
    """A stream whose reads come short, as network streams may."""

    def read(self, size: int = -1) -> bytes:
        return super().read(min(size, 1000) if size > 0 else size)


def read_all(raw: bytes, kind: str | None, stream=io.BytesIO) -> list[tuple[int, bytes]]:
    members = Members(stream(raw), kind)
    found = []
    while members.open():
        content = bytearray()
        while piece := members.read():
            content += piece
        found.append((members.start, bytes(content)))
    return found


def sample(size: int, seed: int = 0) -> bytes:
    rng = random.Random(seed)
    return b"".join(rng.choice([b"water ", b"mill ", rng.randbytes(20)]) for _ in range(size // 8))[:size]


@pytest.mark.parametrize("stream", [io.BytesIO, Dribble])
@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_members_and_their_starts(kind, stream):
    contents = [sample(10, 1), sample(400_000, 2), b"", sample(3000, 3)]
    raws = [COMPRESS[kind](content) for content in contents]
    starts = [sum(map(len, raws[:i])) for i in range(len(raws))]
    assert read_all(b"".join(raws), kind, stream) == list(zip(starts, contents, strict=True))


def test_plain_is_one_member():
    data = sample(700_000)
    assert read_all(data, None) == [(0, data)]
    assert read_all(b"", None) == []


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_every_cut_is_seen(kind):
    first, second = COMPRESS[kind](sample(300, 4)), COMPRESS[kind](sample(300, 5))
    raw = first + second
    for cut in range(1, len(raw)):
        if cut == len(first):
            continue
        with pytest.raises(DamagedError) as caught:
            read_all(raw[:cut], kind)
        assert caught.value.offset == (0 if cut < len(first) else len(first))


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_a_changed_byte_never_passes_as_content(data):
    kind = data.draw(st.sampled_from(["gzip", "zstd"]))
    content = sample(5000, 6)
    raw = bytearray(COMPRESS[kind](content))
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        found = b"".join(piece for _, piece in read_all(bytes(raw), kind))
    except DamagedError:
        return
    assert found in (content, b"")  # a bit of the header that means nothing; a frame made skippable


def test_padding_and_skippable_frames_are_passed_over():
    one, two = sample(100, 7), sample(100, 8)
    gz = gzip.compress(one, mtime=0) + bytes(512) + gzip.compress(two, mtime=0) + bytes(300_000)
    assert [content for _, content in read_all(gz, "gzip")] == [one, two]
    skippable = (0x184D2A53).to_bytes(4, "little") + (5).to_bytes(4, "little") + b"abcde"
    zst = ONE_SHOT_ZSTD(one) + skippable + ONE_SHOT_ZSTD(two) + skippable
    assert [content for _, content in read_all(zst, "zstd")] == [one, two]


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("padding", [0, 600_000])
def test_recovery_at_the_next_member(kind, padding):
    compress = COMPRESS[kind]
    good, last = compress(b"WARC/ one"), compress(b"WARC/ two")
    bad = bytearray(compress(b"WARC/ bad" + sample(4000, 9)))
    bad[len(bad) // 2] ^= 0xFF
    # Noise that holds the magic number, and a member whose content is not what is looked for.
    noise = random.Random(1).randbytes(padding) + compression.MAGIC[kind] + b"??" + compress(b"other")
    raw = good + bytes(bad) + noise + last
    members = Members(io.BytesIO(raw), kind)
    assert members.open()
    assert members.read() == b"WARC/ one"
    assert members.read() == b""
    with pytest.raises(DamagedError) as caught:
        members.open()
        while members.read():
            pass
    assert caught.value.offset == len(good)
    assert members.recover(b"WARC/")
    assert members.open()
    assert members.start == len(raw) - len(last)
    assert members.read() == b"WARC/ two"
    assert members.read() == b""
    assert not members.open()


def test_no_recovery_where_nothing_follows():
    members = Members(io.BytesIO(b"\x1f\x8b\x08 nothing of use"), "gzip")
    members.open()
    with pytest.raises(DamagedError):
        members.read()
    assert not members.recover(b"WARC/")
    assert not members.open()


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
def test_pieces_stay_small_however_well_it_compresses(kind):
    raw = COMPRESS[kind](bytes(80_000_000))
    members = Members(io.BytesIO(raw), kind)
    sizes = []
    members.open()
    while piece := members.read():
        sizes.append(len(piece))
    assert sum(sizes) == 80_000_000
    assert max(sizes) <= 34_000_000


def test_long_zstd_windows():
    window = zstandard.ZstdCompressionParameters.from_level(1, window_log=28, enable_ldm=True)
    raw = zstandard.ZstdCompressor(compression_params=window).compressobj()
    data = sample(300_000)
    packed = raw.compress(data) + raw.flush()
    assert read_all(packed, "zstd")[0][1] == data


def test_names():
    assert compression_of("a/b.jsonl.gz") == "gzip"
    assert compression_of("b.warc.zst") == "zstd"
    assert compression_of("b.warc") is None


@pytest.mark.parametrize(
    ("name", "kind", "format"),
    [
        ("a.jsonl.zst", "zstd", "jsonl"),
        ("a.jsonl.zstd", "zstd", "jsonl"),
        ("a.jsonl.ZST", "zstd", "jsonl"),
        ("A.JSONL.GZ", "gzip", "jsonl"),
        ("b/a.JSONL", None, "jsonl"),
        ("a.WARC.gz", "gzip", "warc"),
        ("x.gz/a.parquet", None, "parquet"),
        ("https://h.org/a.jsonl.gz?download=true", "gzip", "jsonl"),
        ("https://h.org/a.jsonl.gz#part", "gzip", "jsonl"),
        ("https://h.org/get?file=a.jsonl.gz", None, None),
        ("in/a.jsonl.gz?download=true", "gzip", "jsonl"),
        ("in/what?.jsonl.gz", "gzip", "jsonl"),
        ("part-00000-c000.snappy.parquet", None, "parquet"),
        ("gz", None, None),
    ],
)
def test_what_a_name_says(name, kind, format):
    assert compression_of(name) == kind
    if format:
        assert ReadSpec().format_of(name) == format
    else:
        with pytest.raises(InputError, match="its name does not say what it holds"):
            ReadSpec().format_of(name)
