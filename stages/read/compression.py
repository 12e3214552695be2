"""Decompression of a stream as members, in pieces of bounded size, with damage located.

A gzip file is a sequence of members, a zstd file of frames, a bzip2 or xz file of streams; here all are "members", and
a plain file is a single one. Each member's start in the file is known, its end is checked (size, checksum), and after
damage reading can go on at the next member. Nothing of this is kept beyond the current piece.
"""

from __future__ import annotations

import bz2
import lzma
import re
from collections.abc import Callable
from typing import Any, BinaryIO, Literal, Protocol

import zstandard
from isal import isal_zlib  # inflates 1.5 to 2 times as fast as zlib, and checks as much

from stages.read.names import suffixes

Compression = Literal["none", "gzip", "zstd", "bzip2", "xz"]

MAGIC = {"gzip": b"\x1f\x8b\x08", "zstd": b"\x28\xb5\x2f\xfd", "bzip2": b"BZh", "xz": b"\xfd7zXZ\x00"}
SUFFIXES = {".gz": "gzip", ".gzip": "gzip", ".zst": "zstd", ".zstd": "zstd", ".bz2": "bzip2", ".xz": "xz"}
RAW_BYTES = 256 << 10  # compressed bytes taken from the stream at once
FEED_BYTES = 32 << 10  # compressed bytes given to a decompressor at once; deflate makes at most 33 MB of them
SALVAGE_BYTES = 64  # fed at once to get out what stands before damage
PIECE_BYTES = 1 << 20  # most decompressed bytes in one piece, where the decompressor can be told
MAX_WINDOW = 1 << 30  # bytes that a zstd frame may ask to be held (--long=30); more is not within a task's memory

MAX_DICTIONARY = 64 << 20  # bytes of a zstd dictionary, compressed or not

# What a stream begins with, told from text more surely than by what every member begins with.
_BEGINS = re.compile(
    rb"(?P<gzip>\x1f\x8b\x08)|(?P<zstd>\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18)|(?P<xz>\xfd7zXZ\x00)"
    rb"|(?P<bzip2>BZh[1-9](?:\x31\x41\x59\x26\x53\x59|\x17\x72\x45\x38\x50\x90))"
)
_BINARY = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_NOT_ZERO = re.compile(rb"[^\x00]")
HEAD_BYTES = 64  # looked at to tell what a stream is


class DamagedError(Exception):
    """A stream that ends too early or does not decompress; `offset` is where the damaged member begins."""

    def __init__(self, offset: int, reason: str) -> None:
        super().__init__(reason)
        self.offset, self.reason = offset, reason


def compression_of(name: str) -> str | None:
    """The compression that a file name's suffix stands for: "gzip", "zstd", "bzip2", "xz", or None for none."""
    return SUFFIXES.get((suffixes(name) or [""])[-1])


def compression_by(head: bytes, name: str) -> str | None:
    """How a file with these first bytes is compressed, like `compression_of`.

    The bytes know better than the name: what was decompressed on its way often keeps its suffix, what was compressed
    often has none. The name is believed of a file that is neither text nor begins as compressed files do, and
    of one that is empty or ends within its first bytes.
    """
    if found := _BEGINS.match(head):
        return found.lastgroup
    if (named := compression_of(name)) is None:
        return None
    begun = MAGIC[named].startswith(head[: len(MAGIC[named])])
    return named if begun or _BINARY.search(head[:HEAD_BYTES]) else None


class _Decoder(Protocol):
    """One member's decompressor. `take` consumes from the front of `data`; `done` once the member ended and checked."""

    done: bool
    hungry: bool  # whether it makes nothing more without more data

    def take(self, data: memoryview) -> tuple[bytes, int]: ...


