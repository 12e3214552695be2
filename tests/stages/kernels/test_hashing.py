"""The hashes against their plain definitions."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.document import text_buffers
from stages.kernels.compile import kernel
from stages.kernels.hashing import hash_texts, hash_word, partition_of, partition_of_document

MASK = (1 << 64) - 1


@kernel("void(text, offsets, vec_uint64)")
def _hash_words(data, offsets, out):
    for i in range(len(out)):
        out[i] = hash_word(data, offsets[i], offsets[i + 1])


def _rotate(x: int, r: int) -> int:
    return ((x << r) | (x >> (64 - r))) & MASK


def _final(k: int) -> int:
    k ^= k >> 33
    k = k * 0xFF51AFD7ED558CCD & MASK
    k ^= k >> 33
    k = k * 0xC4CEB9FE1A85EC53 & MASK
    return k ^ k >> 33


def murmur3_x64_128(key: bytes, seed: int) -> tuple[int, int]:
    """MurmurHash3_x64_128, from its description."""
    c1, c2 = 0x87C37B91114253D5, 0x4CF5AD432745937F
    h1 = h2 = seed
    blocks = len(key) // 16
    for i in range(blocks):
        k1 = int.from_bytes(key[16 * i : 16 * i + 8], "little")
        k2 = int.from_bytes(key[16 * i + 8 : 16 * i + 16], "little")
        h1 ^= _rotate(k1 * c1 & MASK, 31) * c2 & MASK
        h1 = ((_rotate(h1, 27) + h2) * 5 + 0x52DCE729) & MASK
        h2 ^= _rotate(k2 * c2 & MASK, 33) * c1 & MASK
        h2 = ((_rotate(h2, 31) + h1) * 5 + 0x38495AB5) & MASK
    tail = key[16 * blocks :]
    if len(tail) > 8:
        h2 ^= _rotate(int.from_bytes(tail[8:], "little") * c2 & MASK, 33) * c1 & MASK
    if tail:
        h1 ^= _rotate(int.from_bytes(tail[:8], "little") * c1 & MASK, 31) * c2 & MASK
    h1 ^= len(key)
    h2 ^= len(key)
    h1 = (h1 + h2) & MASK
    h2 = (h2 + h1) & MASK
    h1, h2 = _final(h1), _final(h2)
    h1 = (h1 + h2) & MASK
    return h1, (h2 + h1) & MASK


def _hashes(texts: list[bytes], seed: int) -> np.ndarray:
    out = np.empty((len(texts), 2), np.uint64)
    hash_texts(*text_buffers(pa.array(texts, pa.large_binary())), np.uint64(seed), out)
    return out


def test_known_value() -> None:
    assert [hex(v) for v in _hashes([b"hello"], 0)[0]] == ["0xcbd8a7b341bd9b02", "0x5b1e906a48ae1d19"]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=70), max_size=8), st.integers(0, (1 << 63) - 1))
def test_equals_the_description(texts: list[bytes], seed: int) -> None:
    assert [tuple(map(int, row)) for row in _hashes(texts, seed)] == [murmur3_x64_128(t, seed) for t in texts]


def test_every_prefix_of_real_and_repetitive_text_has_its_own_hash() -> None:
    text = (b"ab" * 500 + bytes(range(256))) * 3
    hashes = _hashes([text[:i] for i in range(len(text))], 0)
    assert len(np.unique(hashes[:, 0])) == len(np.unique(hashes[:, 1])) == len(text)


def _word_hashes(words: list[bytes]) -> np.ndarray:
    out = np.empty(len(words), np.uint64)
    _hash_words(*text_buffers(pa.array(words, pa.large_binary())), out)
    return out


def test_words_that_differ_in_length_have_their_own_hashes() -> None:
    short = [bytes([a]) for a in range(256)] + [bytes([a, b]) for a in range(256) for b in range(256)]
    ends = [bytes([last]) + bytes(zeros) for last in range(256) for zeros in range(2, 24)]
    words = [b"", *short, *ends, *(b"word that is long" + end for end in [b"", *short[:2000], *ends])]
    assert len(set(words)) == len(words)
    assert len(np.unique(_word_hashes(words))) == len(words)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.binary(max_size=20), max_size=8), st.binary(max_size=9))
def test_a_word_has_the_same_hash_wherever_it_stands(words: list[bytes], other: bytes) -> None:
    alone = [int(_word_hashes([word])[0]) for word in words]
    assert _word_hashes([other, *words, other])[1:-1].tolist() == alone


def test_partitions_are_equal_ranges_of_keys() -> None:
    keys = np.sort(np.random.default_rng(0).integers(0, 1 << 64, 10_000, np.uint64, endpoint=False))
    keys[0], keys[-1] = 0, MASK
    for partitions in (1, 3, 7, 1000):
        out = np.empty(len(keys), np.int32)
        partition_of(keys, partitions, out)
        assert out.tolist() == [int(k) * partitions >> 64 for k in keys]


def test_documents_are_spread_evenly_over_partitions() -> None:
    documents = (np.arange(100_000) % 1000) | (np.arange(100_000) // 1000) << 32
    out = np.empty(len(documents), np.int32)
    partition_of_document(documents, 16, out)
    counts = np.bincount(out, minlength=16)
    assert counts.min() > 5800 and counts.max() < 6700  # 6250 each: 5.8 standard deviations
