"""Words of English and Spanish by spaCy's rules against spaCy; datatrove's filters with their own tokenizer against the steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import example, given, settings
from hypothesis import strategies as st

from stages.filters.english_rules import english_spans, exceptions
from stages.filters.fineweb_quality import FineWebQuality
from stages.filters.gopher_quality_datatrove import GopherQualityDatatrove
from stages.filters.repetition_datatrove import RepetitionDatatrove

TEXTS = {
    "I don't, can't've; they'll've cannot it's its we're.": "I do n't , ca n't 've ; they 'll 've can not it 's its we 're .",
    "(don’t) \"I'm\" 'em: rock'n'roll O'Neil's Ma'am!": "( do n’t ) \" I 'm \" 'em : rock'n'roll O'Neil 's Ma'am !",
    "Mr. Smith e.g. U.S. a.m. end. E.U. 3.14. x.": "Mr. Smith e.g. U.S. a.m. end . E.U. 3.14 . x.",
    "wait... no..yes ....  …so": "wait ... no .. yes .... … so",
    "see http://a.b-c.org/x?y=1#z, or user@mail.com. /usr/lib/x.so --all-flags -v": (
        "see http://a.b-c.org/x?y=1#z , or user@mail.com . /usr / lib / x.so --all - flags -v"
    ),
    "5km 10% $5 5$ C$5 US$7 3+4 3-4 a-b 1-b a--b a—b": "5 km 10 % $ 5 5 $ C$ 5 US$ 7 3 + 4 3 - 4 a - b 1 - b a -- b a — b",
    "a,b 1,2 a/b a:b 1:2 and/or x=y": "a , b 1,2 a / b a : b 1:2 and / or x = y",
    "end.Next lower.Upper file.txt 7pm 7p.m. «q»": "end . Next lower . Upper file.txt 7 pm 7 p.m. « q »",
    "": "",
    " \n ": "",
}


SPANISH = {
    "físico-químico, 1990-1995 y Castilla-La Mancha.": "físico-químico , 1990-1995 y Castilla-La Mancha .",
    "EE. UU. (EE. UU.), Ee. Uu., EE.UU. y EE.  UU. EE.": "EE. UU. ( EE. UU. ) , Ee. Uu. , EE.UU. y EE . UU . EE .",
    "Sr. Pérez, pág. 12, 4% de 5km; 7p.m. 12m. pal don't": "Sr. Pérez , pág. 12 , 4% de 5 km ; 7 p.m. 12 m. pa l don't",
    "¿Qué?—dijo Juan's.": "¿ Qué?—dijo Juan's .",
    "a--b —a— a/b fin.Otro fin—.Otro 3+4": "a--b — a — a / b fin . Otro fin— . Otro 3 + 4",
    "EE.": "EE .",
    " UU. a": "UU . a",
}


def words(texts: list[str], spanish: bool = False) -> list[list[str]]:
    column = pa.array(texts, pa.large_string())
    spans, ends = english_spans(column, spanish)
    data = "".join(texts).encode()
    found = [data[start:stop].decode() for start, stop in spans.reshape(-1, 2).tolist()]
    return [found[ends[i] : ends[i + 1]] for i in range(len(texts))]


@pytest.fixture(scope="module")
def spacy_words() -> Any:
    return _splitter("en")


@pytest.fixture(scope="module")
def spanish_words() -> Any:
    return _splitter("es")


def _splitter(language: str) -> Any:
    tokenizer = pytest.importorskip("spacy").blank(language).tokenizer
    return lambda text: [token.text for token in tokenizer(text) if not token.text.isspace()]


def test_spanish_words(spanish_words: Any) -> None:
    """All in one column: what ends one text and begins the next is not joined."""
    for text, found in zip(SPANISH, words(list(SPANISH), spanish=True), strict=True):
        assert found == spanish_words(text), text
        assert " ".join(found) == SPANISH[text]


@pytest.mark.parametrize("text", TEXTS)
def test_words(text: str, spacy_words: Any) -> None:
    assert words([text]) == [spacy_words(text)]


@pytest.mark.parametrize("language", ["en", "es"])
def test_exceptions_are_those_of_spacy(language: str) -> None:
    rules = pytest.importorskip("spacy").blank(language).tokenizer.rules
    orth = pytest.importorskip("spacy.symbols").ORTH
    theirs = {word: tuple(part[orth] for part in parts) for word, parts in rules.items() if not word.isspace()}
    assert exceptions(language == "es") == theirs
    assert words(list(theirs), language == "es") == [list(parts) for parts in theirs.values()]


PIECES = [
    "a", "B", "word", "don't", "Mr.", "U.S.", ".", "..", ",", "'", "’s", "''", "-", "--", "—", "/", ":", "=", "<",
    ">", "(", ")", "[", "%", "$", "US$", "€", "5", "12", "km", "+", "*", "^", "~", "_", "#", "&", "@", "a.com",
    "http://", "é", "É", "日本", "。", "…", "☃", "°", "²", ":)", "\\", "|", ";", "!", "?", "\"", "\u0301", " ", " ",
    "\n", "\u00a0", "n't", "'ll", "§", "Я", "я", "×", "÷", "ª", "µ", "10.0.0.1", "8.8.8.8",
]  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=7).map("".join))
@example("8.8.8.8")
@example("a@b.com:80/x")
def test_any_texts(spacy_words: Any, text: str) -> None:
    _as_spacy(text, spacy_words(text), words([text])[0])


@settings(max_examples=700, deadline=None)
@given(st.lists(st.sampled_from([*PIECES, "EE.", "UU.", "Sr.", "pal", "a.C."]), max_size=7).map("".join))
@example("a—.B 5-5")
def test_any_spanish_texts(spanish_words: Any, text: str) -> None:
    _as_spacy(text, spanish_words(text), words([text], spanish=True)[0])


def _as_spacy(text: str, expected: list[str], found: list[str]) -> None:
    assert "".join("".join(found).split()) == "".join("".join(expected).split())
    if found != expected:  # signs that spaCy joins to an exception over white space, and marks newer than its tables
        joined = "".join(text.split())
        assert any(word in joined for word in exceptions() if not word[0].isalpha()), (found, expected)


STEPS: list[tuple[str, str, Any]] = [
    ("gopher_quality_filter", "GopherQualityFilter", GopherQualityDatatrove()),
    ("gopher_repetition_filter", "GopherRepetitionFilter", RepetitionDatatrove()),
    ("fineweb_quality_filter", "FineWebQualityFilter", FineWebQuality()),
]


@pytest.mark.parametrize(("module", "name", "step"), STEPS)
def test_decisions_of_datatrove_with_its_own_tokenizer(shared_data: Path, module: str, name: str, step: Any) -> None:
    block = getattr(pytest.importorskip(f"datatrove.pipeline.filters.{module}"), name)()
    document = pytest.importorskip("datatrove.data").Document
    texts: list[str] = []
    for kind in ("arxiv", "latex", "books", "c4", "wiki-fr"):
        with (shared_data / f"{kind}.jsonl.zst").open("rb") as file:
            raw = zstandard.ZstdDecompressor().stream_reader(file).read(200_000)
        texts += [json.loads(line)["text"] for line in raw.splitlines()[:-1]][:12]
    docs = pa.record_batch({"text": pa.array(texts, pa.large_string())})
    theirs = np.array([block.filter(document(text=text, id="0")) is True for text in texts])
    ours = step.decide(step.measure(docs)) < 0
    assert (ours == theirs).mean() >= 0.99
    assert 0 < theirs.sum() < len(texts)
