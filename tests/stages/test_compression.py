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
from stages.read import ReadSpec, compression, read_batches
from stages.read.compression import DamagedError, Members, compression_by, compression_of
from stages.read.split import line_parts


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
        ("a.jsonl.gzip", "gzip", "jsonl"),
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


@pytest.mark.parametrize("name", ["a.jsonl.lz4", "a.jsonl.br", "a.jsonl.Z", "a.zip", "a.tar.gz", "b/a.TGZ", "a.jsonl.snappy?x=1"])
def test_a_compression_that_is_not_read_is_named(name):
    with pytest.raises(InputError, match=r"packed in a way that is not read \(\.bz2, \.gz, .*unpack it"):
        ReadSpec().format_of(name)


@pytest.mark.parametrize("count", [1, 1200, 20_000])
def test_any_number_of_skippable_frames(count):
    skippable = (0x184D2A50).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"
    raw = skippable * count + ONE_SHOT_ZSTD(b"one") + skippable * count + bytes(9) + ONE_SHOT_ZSTD(b"two") + skippable * count
    for name in ("x.zst", "x"):
        members = Members.of_file(io.BytesIO(raw), name)
        found = []
        while members.open():
            found.append(members.read())
            assert members.read() == b""
        assert found == [b"one", b"two"]


def decompressed(raw: bytes, name: str, compression=None) -> bytes:
    members = Members.of_file(io.BytesIO(raw), name, compression)
    parts = []
    while members.open():
        while piece := members.read():
            parts.append(piece)
    return b"".join(parts)


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.zst", "x", "x.ZST"])
@pytest.mark.parametrize("kind", [None, "gzip", "zstd", "bzip2", "xz"])
def test_the_first_bytes_know_better_than_the_name(kind, name):
    for content in (b'{"text": "a"}\n', b"", b"a" * 100_000):
        raw = COMPRESS[kind](content)
        assert decompressed(raw, name, kind or "none") == content
        if raw:
            assert decompressed(raw, name) == content


def test_the_name_is_believed_where_the_bytes_do_not_tell():
    assert compression_by(b"\0\x01damaged", "x.gz") == "gzip"
    assert compression_by(b"", "x.zst") == "zstd"
    assert compression_by(b"BZh91AY", "x.txt.bz2") == "bzip2"  # cut within its first bytes
    assert compression_by(b"\x28\xb5", "x.txt.zst") == "zstd"
    assert compression_by(b"plain text", "x.gz") is None
    assert compression_by(b"BZhello", "x.txt") is None
    with pytest.raises(DamagedError, match="no zstd data here"):
        decompressed(b"plain text", "x.jsonl", "zstd")


@pytest.mark.parametrize(("kind", "name"), [("gzip", "x.gz"), ("zstd", "x.zst"), ("bzip2", "x.bz2"), ("xz", "x.xz")])
def test_a_compressed_file_is_not_empty(kind, name):
    with pytest.raises(DamagedError, match=f"the file is empty, which no {kind} file is"):
        decompressed(b"", name)
    assert decompressed(b"", "x.jsonl") == b""
    with pytest.raises(DamagedError, match=f"holds nothing but 5,000 zero bytes, which no {kind} file is"):
        Members.of_file(io.BytesIO(bytes(5000)), name).open()  # as a copy leaves it that reserved the space


def test_a_window_that_memory_cannot_hold_is_refused_before_it_is_held():
    """The header alone says it: nothing of the size is taken."""
    large = zstandard.ZstdCompressionParameters.from_level(1, window_log=31, enable_ldm=True)
    packer = zstandard.ZstdCompressor(compression_params=large).compressobj()
    raw = packer.compress(sample(100)) + packer.flush()
    with pytest.raises(DamagedError, match="it asks for 2,048 MiB of memory, and has 1,024"):
        decompressed(raw, "x.zst")
    header = b"\x28\xb5\x2f\xfd" + bytes([0b1110_0000]) + (3 << 30).to_bytes(8, "little")  # one segment of 3 GiB
    with pytest.raises(DamagedError, match="it asks for 3,072 MiB"):
        decompressed(header + b"\1\0\0", "x.zst")
    raw = lzma.compress(sample(100), filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 16 << 20}])
    for room, works in ((8 << 20, False), (32 << 20, True)):
        members = Members.of_file(io.BytesIO(raw), "x.xz", max_window=room)
        assert members.open()
        if works:
            assert members.read()
        else:
            with pytest.raises(DamagedError, match="Memory usage limit exceeded"):
                members.read()


@pytest.mark.parametrize("packed", [False, True])
def test_the_dictionary_of_a_warc_file(packed):
    contents = [sample(3000, seed) + b"water turns the mill wheel" * 5 for seed in range(200)]
    dictionary = zstandard.train_dictionary(4096, contents)
    payload = ONE_SHOT_ZSTD(dictionary.as_bytes()) if packed else dictionary.as_bytes()
    compressor = zstandard.ZstdCompressor(3, dict_data=dictionary)
    frames = [compressor.compress(content) for content in contents]
    first = (0x184D2A5D).to_bytes(4, "little") + len(payload).to_bytes(4, "little") + payload
    assert decompressed(first + b"".join(frames), "x.warc.zst") == b"".join(contents)
    with pytest.raises(DamagedError, match=r"[Dd]ictionary"):
        decompressed(b"".join(frames), "x.warc.zst")
    other = (0x184D2A5D).to_bytes(4, "little") + (3).to_bytes(4, "little") + b"abc"  # a frame of other use
    assert decompressed(other + ONE_SHOT_ZSTD(b"one"), "x.zst") == b"one"


@pytest.mark.parametrize("kind", ["gzip", "zstd", "bzip2", "xz"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.csv", "x.txt"])
def test_lines_of_a_file_whose_name_does_not_tell(kind, name):
    """Read whole, not cut: lines are looked for in no compressed file."""
    noise = random.Random(3)
    texts = [noise.randbytes(40).hex() for _ in range(300)]
    if name.startswith("x.jsonl"):
        lines = "".join(f'{{"text": "{text}"}}\n' for text in texts)
    else:
        lines = ("text\n" if name == "x.csv" else "") + "\n".join(texts) + "\n"
    raw = COMPRESS[kind](lines.encode())
    (part,) = line_parts(io.BytesIO(raw), 1000)
    assert (part.offset, part.length, part.first_record) == (0, len(raw), 1)
    for spec in (ReadSpec(document="line"), ReadSpec(document="line", compression=kind)):
        events = []
        batches = read_batches(io.BytesIO(raw), name, spec, on_event=events.append, part=part)
        assert [text for batch in batches for text in batch.column("text").to_pylist()] == texts
        assert events == []


def test_a_compression_that_is_said_is_not_looked_for():
    for name, said in (("x.jsonl", "zstd"), ("x.jsonl.gz", "gzip"), ("x.warc", "gzip")):
        events = []
        assert list(read_batches(io.BytesIO(b"plain text\n"), name, ReadSpec(compression=said), on_event=events.append)) == []
        assert [f"no {said} data here" in event.reason for event in events] == [True]
