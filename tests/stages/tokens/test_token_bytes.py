"""Decoding by table gives what the tokenizer itself decodes, and counts its bytes."""

from __future__ import annotations

import functools
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from token_runs import TEXTS, train, wide

from stages.tokens.token_bytes import TokenBytes


@functools.cache
def byte_level() -> tokenizers.Tokenizer:
    with TemporaryDirectory() as folder:
        return tokenizers.Tokenizer.from_file(str(train(Path(folder) / "t.json", added=["   ", "<é tag>", "日本"])))


@given(st.lists(st.lists(st.integers(0, byte_level().get_vocab_size() - 1), max_size=20), max_size=5))
def test_any_tokens_decode_as_by_the_library(documents: list[list[int]]) -> None:
    """Also such that are no UTF-8: single bytes of a character, in any order."""
    table = TokenBytes(byte_level())
    assert table.exact
    tokens = np.array([token for document in documents for token in document], np.uint16)
    ends = np.cumsum([len(document) for document in documents], dtype=np.int64)
    want = [byte_level().decode(document, skip_special_tokens=False) for document in documents]
    assert table.texts(tokens, ends).to_pylist() == want
    if not any("\ufffd" in text for text in want):
        assert table.text_bytes(tokens, ends).tolist() == [len(text.encode()) for text in want]


def test_real_texts_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.tokens.token_bytes.GATHER_BYTES", 1000)
    table = TokenBytes(byte_level())
    texts = [*TEXTS["docs"][:5], "", "Zażółć   gęślą 日本語 👩‍👩‍👧 \x00\r\n<é tag>", ""]
    encoded = [one.ids for one in byte_level().encode_batch(texts, add_special_tokens=False)]
    tokens, ends = (
        np.array(list(chain.from_iterable(encoded))),
        np.cumsum([len(ids) for ids in encoded], dtype=np.int64),
    )
    assert table.texts(tokens, ends).to_pylist() == texts
    assert table.text_bytes(tokens, ends).tolist() == [len(text.encode()) for text in texts]


def test_other_decoders_are_asked_themselves(tmp_path: Path) -> None:
    tokenizer = tokenizers.Tokenizer.from_file(str(wide(tmp_path / "t.json")))
    tokenizer.decoder = tokenizers.decoders.Metaspace()
    table = TokenBytes(tokenizer)
    assert not table.exact
    ids = tokenizer.encode(TEXTS["docs"][0], add_special_tokens=False).ids
    found = table.texts(np.array(ids + ids[:1], np.uint32), np.array([len(ids), len(ids) + 1]))
    assert found.to_pylist() == [tokenizer.decode(ids), tokenizer.decode(ids[:1])]
    assert table.text_bytes(np.array(ids), np.array([len(ids)])) == [
        len("".join(map(tokenizer.id_to_token, ids)).encode())
    ]
