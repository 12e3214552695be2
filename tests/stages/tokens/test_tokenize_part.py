"""From documents to shards: every token is where the index says, books balance, cuts never split a document."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.document import DOCUMENT
from stages.tokens import shard_format as sf
from stages.tokens.shard import Piece, plan_shards, shard_tokens, write_shard
from stages.tokens.token_file import INDEX, TokenFile
from stages.tokens.tokenize import held_out_texts, tokenize_part
from stages.tokens.tokenizer import TokenizerMismatch, load_tokenizer
from stages.tokens.train_tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    train_tokenizer(["the water turns the wheel of the mill"] * 3, path, vocab_size=280)
    return load_tokenizer(path)


def batch(rows, file="web.jsonl"):
    names, texts, records = zip(*rows, strict=True)
    count = len(rows)
    nothing = [None] * count
    return pa.RecordBatch.from_arrays(
        [
            pa.array(names, pa.large_string()),
            pa.array(texts, pa.large_string()),
            pa.array(nothing, pa.large_string()),
            pa.array([file] * count, pa.large_string()),
            pa.array(records, pa.int64()),
            pa.array(nothing, pa.int64()),
            pa.array(nothing, pa.large_string()),
        ],
        schema=DOCUMENT,
    )


def corpus(count=200):
    words = ["water", "wheel", "mill", "über", "turns"]
    texts = [" ".join(words[(i * k) % 5] for k in range(i % 17)) + "  " * (i % 2) for i in range(count)]
    rows = [(f"d{i}", text, i + 1) for i, text in enumerate(texts)]
    return [batch(rows[start : start + 37]) for start in range(0, count, 37)], rows


def test_every_document_is_where_the_index_says(tokenizer, tmp_path):
    batches, rows = corpus()
    part = tokenize_part(batches, tokenizer, tmp_path / "p", held_out_fraction=0.2, salt="s")
    kept = held_out_texts(pa.array([text.strip() for _, text, _ in rows], pa.large_string()), 0.2, "s")
    held_ids = {row[0] for row, held in zip(rows, kept, strict=True) if held}
    for split, held in ((part.train, False), (part.held_out, True)):
        index = pq.read_table(split.index_path)
        assert index.schema.equals(INDEX)
        tokens = sf.open_tokens(split.tokens_path, tokenizer.dtype, split.tokens)
        mine = [r for r in rows if (r[0] in held_ids) == held and r[1].strip()]
        assert index.column("id").to_pylist() == [r[0] for r in mine] and len(mine) == split.documents > 5
        position = 0
        for row, (_, text, record) in zip(index.to_pylist(), mine, strict=True):
            assert row["start"] == position and row["loc"] == record and row["src"] == "web.jsonl"
            position = row["end"]
            found = tokens[row["start"] : row["end"]]
            assert found[-1] == tokenizer.eos_id and tokenizer.decode(found[:-1]) == text.strip()
            assert row["text_bytes"] == len(text.strip().encode())
        assert position == split.tokens and split.text_bytes == sum(index.column("text_bytes").to_pylist())
    books = part.books
    assert books.balance().docs == 0 and books.balance().bytes == 0
    assert books.into.docs == 200 and books.dropped["skip_empty"].docs == sum(not r[1].strip() for r in rows)
    assert books.edited > 0 and books.out.docs == part.train.documents + part.held_out.documents


def test_batching_changes_no_byte(tokenizer, tmp_path):
    batches, rows = corpus()
    tokenize_part(batches, tokenizer, tmp_path / "a", held_out_fraction=0.1)
    tokenize_part([batch(rows)], tokenizer, tmp_path / "b", held_out_fraction=0.1)
    for split in ("train", "held_out"):
        for kind in ("tokens", "parquet"):
            a, b = (tmp_path / f"{name}.{split}.{kind}" for name in "ab")
            assert a.read_bytes() == b.read_bytes() if kind == "tokens" else pq.read_table(a).equals(pq.read_table(b))


def test_no_documents(tokenizer, tmp_path):
    part = tokenize_part([], tokenizer, tmp_path / "none")
    assert part.train.tokens == part.held_out.documents == 0
    assert plan_shards([part.train], 100) == []


def test_held_out_fraction():
    choose = held_out_texts
    ids = pa.array([f"doc{i}" for i in range(4000)], pa.large_string())
    mask = choose(ids, 0.25, "x")
    assert 850 < mask.sum() < 1150 and not np.array_equal(mask, choose(ids, 0.25, "y"))
    assert not (mask & ~choose(ids, 0.5, "x")).any()  # a larger fraction only adds
    assert choose(ids, 1.0).all() and not choose(ids, 0.0).any()
    assert np.array_equal(choose(ids.slice(100, 500), 0.25, "x"), mask[100:600])


def test_copies_of_a_text_fall_on_the_same_side(tokenizer, tmp_path):
    """Whatever their ids and the white space around them: held-out text is never trained on."""
    texts = [f"mill {i} " + "turns " * (i % 9) + "wheel" * (200 * (i % 7)) for i in range(300)]
    once = [batch([(f"a{i}", text, i + 1) for i, text in enumerate(texts)])]
    again = [batch([(f"b{i}", f"  {text}\n", i + 1) for i, text in reversed(list(enumerate(texts)))])]
    sides = {}
    for name, batches in (("once", once), ("again", again)):
        part = tokenize_part(batches, tokenizer, tmp_path / name, held_out_fraction=0.3, salt="s")
        for split in (part.train, part.held_out):
            sides[name, split is part.held_out] = {x[1:] for x in pq.read_table(split.index_path)["id"].to_pylist()}
    assert sides["once", True] == sides["again", True] and sides["once", False] == sides["again", False]
    assert 60 < len(sides["once", True]) < 120


def test_a_wrong_engine_fails_the_part_by_document(tokenizer, tmp_path, monkeypatch):
    class Wrong:
        name = "fastokens"

        def encode(self, texts):
            tokens, offsets = tokenizer.reference.encode(texts)
            return tokens ^ np.uint32(1), offsets

    monkeypatch.setattr(tokenizer, "engine", Wrong())
    with pytest.raises(TokenizerMismatch, match=r"document d\d+: fastokens and tokenizers differ"):
        tokenize_part(corpus()[0], tokenizer, tmp_path / "p")


def plain_plan(lengths, size):
    """Fill shards document by document: the obvious way."""
    shards, shard, filled = [], [], 0
    for file, documents in enumerate(lengths):
        for number, length in enumerate(documents):
            if shard and filled + length > size:
                shards.append(shard)
                shard, filled = [], 0
            shard.append((file, number))
            filled += length
    return [*shards, shard] if shard else shards


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(st.integers(1, 30), max_size=8), max_size=6), st.integers(1, 60))
def test_plan_fills_shards_with_whole_documents(lengths, size):
    files = [TokenFile("", str(number), sum(documents), len(documents), 0) for number, documents in enumerate(lengths)]
    plan = plan_shards(files, size, ends=lambda file: np.cumsum(lengths[int(file.index_path)]))
    found = []
    for pieces in plan:
        shard = []
        for piece in pieces:
            ends = np.cumsum([0, *lengths[piece.file]])
            assert ends[piece.first_document] == piece.first_token and ends[piece.end_document] == piece.end_token
            shard += [(piece.file, number) for number in range(piece.first_document, piece.end_document)]
        found.append(shard)
    assert found == plain_plan(lengths, size)


def test_plan_reads_only_the_indexes_of_boundaries():
    asked = []

    def ends(file):
        asked.append(file.index_path)
        return np.arange(10, 101, 10)

    files = [TokenFile("", str(number), 100, 10, 0) for number in range(1000)]
    plan = plan_shards(files, 10_050, ends)
    assert len(plan) == 10 and len(asked) == 9


@pytest.mark.parametrize("size", [50, 333, 10**6])
def test_shards_hold_all_documents_once(tokenizer, tmp_path, size):
    rows = corpus(150)[1]
    parts = {a: batch(rows[a : a + 50], f"f{a}.jsonl") for a in (0, 50, 100)}
    files = [tokenize_part([part], tokenizer, tmp_path / f"p{a}").train for a, part in parts.items()]
    sizes = {name: len(text.strip().encode()) for name, text, _ in rows}
    found = []
    for number, pieces in enumerate(plan_shards(files, size)):
        path, index = tmp_path / f"{number}.npy", tmp_path / f"{number}.csv.gz"
        pieces = [Piece(*piece) for piece in [list(piece) for piece in pieces]]  # as JSON gives them back
        entry = write_shard(files, pieces, path, index, tokenizer.dtype)
        tokens = sf.open_tokens(path, tokenizer.dtype, entry["tokens"])
        documents = list(sf.read_index(index))
        assert len(documents) == entry["documents"] and entry["sha256"] == sf.sha256_file(path)
        assert documents[0].start == 0 and documents[-1].end == len(tokens)
        assert len(tokens) <= size or len(documents) == 1
        for document in documents:
            found.append((document.id, document.src, document.loc, tokens[document.start : document.end].tolist()))
        assert entry["text_bytes"] == sum(sizes[document.id] for document in documents)
    want = []
    for name, text, record in rows:
        if text.strip():
            tokens, _ = tokenizer.encode(pa.array([text], pa.large_string()))
            want.append((name, f"f{(record - 1) // 50 * 50}.jsonl", record, tokens.tolist()))
    assert found == want


def test_a_cut_token_file_is_refused(tokenizer, tmp_path):
    file = tokenize_part(corpus()[0], tokenizer, tmp_path / "p").train
    plan = plan_shards([file], 10**6)
    whole = Path(file.tokens_path).read_bytes()
    Path(file.tokens_path).write_bytes(whole[:-2])
    with pytest.raises(sf.ShardError, match="were expected"):
        write_shard([file], plan[0], tmp_path / "0.npy", tmp_path / "0.csv.gz", tokenizer.dtype)
    assert not (tmp_path / "0.npy").exists()
    with pytest.raises(sf.ShardError, match="does not describe"):
        plan_shards([TokenFile(file.tokens_path, file.index_path, file.tokens + 1, file.documents, 0)], 100)


def test_shard_size_in_bytes():
    assert shard_tokens(1 << 30, np.dtype("<u2")) == 1 << 29 and shard_tokens(1, np.dtype("<u4")) == 1
