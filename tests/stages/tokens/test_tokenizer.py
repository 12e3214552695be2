"""Tokenizers: the fast engine gives the reference's tokens, the rules are OLMo's, training is reproducible."""

import io
import json
import os
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
import tokenizers
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.tokens import tokenizer as module
from stages.tokens.tokenizer import EncodeRules, TokenizerError, TokenizerMismatch, load_tokenizer
from stages.tokens.train_tokenizer import train_tokenizer

TEXTS = [
    "The mill wheel turns while the water runs.",
    "def turn(wheel):\n    return wheel + 1\n",
    "Größe und Maß, naïve café, 日本語の文。",
    "don't we'll they've  two  spaces\t\ttabs\n\n\n",
] * 5


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(iter(TEXTS), path, vocab_size=400)
    return path


def column(*texts):
    return pa.array(texts, pa.large_string())


def documents(tokens, offsets):
    return [tokens[a:b].tolist() for a, b in pairwise(offsets)]


def test_training_gives_the_fixed_ids(trained):
    loaded = load_tokenizer(trained)
    assert (loaded.eos_id, loaded.pad_id, loaded.dtype) == (0, 1, np.dtype("<u2"))
    assert 258 < loaded.vocab_size <= 400
    assert loaded.engine.name == "fastokens" and loaded.fallback is None


def test_training_does_not_depend_on_threads(trained, tmp_path):
    code = (
        "import sys; from stages.tokens.train_tokenizer import train_tokenizer; "
        f"train_tokenizer({TEXTS!r}, sys.argv[1], vocab_size=400)"
    )
    for threads in ("1", "3"):
        environment = os.environ | {"RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": threads}
        subprocess.run([sys.executable, "-c", code, tmp_path / threads], check=True, env=environment)
        assert (tmp_path / threads).read_bytes() == trained.read_bytes()


def test_training_sample_is_bounded(tmp_path):
    taken = []

    def endless():
        while True:
            taken.append(1)
            yield "water " * 10 + "é"

    assert train_tokenizer(endless(), tmp_path / "t.json", vocab_size=300, max_bytes=1000) <= 1000
    assert len(taken) < 30
    with pytest.raises(TokenizerError, match="no text"):
        train_tokenizer([], tmp_path / "t.json", vocab_size=300)
    with pytest.raises(TokenizerError, match="too small"):
        train_tokenizer(TEXTS, tmp_path / "t.json", vocab_size=100)


@pytest.mark.parametrize("engine", ["fastokens", "tokenizers"])
def test_rules(trained, engine):
    texts = column("  water \n", "", " \u3000\x1c\x85 ", "water<|endoftext|>", "water")
    plain = tokenizers.Tokenizer.from_file(str(trained)).encode("water").ids

    def encode(**rules):
        return documents(*load_tokenizer(trained, engine, EncodeRules(**rules)).encode(texts))

    assert encode() == [[*plain, 0], [], [], [*plain, 0], [*plain, 0]]
    assert encode(skip_empty=False) == [[*plain, 0], [0], [0], [*plain, 0], [*plain, 0]]
    assert encode(append_eos=False) == [plain, [], [], [*plain, 0], plain]
    unstripped = encode(strip=False)
    assert unstripped[0] != [*plain, 0] and len(unstripped[2]) > 1
    split = encode(special_tokens_in_text="split")[3]
    assert split.count(0) == 1 and len(split) > len(plain) + 1


def test_sliced_and_chunked_columns(trained, monkeypatch):
    loaded = load_tokenizer(trained)
    texts = [f"{text} {number}" for number, text in enumerate(TEXTS)] + ["", "x" * 500]
    whole = documents(*loaded.encode(column(*texts)))
    assert documents(*loaded.encode(column("a", "b", *texts, "c").slice(2, len(texts)))) == whole
    assert documents(*loaded.encode(pa.chunked_array([column(*texts[:7]), column(*texts[7:])]))) == whole
    monkeypatch.setitem(module.CHUNK_BYTES, "fastokens", 64)
    assert documents(*loaded.encode(column(*texts))) == whole
    tokens, offsets = loaded.encode(column())
    assert len(tokens) == 0 and offsets.tolist() == [0]


def test_large_vocabulary_is_uint32(tmp_path):
    big = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({"<|endoftext|>": 0, "a": 1, **{f"w{n}": n for n in range(2, 70_000)}}, "a")
    )
    big.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    big.save(str(tmp_path / "big.json"))
    loaded = load_tokenizer(tmp_path / "big.json", "tokenizers")
    assert loaded.dtype == np.dtype("<u4") and loaded.pad_id == loaded.eos_id
    assert loaded.encode(column("w69999 w5"))[0].tolist() == [69_999, 5, 0]


def test_fallback_is_reported(tmp_path):
    pieces = [("<unk>", 0.0), ("</s>", 0.0), ("a", -1.0), ("b", -2.0)]
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram(pieces, 0))
    unigram.save(str(tmp_path / "unigram.json"))
    loaded = load_tokenizer(tmp_path / "unigram.json")
    if loaded.engine.name == "tokenizers":  # a later fastokens may learn unigram models; then nothing is to report
        assert "fastokens cannot load unigram.json" in loaded.fallback
        with pytest.raises(TokenizerError, match="fastokens cannot load"):
            load_tokenizer(tmp_path / "unigram.json", "fastokens")
    assert documents(*loaded.encode(column("ab", "a"))) == [[2, 3, 1], [2, 1]]


