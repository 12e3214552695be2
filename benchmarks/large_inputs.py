"""Inputs that are small or one thing on disk and large once they are read: what a run takes to read, or refuse, each.

    python -m benchmarks large_inputs [--only NAME ...] [--task-memory-mb 1536] [--json FILE]

Each input is made anew, read by `python -m pipeline run --inline` with its defaults and removed. The peak is the kernel's
high-water mark (VmHWM) of the largest process of that command: the one that reads, or that extracts text from pages.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import lzma
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from benchmarks import measure
from benchmarks.tables import show_table, verdict

ABOVE = 300_000_000  # bytes that a process may take above run.task_memory
MB = 1_000_000
FEW = 50  # ordinary documents that stand beside what is large
WORDS = b"plain words of one ordinary document that is like many others "
LONG = WORDS * 1600  # 100 kB
DROPPED = {"max_record_bytes": 50_000}  # of many long records, so that no time goes into what comes behind reading

Make = Callable[[Path], None]


def main(arguments: list[str] | None = None) -> None:
    """Run, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks large_inputs", description=__doc__.splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=INPUTS, metavar="NAME", help=f"of {', '.join(INPUTS)}")
    parser.add_argument("--task-memory-mb", type=int, default=1536, help="run.task_memory, MiB")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "headrace-bench", help="scratch folder")
    parser.add_argument("--json", help="write the figures to this file, or - for standard output")
    args = parser.parse_args(arguments)
    facts = measure.machine("pyarrow", "orjson", "zstandard")
    print(measure.show_machine(facts))
    memory = args.task_memory_mb << 20
    args.work.mkdir(parents=True, exist_ok=True)
    found = {name: measured(name, args.work, memory) for name in args.only or INPUTS}
    limit = memory + ABOVE
    rows = [
        [name, f"{one['size'] / MB:,.1f} MB", f"{one['peak'] / MB:,.0f} MB", f"{limit / MB:,.0f} MB"]
        for name, one in found.items()
    ]
    show_table(f"run.task_memory {memory / MB:,.0f} MB", ["input", "on disk", "peak", "limit"], rows)
    for name, one in found.items():
        print(f"{name}: {one['said']}")
    peak = max(one["peak"] for one in found.values())
    print(f"most memory of one process {peak / MB:,.0f} MB, {verdict(peak, limit, at_most=True, form=',')}")
    measure.write_json(args.json, {"machine": facts, "task_memory": memory, "inputs": found})


def measured(name: str, work: Path, memory: int) -> dict[str, Any]:
    """One input: its size, the peak of the process that reads it, and what the run says of it."""
    file_name, _, read = INPUTS[name]
    with tempfile.TemporaryDirectory(dir=work) as folder:
        path = Path(folder) / file_name
        measure.run(["-m", "benchmarks.large_inputs", "--make", name, str(path)], None)  # what that holds goes with it
        ordinary = Path(folder) / "ordinary.jsonl"
        ordinary.write_bytes(b"".join(b'{"text":"%s%d"}\n' % (WORDS, i) for i in range(FEW)))
        recipe = Path(folder) / "recipe.json"
        source = {"read": {"paths": [str(path)], **read}, "allow_empty": True}
        if ".warc" in file_name:
            source["steps"] = ["extract"]
        recipe.write_text(
            json.dumps(
                {
                    "name": "large",
                    "sources": {"large": source, "ordinary": {"read": {"paths": [str(ordinary)]}}},
                    "tokenizer": {"train": {"vocab_size": 400, "max_bytes": "100KB"}},
                    "shards": {"held_out": 0},
                    "mixture": {"epochs": 1},
                    "run": {"task_memory": memory},
                }
            )
        )
        size = path.stat().st_size
        command = ["-m", "benchmarks.large_inputs", "--inside", str(recipe), str(Path(folder) / "out")]
        usage = measure.run(command, None)
    print(f"{name}: {usage.peak / MB:,.0f} MB", file=sys.stderr, flush=True)
    return {"size": size, "peak": usage.peak, "said": said(usage.output)}


def said(output: str) -> str:
    """What a run says of the source `large`, in one line."""
    try:
        large = json.loads(output)["sources"]["large"]
    except ValueError:
        return "refused: " + next((line for line in output.splitlines() if line.startswith("error: ")), output[-300:])
    what = [f"{large['documents_kept']:,} of {large['documents_in']:,} documents kept"]
    what += [f"{found['documents']:,} dropped by {reason}" for reason, found in large["dropped"].items()]
    what += [f"{large['failed']['documents']:,} failed"] if large["failed"]["documents"] else []
    return "; ".join([*what, *(f"{kind}: {count:,}" for kind, count in large["notes"].items())])