class _Gzip:
    def __init__(self) -> None:
        self.inner, self.done = isal_zlib.decompressobj(31), False
        self.hungry = True

    def take(self, data: memoryview) -> tuple[bytes, int]:
        piece = self.inner.decompress(data[:FEED_BYTES])
        self.done = self.inner.eof
        return piece, min(len(data), FEED_BYTES) - len(self.inner.unused_data)


class _Bounded:
    """bzip2 and xz: their decompressors hold back what would exceed the size asked for."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.done = inner, False
        self.hungry = True

    def take(self, data: memoryview) -> tuple[bytes, int]:
        used = min(len(data), FEED_BYTES) if self.hungry else 0
        piece = self.inner.decompress(data[:used], PIECE_BYTES)
        self.done, self.hungry = self.inner.eof, self.inner.needs_input
        return piece, used - len(self.inner.unused_data)


class _Zstd:
    """One zstd frame, fed block by block: a block holds at most 128 KiB of content, so a piece is bounded.

    Frame layout: RFC 8878, section 3.1.1 (magic, header of 2 to 14 bytes, blocks with 3-byte headers, checksum).
    """

    def __init__(self, dictionary: zstandard.ZstdCompressionDict | None, max_window: int) -> None:
        self.max_window = max_window
        self.inner: Any = zstandard.ZstdDecompressor(dictionary, max_window_size=max_window).decompressobj()
        self.done = False
        self.hungry = True
        self.checksum = 0
        self.in_blocks = False

    def take(self, data: memoryview) -> tuple[bytes, int]:
        used = 0
        if not self.in_blocks:
            size = _zstd_header_bytes(data)
            if size is None:
                return b"", 0
            if (window := _zstd_window(data)) > self.max_window:
                has = self.max_window >> 20
                raise zstandard.ZstdError(f"it asks for {window >> 20:,} MiB of memory, and has {has:,}")
            self.checksum = 4 if data[4] & 4 else 0
            self.in_blocks, used = True, size
        made = 0
        while made < PIECE_BYTES and len(data) - used >= 3:
            header = int.from_bytes(data[used : used + 3], "little")
            kind, content = header >> 1 & 3, header >> 3
            if kind == 3 or content > 128 << 10:
                raise zstandard.ZstdError("invalid block header")
            size = 3 + (1 if kind == 1 else content) + (self.checksum if header & 1 else 0)
            if len(data) - used < size:
                break
            used += size
            made += 128 << 10
            if header & 1:
                break
        if not used:
            return b"", 0
        piece = self.inner.decompress(data[:used])
        self.done = self.inner.eof
        return piece, used


def _zstd_header_bytes(data: memoryview) -> int | None:
    """Bytes of magic and frame header, or None while too few bytes are there to tell."""
    if len(data) < 5:
        return None
    descriptor = data[4]
    single_segment = descriptor >> 5 & 1
    dictionary = (0, 1, 2, 4)[descriptor & 3]
    content_size = (single_segment, 2, 4, 8)[descriptor >> 6]
    size = 5 + (1 - single_segment) + dictionary + content_size
    return size if len(data) >= size else None


def _zstd_window(data: memoryview) -> int:
    """Bytes that a decoder has to hold for the frame whose whole header this is (RFC 8878, section 3.1.1.1.2)."""
    descriptor = data[4]
    if not descriptor & 32:
        base = 1 << (10 + (data[5] >> 3))
        return base + (base >> 3) * (data[5] & 7)
    at, size = 5 + (0, 1, 2, 4)[descriptor & 3], (1, 2, 4, 8)[descriptor >> 6]
    return int.from_bytes(data[at : at + size], "little") + (256 if size == 2 else 0)


def _dictionary(data: bytes) -> zstandard.ZstdCompressionDict | None:
    """The dictionary in a skippable frame; None where the frame holds something else."""
    try:
        if data.startswith(MAGIC["zstd"]):
            data = zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_DICTIONARY)
        if data.startswith(b"\x37\xa4\x30\xec"):
            return zstandard.ZstdCompressionDict(data)
    except zstandard.ZstdError:
        pass
    return None


_DECODERS: dict[str, Callable[[], _Decoder]] = {
    "gzip": _Gzip,
    "bzip2": lambda: _Bounded(bz2.BZ2Decompressor()),
}
_DEFLATE_ERROR: type[Exception] = isal_zlib.error  # type: ignore[assignment]  its types say that it is an instance
_ERRORS = (_DEFLATE_ERROR, zstandard.ZstdError, OSError, lzma.LZMAError, EOFError)


class Members:
    """Reads a stream member by member.

        while members.open():            # at members.start
            while piece := members.read():
                ...

    `open` and `read` raise DamagedError; then `recover` finds the next member, which `open` opens.
    """

    @classmethod
    def of_file(
        cls, stream: BinaryIO, name: str, compression: Compression | None = None, max_window: int = MAX_WINDOW
    ) -> Members:
        """The members of a file that is compressed as said, or (None) as its first bytes and its name tell.

        max_window: bytes that a zstd frame or an xz stream may ask to be held; one that asks for more is damage.
        """
        members = cls(stream, None, max_window)
        if compression is None:
            members._need(HEAD_BYTES)
            members.compression = compression_by(members.chunk[:HEAD_BYTES], name)
        elif compression != "none":
            members.compression = compression
        return members

    def __init__(self, stream: BinaryIO, compression: str | None, max_window: int = MAX_WINDOW) -> None:
        self.stream, self.compression, self.max_window = stream, compression, max_window
        self.chunk, self.at = b"", 0  # bytes taken from the stream, and how many of them are consumed
        self.base = 0  # offset of chunk[0] in the stream
        self.before = b""  # what stood before the chunk: damage shows late, and is then searched again
        self.start = 0
        self.begun = False  # a member, or a frame to be skipped, has been met
        self.decoder: _Decoder | None = None
        self.dictionary: zstandard.ZstdCompressionDict | None = None

    def open(self) -> bool:
        """Begin the next member; False at the end of the stream. Zero bytes between members are padding."""
        self._pass_padding()
        while self.compression == "zstd" and self._skip_frame():
            self.begun = True
            self._pass_padding()
        if not self._need(1):
            if self.compression is not None and not self.begun:
                what = f"holds nothing but {self.start:,} zero bytes" if self.start else "is empty"
                raise DamagedError(0, f"the file {what}, which no {self.compression} file is")
            return False
        self.begun = True
        if self.compression is None:
            return True
        magic = MAGIC[self.compression]
        self._need(len(magic))
        if not self.chunk.startswith(magic, self.at):
            short = magic.startswith(self.chunk[self.at :])
            raise DamagedError(self.start, "the file ends too early" if short else f"no {self.compression} data here")
        self.decoder = self._new_decoder()
        return True

    def read(self) -> bytes:
        """The next piece of the member's content; empty once it has ended and its checksum agreed."""
        if self.compression is None:
            if not self._need(1):
                return b""
            piece = self.chunk[self.at :] if self.at else self.chunk
            self.at = len(self.chunk)
            return piece
        decoder, needed = self.decoder, 1
        while decoder is not None and not decoder.done:
            if decoder.hungry and not self._need(needed):
                raise DamagedError(self.start, f"the file ends inside this {self.compression} member")
            try:
                piece, used = decoder.take(memoryview(self.chunk)[self.at :])
            except _ERRORS as error:
                text = str(error) or type(error).__name__
                raise DamagedError(self.start, f"damaged {self.compression} data: {text}") from error
            self.at += used
            if piece:
                return piece
            needed = 1 if used else len(self.chunk) - self.at + 1
        self.decoder = None
        return b""

    def salvage(self, size: int) -> bytes:
        """After damage: the first bytes of the damaged member, as far as they decompress and are still held."""
        raw, base = self.before + self.chunk, self.base - len(self.before)
        if self.compression is None or self.start < base:
            return b""
        content, decoder = b"", self._new_decoder()
        view = memoryview(raw)[self.start - base :]
        try:
            while view and len(content) < size and not decoder.done:
                piece, used = decoder.take(view[:SALVAGE_BYTES] if self.compression == "gzip" else view)
                if not used:
                    break
                content += piece
                view = view[used:]
        except _ERRORS:
            pass
        return content[:size]

    def recover(self, begins: bytes) -> bool:
        """After damage: go to the next member whose content begins with `begins`; False where there is none."""
        if self.compression is None:
            return False
        self.decoder = None
        raw, base = self.before + self.chunk, self.base - len(self.before)
        skip = max(0, self.start + 1 - base)  # not the damaged member again
        raw, base = raw[skip:], base + skip
        magic = MAGIC[self.compression]
        more = b"-"
        while more:
            more = self.stream.read(RAW_BYTES)
            raw += more
            at = raw.find(magic)
            # A candidate is tried when enough of it is there to show its first bytes.
            while at >= 0 and (len(raw) - at >= RAW_BYTES or not more):
                if self._begins(raw[at : at + RAW_BYTES], begins):
                    self.before, self.chunk, self.at, self.base = b"", raw, at, base
                    return True
                at = raw.find(magic, at + 1)
            passed = at if at >= 0 else max(0, len(raw) - len(magic) + 1)
            raw, base = raw[passed:], base + passed
        self.before, self.chunk, self.at, self.base = b"", b"", 0, base + len(raw)
        return False

    def _begins(self, raw: bytes, begins: bytes) -> bool:
        """Whether a member begins here, and its content with `begins`."""
        try:
            return self._new_decoder().take(memoryview(raw))[0].startswith(begins)
        except _ERRORS:
            return False

    def _new_decoder(self) -> _Decoder:
        if self.compression == "zstd":
            return _Zstd(self.dictionary, self.max_window)
        if self.compression == "xz":
            return _Bounded(lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=self.max_window))
        return _DECODERS[self.compression or ""]()

    def _pass_padding(self) -> None:
        """Go to where the next member, or frame, begins."""
        while self._need(1) and self.compression is not None and self.chunk[self.at] == 0:
            found = _NOT_ZERO.search(self.chunk, self.at)
            self.at = found.start() if found else len(self.chunk)
        self.start = self.base + self.at

    def _skip_frame(self) -> bool:
        """Pass over a zstd skippable frame (RFC 8878, section 3.1.2) if one begins here.

        The first one of a .warc.zst file may hold the dictionary of all frames, compressed or not (IIPC, "Use of
        Zstandard Compression in WARC Files").
        """
        if not self._need(8) or int.from_bytes(self.chunk[self.at : self.at + 4], "little") >> 4 != 0x184D2A5:
            return False
        length = int.from_bytes(self.chunk[self.at + 4 : self.at + 8], "little")
        is_dictionary = self.start == 0 and self.chunk[self.at] == 0x5D and length <= MAX_DICTIONARY
        self.at += 8
        parts: list[bytes] = []
        while length:
            if not self._need(1):
                raise DamagedError(self.start, "the file ends inside this zstd frame")
            step = min(length, len(self.chunk) - self.at)
            if is_dictionary:
                parts.append(self.chunk[self.at : self.at + step])
            self.at += step
            length -= step
        if is_dictionary:
            self.dictionary = _dictionary(b"".join(parts))
        return True

    def _need(self, size: int) -> bool:
        """Have at least `size` unconsumed bytes in the chunk; False where the stream ends before."""
        while len(self.chunk) - self.at < size:
            more = self.stream.read(RAW_BYTES)
            if not more:
                return False
            self.before = (self.before + self.chunk[: self.at])[-RAW_BYTES:]
            self.base += self.at
            self.chunk = self.chunk[self.at :] + more
            self.at = 0
        return True