def test_bad_files_are_refused(tmp_path, trained):
    with pytest.raises(TokenizerError, match="cannot be read"):
        load_tokenizer(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("{}")
    with pytest.raises(TokenizerError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path / "bad.json")
    with pytest.raises(TokenizerError, match="has no token '<eos>', which `eos_token` names"):
        load_tokenizer(trained, eos_token="<eos>")
    with pytest.raises(TokenizerError, match="engine 'quick'"):
        load_tokenizer(trained, "quick")
    nameless = json.loads(trained.read_text())
    nameless["model"]["vocab"] = {k.replace("<|endoftext|>", "<|z|>"): v for k, v in nameless["model"]["vocab"].items()}
    nameless["added_tokens"] = []
    (tmp_path / "nameless.json").write_text(json.dumps(nameless))
    with pytest.raises(TokenizerError, match="name the one that it has by the key `eos_token`"):
        load_tokenizer(tmp_path / "nameless.json")


def test_a_difference_is_an_error_by_name(trained):
    loaded = load_tokenizer(trained)

    class Wrong:
        name = "fastokens"

        def encode(self, texts):
            tokens, offsets = loaded.reference.encode(texts)
            tokens[offsets[1] + 2] += 1
            return tokens, offsets

    loaded.engine = Wrong()
    with pytest.raises(TokenizerMismatch, match=r"document two: fastokens and tokenizers differ on .* from token 2"):
        loaded.verify(["water", "the mill wheel"], ["document one", "document two"])


@settings(max_examples=150, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=5))
def test_engines_agree_on_any_text(trained_pair, texts):
    fast, reference = trained_pair
    got, want = fast.encode(column(*texts)), reference.encode(column(*texts))
    assert documents(*got) == documents(*want)
    tokenizer = reference.reference.tokenizer
    for text, tokens in zip(texts, documents(*want), strict=True):
        alone = tokenizer.encode(text.strip(), add_special_tokens=False).ids
        assert tokens == (alone if alone[-1:] == [0] else [*alone, 0] if alone else [])


@pytest.fixture(scope="session")
def trained_pair(trained):
    return load_tokenizer(trained, "fastokens"), load_tokenizer(trained, "tokenizers")


def test_trained_tokenizer_gives_the_text_back(trained_pair):
    text = "Ünïcode 日本 \x00 e\u0301 and  spaces\n"
    rules_off = load_tokenizer(trained_pair[0].path, rules=EncodeRules(strip=False, append_eos=False))
    assert rules_off.decode(rules_off.encode(column(text))[0]) == text


@pytest.mark.parametrize("name", ["c4", "code", "arxiv", "wiki-fr", "latex"])
def test_real_text_with_the_olmoe_tokenizer(shared_data, name):
    path = shared_data / "tokenizers" / "gpt-neox-olmo-dolma-v1_5.json"
    loaded = load_tokenizer(path, "fastokens")
    assert (loaded.vocab_size, loaded.eos_id, loaded.pad_id) == (50_280, 50_279, 1)
    with (shared_data / f"{name}.jsonl.zst").open("rb") as file:
        lines = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), "utf-8")
        texts = [json.loads(line)["text"] for line, _ in zip(lines, range(60), strict=False)]
    texts = [text[:20_000] for text in texts]
    fast = loaded.encode(column(*texts))
    slow = load_tokenizer(path, "tokenizers").encode(column(*texts))
    assert np.array_equal(fast[0], slow[0]) and np.array_equal(fast[1], slow[1])


def test_an_engine_that_errs_is_not_loaded(trained, monkeypatch):
    right = module.FastokensEngine.encode

    def wrong(self, texts):
        tokens, offsets = right(self, texts)
        tokens = tokens.copy()
        tokens[offsets[:-1][np.diff(offsets) > 5]] ^= 1  # the first token of every text of some length
        return tokens, offsets

    monkeypatch.setattr(module.FastokensEngine, "encode", wrong)
    with pytest.raises(TokenizerMismatch, match=r"fastokens and tokenizers differ on .*tokenizer\.json from token 0"):
        load_tokenizer(trained)
    assert load_tokenizer(trained, "tokenizers").engine.name == "tokenizers"


@pytest.mark.parametrize("engine", ["auto", "fastokens", "tokenizers"])
def test_dropout_is_refused(trained, tmp_path, engine):
    data = json.loads(trained.read_text())
    for dropout in (None, 0.0, 0.1):
        data["model"]["dropout"] = dropout
        path = tmp_path / "tokenizer.json"
        path.write_text(json.dumps(data))
        if dropout:
            with pytest.raises(
                TokenizerError, match=r"dropout of 0\.1, by which the same text gets other tokens every time"
            ):
                load_tokenizer(path, engine=engine)
            with pytest.raises(TokenizerError, match="set `dropout` to null"):
                module.check_tokenizer(path)
        else:
            load_tokenizer(path, engine="tokenizers")


def test_texts_with_the_end_token_are_counted(trained):
    loaded = load_tokenizer(trained)
    assert loaded.holding_end_token(column("a <|endoftext|> b", "a", "<|endoftext|>", "<|end")) == 2
    assert loaded.holding_end_token(column()) == 0
