"""Exported shards, read back with the libraries that their users read them with."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zstandard
from token_runs import TEXTS, documents, train, wide, write_run
from told import as_json

from pipeline.cli import main
from pipeline.convert.export import ExportOptions, export
from pipeline.progress import Progress
from stages.errors import UserError
from stages.tokens.shard_format import load_manifest


@pytest.fixture(scope="module", params=["uint16", "uint32"])
def run(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / request.param
    tokenizer = folder.with_suffix(".json")
    (train if request.param == "uint16" else wide)(tokenizer)
    assert write_run(folder, tokenizer, TEXTS)["dtype"] == request.param
    return folder


def exported(run: Path, out: Path, kind: Any, **options: Any) -> dict[str, Any]:
    return as_json(export(str(run), str(out), ExportOptions(kind, inline=True, progress=Progress(quiet=True), **options)))


def test_datatrove_reads_its_windows_and_positions(run: Path, tmp_path: Path) -> None:
    from datatrove.pipeline.tokens.tokenizer import TokenizedFile
    from datatrove.utils.dataset import DatatroveFolderDataset

    exported(run, tmp_path / "out", "datatrove")
    dtype = np.dtype(load_manifest(run)["dtype"])
    length = 96
    size = {"token_size": dtype.itemsize, "return_positions": True}
    found = DatatroveFolderDataset(str(tmp_path / "out"), length, filename_pattern="**/*.ds", **size)
    windows = []
    for path in sorted((tmp_path / "out").rglob("*.ds")):
        shard = run / "tokens" / path.relative_to(tmp_path / "out").with_suffix(".npy")
        whole = np.fromfile(shard, dtype)
        assert path.read_bytes() == shard.read_bytes()
        windows += list(whole[: len(whole) // (length + 1) * (length + 1)].reshape(-1, length + 1))
    assert len(found) == len(windows) > 50
    for item, window in zip((found[i] for i in range(len(windows))), windows, strict=True):
        assert item["input_ids"].tolist() == window.tolist()
    mine = found[0]["positions"].tolist()  # from the index: the first document is longer than a window or ends in it
    first = len(documents(run, "code")[0][3])
    assert mine[: min(first, length)] == list(range(min(first, length)))
    by_default = DatatroveFolderDataset(str(tmp_path / "out/docs"), length, **size)
    assert by_default[3]["input_ids"].tolist() == found[len(found) - len(by_default) + 3]["input_ids"].tolist()
    # The very files that datatrove's own writer makes of these documents.
    theirs = TokenizedFile(
        str(tmp_path / "theirs"),
        "x.ds",
        tokenizer_name_or_path="tokenizer/tokenizer.json",
        save_final_metadata=True,
        token_size=dtype.itemsize,
    )
    shard = load_manifest(run)["sources"]["docs"]["shards"][0]
    for row in documents(run, "docs")[: shard["documents"]]:
        theirs.write(row[3], None)
    theirs.close()
    for ending in ("", ".index", ".metadata"):
        assert (tmp_path / f"out/docs/00000.ds{ending}").read_bytes() == (
            tmp_path / f"theirs/x.ds{ending}"
        ).read_bytes()


def test_megatron_reads_every_document(run: Path, tmp_path: Path) -> None:
    from datatrove.pipeline.tokens.megatron_tokenizer import MegatronTokenizedFile

    dataset = pytest.importorskip("megatron.core.datasets.indexed_dataset", reason="megatron-core is not installed")
    exported(run, tmp_path / "out", "megatron")
    manifest = load_manifest(run)
    for source in ("docs", "code"):
        rows = iter(documents(run, source))
        for number, shard in enumerate(manifest["sources"][source]["shards"]):
            found = dataset.IndexedDataset(str(tmp_path / f"out/{source}/{number:05d}"))
            assert len(found) == shard["documents"] and found.document_indices[-1] == shard["documents"]
            mine = [next(rows) for _ in range(shard["documents"])]
            assert [found[i].tolist() for i in range(len(found))] == [row[3] for row in mine]
            theirs = MegatronTokenizedFile(
                str(tmp_path / "theirs"), "x", token_size=2 if manifest["dtype"] == "uint16" else 4
            )
            for row in mine:
                theirs.write(row[3])
            theirs.close()
            for ending in ("bin", "idx"):
                ours = (tmp_path / f"out/{source}/{number:05d}.{ending}").read_bytes()
                assert ours == (tmp_path / f"theirs/x.{ending}").read_bytes()


def test_parquet_has_tokens_text_and_place(run: Path, tmp_path: Path) -> None:
    exported(run, tmp_path / "out", "parquet", sources=["docs"])
    assert not (tmp_path / "out/code").exists()
    table = pq.read_table(tmp_path / "out/docs")
    manifest = load_manifest(run)
    assert str(table.schema.field("tokens").type.value_type) == manifest["dtype"]
    rows = documents(run, "docs")
    columns = [table.column(name).to_pylist() for name in ("id", "file", "record", "tokens")]
    assert list(zip(*columns, strict=True)) == rows
    texts = [text.strip() for i, text in enumerate(TEXTS["docs"]) if i % 9]
    if manifest["dtype"] == "uint16":  # the words of the other tokenizer do not keep white space
        assert table.column("text").to_pylist() == texts
    else:
        assert [text.split() for text in table.column("text").to_pylist()] == [text.split() for text in texts]
    exported(run, tmp_path / "bare", "parquet", split="held_out", text=False)
    bare = pq.read_table(tmp_path / "bare/docs")
    assert "text" not in bare.column_names
    assert bare.column("tokens").to_pylist() == [row[3] for row in documents(run, "docs", "held_out")]


def test_json_lines_are_read_by_datatrove(run: Path, tmp_path: Path) -> None:
    from datatrove.pipeline.readers import JsonlReader

    exported(run, tmp_path / "zst", "jsonl", tokens=True)
    rows = documents(run, "docs")
    unpacked = zstandard.ZstdDecompressor().stream_reader(
        io.BytesIO((tmp_path / "zst/docs/00000.jsonl.zst").read_bytes())
    )
    first = json.loads(io.TextIOWrapper(unpacked, "utf-8").readline())
    assert (first["id"], first["tokens"]) == (rows[0][0], rows[0][3])
    exported(run, tmp_path / "gz", "jsonl", compression="gz", sources=["docs"])
    read = list(JsonlReader(str(tmp_path / "gz"), glob_pattern="**/*.jsonl.gz").run())
    assert [(d.id, d.metadata["file"], d.metadata["record"]) for d in read] == [row[:3] for row in rows]
    assert [d.text.split() for d in read] == [t.split() for i, t in enumerate(TEXTS["docs"]) if i % 9]
    assert b'"tokens"' not in gzip.decompress((tmp_path / "gz/docs/00000.jsonl.gz").read_bytes())


def test_the_native_form_is_what_olmo_core_reads(run: Path) -> None:
    """OLMo-core's rule (`NumpyFSLDataset`, `iter_document_indices`): a raw memory map of whole sequences, the rest dropped;
    documents from the first two fields of the .csv.gz, or from the places of the end token. Its class, where installed.
    """
    manifest = load_manifest(run)
    dtype, length = np.dtype(manifest["dtype"]), 128
    shard = manifest["sources"]["docs"]["shards"][0]
    mapped = np.memmap(run / shard["path"], mode="r", dtype=dtype)
    with gzip.open(run / shard["index"], "rt") as lines:
        bounds = [tuple(map(int, line.split(",")[:2])) for line in lines]
    ends = np.flatnonzero(mapped == manifest["tokenizer"]["eos_id"]) + 1
    assert [end for _, end in bounds] == ends.tolist() and [start for start, _ in bounds] == [0, *ends[:-1]]
    try:
        from olmo_core.data import NumpyFSLDataset
    except ImportError:
        return
    found = NumpyFSLDataset(
        str(run / shard["path"]),
        sequence_length=length,
        pad_token_id=1,
        eos_token_id=manifest["tokenizer"]["eos_id"],
        vocab_size=manifest["tokenizer"]["vocab_size"],
        dtype=dtype.type,
    )
    assert len(found) == len(mapped) // length
    for i in range(len(found)):
        assert found[i]["input_ids"].tolist() == mapped[i * length : (i + 1) * length].tolist()


def test_a_folder_that_holds_something_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("x")
    with pytest.raises(UserError, match=r"full is not empty \(it holds mine.txt\); choose another --out"):
        exported(run, tmp_path / "full", "megatron")
    base = ["export", str(run), "--format", "megatron", "--inline", "--quiet", "--out"]
    call = [*base, str(tmp_path / "out")]
    assert main(call) == 0 and "documents end in token 0" in capsys.readouterr().out
    assert main(call) == 2 and "holds a finished export" in capsys.readouterr().err
    assert main([*base, str(tmp_path / "b"), "--source", "dosc"]) == 2
    assert "did you mean docs?" in capsys.readouterr().err


def test_a_split_without_documents_is_an_empty_export(tmp_path: Path) -> None:
    write_run(tmp_path / "run", train(tmp_path / "t.json"), {"docs": [], "code": TEXTS["code"]})
    found = exported(tmp_path / "run", tmp_path / "out", "parquet", sources=["docs"])
    assert found["sources"] == {"docs": {"documents": 0, "tokens": 0, "files": []}}


def test_damage_is_named_and_nothing_of_it_is_written(tmp_path: Path) -> None:
    tokenizer = train(tmp_path / "tokenizer.json")
    manifest = write_run(tmp_path / "run", tokenizer, TEXTS)
    path = tmp_path / "run" / manifest["sources"]["docs"]["shards"][1]["path"]
    whole = path.read_bytes()
    path.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    with pytest.raises(UserError, match=r"docs/00001.npy: its sha256 is not the one in the manifest"):
        exported(tmp_path / "run", tmp_path / "out", "parquet")
    assert (tmp_path / "out/docs/00000.parquet").exists() and not (tmp_path / "out/docs/00001.parquet").exists()
    path.write_bytes(whole[:-2])
    with pytest.raises(UserError, match=r"docs/00001.npy: is cut off"):
        exported(tmp_path / "run", tmp_path / "out", "parquet")
    path.write_bytes(whole)
    before = (tmp_path / "out/docs/00000.parquet").stat().st_mtime_ns
    exported(tmp_path / "run", tmp_path / "out", "parquet")  # goes on where it was
    assert (tmp_path / "out/docs/00000.parquet").stat().st_mtime_ns == before
    assert not (tmp_path / "out/ledger").exists()
    assert pq.read_table(tmp_path / "out/docs").num_rows == manifest["sources"]["docs"]["documents"]