def inside(recipe: str, out: str) -> None:
    """The run itself, in the process that is measured."""
    from pipeline.cli import main as pipeline

    sys.argv = ["headrace", "run", recipe, "--inline", "--json", "--out", out]
    with contextlib.redirect_stderr(sys.stdout):
        pipeline()


def line(text: bytes) -> bytes:
    return b'{"text": "%s"}\n' % text


def repeated(size: int, piece: bytes = WORDS) -> Iterator[bytes]:
    """`size` bytes of text, in pieces of about a megabyte."""
    block = piece * (MB // len(piece) + 1)
    while size > 0:
        yield block[:size]
        size -= len(block)


def write_value(file: BinaryIO, size: int) -> None:
    """A JSON line of this size, and few of ordinary size behind it."""
    file.write(b'{"text": "')
    file.writelines(repeated(size))
    file.write(b'"}\n')
    file.writelines(line(WORDS) for _ in range(FEW))


def jsonl(size: int) -> Make:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            write_value(file, size)

    return make


def jsonl_gz(size: int) -> Make:
    def make(path: Path) -> None:
        with gzip.open(path, "wb", compresslevel=1) as file:
            write_value(file, size)  # type: ignore[arg-type]

    return make


def jsonl_zst(window_log: int, size: int) -> Make:
    """A frame that asks for a window of 2 ** window_log bytes."""

    def make(path: Path) -> None:
        settings = zstandard.ZstdCompressionParameters(window_log=window_log, compression_level=1, hash_log=12)
        with path.open("wb") as file, zstandard.ZstdCompressor(compression_params=settings).stream_writer(file) as out:
            write_many(out, size)

    return make


def jsonl_xz(dictionary: int, size: int) -> Make:
    def make(path: Path) -> None:
        chain = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": dictionary}]
        with lzma.open(path, "wb", filters=chain) as file:
            write_many(file, size)

    return make


def write_many(file: Any, size: int) -> None:
    """JSON lines of 100 kB, and few of ordinary size behind them."""
    for _ in range(size // len(LONG)):
        file.write(line(LONG))
    file.write(line(WORDS) * FEW)


def array(size: int) -> Make:
    """One JSON array on one line."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(b"[")
            for _ in range(size // len(LONG)):
                file.write(line(LONG)[:-1] + b",")
            file.write(b",".join([line(WORDS)[:-1]] * FEW) + b"]")

    return make


def objects(size: int) -> Make:
    """A record of many empty objects: three bytes of JSON each, a hundred of Python's."""

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(b'{"text": "words", "list": [')
            file.writelines(repeated(size // 3 * 3, b"{},"))
            file.write(b"{}]}\n")
            file.writelines(line(WORDS) for _ in range(FEW))

    return make


def csv(size: int) -> Make:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(b'text,other\nwords,"')
            file.writelines(repeated(size, WORDS[:-1] + b"\n"))
            file.write(b'"\n' + b"words,more\n" * FEW)

    return make


def text(size: int) -> Make:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.writelines(repeated(size))

    return make


def dictionary(path: Path) -> None:
    """A long value that stands in every row, and in the file ten times."""
    rows = 16_384
    values = [f"system prompt {i} " * 4700 for i in range(10)]
    column = pa.DictionaryArray.from_arrays(pa.array(np.arange(rows) % 10, pa.int32()), pa.array(values))
    table = {"id": [str(i) for i in range(rows)], "text": [f"answer number {i} " * 5 for i in range(rows)]}
    pq.write_table(pa.table({**table, "prompt": column}), path, store_schema=False, compression="zstd")


def row_group(size: int) -> Make:
    """One row group of so many bytes."""

    def make(path: Path) -> None:
        short = pa.array([WORDS.decode()] * 100)
        batch = pa.record_batch({"text": short, "other": pa.array([LONG.decode()] * 99 + ["short"])})
        options: dict[str, Any] = {"use_dictionary": False, "compression": "zstd"}
        with pq.ParquetWriter(path, batch.schema, **options) as writer:
            for _ in range(size // batch.nbytes + 1):
                writer.write_batch(batch, row_group_size=1 << 30)

    return make


def parquet_value(name: str, size: int) -> Make:
    """One value of this size among ordinary ones, in the column of this name."""

    def make(path: Path) -> None:
        ordinary = pa.array([WORDS.decode()] * FEW, pa.large_string())
        large = pa.array([WORDS.decode() * (size // len(WORDS))], pa.large_string())
        columns = dict.fromkeys(("text", "other"), ordinary)
        columns[name] = pa.concat_arrays([ordinary[: FEW // 2], large, ordinary[FEW // 2 + 1 :]])
        pq.write_table(pa.table(columns), path, use_dictionary=False, compression="zstd")

    return make


def warc(encoding: str, compress: Callable[[Iterator[bytes]], bytes], size: int) -> Make:
    """A response whose body is a small file once it is encoded, and a large one once it is decoded."""

    def make(path: Path) -> None:
        body = compress(repeated(size, b"<p>words</p>"))
        pages = [(f"Content-Encoding: {encoding}\r\n", body), *[("", b"<p>" + WORDS * 9 + b"</p>")] * FEW]
        with path.open("wb") as file:
            for number, (header, block) in enumerate(pages):
                http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{header}\r\n".encode() + block
                head = f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:x:{number}>\r\n"
                head += f"Content-Type: application/http\r\nContent-Length: {len(http)}\r\n\r\n"
                file.write(head.encode() + http + b"\r\n\r\n")

    return make


def gzipped(pieces: Iterator[bytes]) -> bytes:
    return gzip.compress(b"".join(pieces), 1)


def zstd(pieces: Iterator[bytes]) -> bytes:
    settings = zstandard.ZstdCompressionParameters(window_log=30, compression_level=1, hash_log=12)
    stream = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    return b"".join([stream.compress(piece) for piece in pieces]) + stream.flush()


# What is made: a file's name, how, and what `read` says besides.
INPUTS: dict[str, tuple[str, Make, dict[str, Any]]] = {
    "Parquet, a value of 75 kB in each of 16,384 rows": ("x.parquet", dictionary, {}),
    "Parquet, one row group of 3 GB": ("x.parquet", row_group(3000 * MB), DROPPED),
    "Parquet, a text of 440 MB": ("x.parquet", parquet_value("text", 440 * MB), {}),
    "Parquet, another column's value of 440 MB": ("x.parquet", parquet_value("other", 440 * MB), {}),
    "Parquet, a text of 1.2 GB": ("x.parquet", parquet_value("text", 1200 * MB), {}),
    "Parquet, another column's value of 1.2 GB": ("x.parquet", parquet_value("other", 1200 * MB), {}),
    "zstd, a window of 2 GiB": ("x.jsonl.zst", jsonl_zst(31, 2200 * MB), DROPPED),
    "zstd, a window of 1 GiB": ("x.jsonl.zst", jsonl_zst(30, 1200 * MB), DROPPED),
    "xz, a dictionary of 1 GiB": ("x.jsonl.xz", jsonl_xz(1 << 30, 1200 * MB), DROPPED),
    "JSON, a line of 500 MB": ("x.jsonl", jsonl(500 * MB), {}),
    "JSON, a line of 500 MB, gzip": ("x.jsonl.gz", jsonl_gz(500 * MB), {}),
    "JSON, a value of 440 MB that is allowed": ("x.jsonl", jsonl(440 * MB), {"max_record_bytes": 500 * MB}),
    "JSON, a value of 250 MB that is allowed": ("x.jsonl", jsonl(250 * MB), {"max_record_bytes": 256 * MB}),
    "JSON, one array of 600 MB": ("x.json", array(600 * MB), DROPPED),
    "JSON, 60 MB of empty objects": ("x.jsonl", objects(60 * MB), {}),
    "CSV, a field of 500 MB": ("x.csv", csv(500 * MB), {}),
    "text, a file of 500 MB": ("x.txt", text(500 * MB), {}),
    "text, a line of 500 MB": ("x.txt", text(500 * MB), {"document": "line"}),
    "WARC, a gzip body of 2 GB": ("x.warc", warc("gzip", gzipped, 2000 * MB), {}),
    "WARC, a zstd body of 2 GB and its window": ("x.warc", warc("zstd", zstd, 2000 * MB), {}),
}

if __name__ == "__main__":
    if sys.argv[1:2] == ["--make"]:
        INPUTS[sys.argv[2]][1](Path(sys.argv[3]))
    elif sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3])
    else:
        main()
