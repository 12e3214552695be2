"""A crawl as servers and crawlers write it, from the command line: what is left out, mended or replaced is told."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pyarrow.parquet as pq
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROSE = sorted(topics.items())


def prose(number: int) -> str:
    return " ".join(PROSE[number][1].split()[:150]).replace("<", "&lt;")


def record(number: int, block: bytes, kind: str = "response", type: str = "application/http; msgtype=response") -> bytes:
    head = (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Target-URI: http://a.example/{number}\r\n"
        f"Content-Type: {type}\r\nContent-Length: {len(block)}\r\n\r\n"
    )
    return head.encode() + block + b"\r\n\r\n"


def page(number: int, text: str, *lines: str, body: bytes | None = None) -> bytes:
    html = f"<html><body><article><p>{text}</p></article></body></html>".encode()
    http = "\r\n".join(["HTTP/1.1 200 OK", "Content-Type: text/html; charset=utf-8", *lines, "", ""]).encode()
    return record(number, http + (html if body is None else body))


def crawl() -> bytes:
    damaged = f"<p>Grüße aus München, schöne Straße. {prose(30)}</p>".encode().replace("ö".encode(), b"\xc3")
    records = [
        record(1, b"software: x", "warcinfo", "application/warc-fields"),
        *(page(number, prose(number)) for number in range(2, 20)),
        page(20, "", body=damaged),
        page(21, prose(21), "X-Robots-Tag: noai"),
        page(22, "", body=gzip.compress(b"<p>twice")),
        page(23, "", body=b"%PDF-1.7"),
        record(24, b"GET / HTTP/1.1\r\n\r\n", "request", "application/http; msgtype=request"),
        record(25, b"20240101\na.example. IN A 192.0.2.1\n", type="text/dns"),
    ]
    return b"".join(records)


def run(folder: Path, steps: list) -> tuple[str, dict]:
    """Run over the files of a folder; what is printed, and the run's summary."""
    sources = {
        "web": {"read": {"paths": [f"{folder}/crawl.warc"]}, "steps": steps},
        "wet": {"read": {"paths": [f"{folder}/*.wet"]}, "steps": []},
    }
    recipe = {
        "name": "crawl",
        "sources": sources,
        "tokenizer": {"train": {"vocab_size": 500, "max_bytes": "100KB"}},
        "shards": {"bytes": "1MB", "held_out": 0},
        "mixture": {"epochs": 1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "run", str(folder / "recipe.yaml"), "--out", str(folder / "out"), "--inline"],
        cwd=ROOT,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "out" / "summary.json").read_text())


def test_what_is_not_a_page_is_in_the_books_and_in_the_printed_summary(tmp_path):
    (tmp_path / "crawl.warc").write_bytes(gzip.compress(crawl()))  # no suffix says so: the first bytes do
    wet = record(1, b"software: x", "warcinfo", "application/warc-fields")
    wet += b"".join(record(n, prose(n).encode() + b"\xff", "conversion", "text/plain") for n in range(31, 35))
    (tmp_path / "crawl.warc.wet").write_bytes(wet)
    printed, summary = run(tmp_path, [{"extract": {"replaced": 100}}])
    web, plain = summary["sources"]["web"], summary["sources"]["wet"]
    assert web["notes"] == {
        "extract.replaced": 1,
        "extract.replaced: documents": 1,
        "request": 1,
        "response (not HTTP)": 1,
        "warcinfo": 1,
    }
    assert {reason: amount["documents"] for reason, amount in web["dropped"].items()} == {
        "read.body.gzip": 1,
        "read.body.pdf": 1,
    }
    assert (web["documents_in"], web["documents_kept"]) == (22, 20)
    assert plain["notes"] == {"text with bytes that mean nothing": 4, "warcinfo": 1}
    assert (plain["documents_in"], plain["documents_kept"]) == (4, 4)
    lines = [" ".join(line.split()) for line in printed.splitlines()]
    for told in (
        "web extract.replaced 1",
        "web response (not HTTP) 1",
        "wet text with bytes that mean nothing 4",
        "wet warcinfo 1",
    ):
        assert told in lines
    (part,) = (tmp_path / "out" / "parts" / "web" / "0").glob("*.kept.parquet")
    rows = {row["id"]: row for row in pq.read_table(part).to_pylist()}
    assert "Grüße aus München, sch\ufffdne Straße." in rows["urn:uuid:20"]["text"]
    assert rows["urn:uuid:20"]["extract.replaced"] == 1
    assert json.loads(rows["urn:uuid:21"]["metadata"])["x_robots_tag"] == "noai"

    printed, again = run(tmp_path, [{"extract": {"replaced": 0}}])  # decided again from the stored measure
    assert again["sources"]["web"]["notes"] == web["notes"]
    assert again["sources"]["web"]["dropped"]["extract.replaced.max"]["documents"] == 1
    assert again["sources"]["web"]["documents_kept"] == 19
