"""Passwords and signatures in the addresses of inputs: the server is given them, and nothing else is."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from web_server import Hit, WebServer, running_web_server

from pipeline.cli import main
from pipeline.storage import public_name, without_secrets
from stages.tokens.train_tokenizer import train_tokenizer

PASSWORD, SIGNATURE, ANOTHER, WRONG = "hunter2", "TOPSECRET", "OTHERSECRET", "WRONGSECRET"
TEXT = "The water turns the wheel of the mill, and the mill grinds the corn of document {}. " * 8


@pytest.fixture
def web(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WebServer]:
    """A server that gives nothing without the password and a signature, and tells files apart by `id`."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "cache").mkdir()
    monkeypatch.setattr("pipeline.storage.cache_folder", lambda: tmp_path / "cache")
    allowed = "Basic " + base64.b64encode(f"user:{PASSWORD}".encode()).decode()

    def guard(hit: Hit) -> tuple[int, dict[str, str], bytes] | None:
        known = hit.headers.get("Authorization") == allowed and any(s in hit.path for s in (SIGNATURE, ANOTHER))
        if not known:
            return 403, {}, b""
        if "/x.jsonl" in hit.path:
            number = hit.path.partition("id=")[2][:1]
            rows = [{"id": f"{number}-{n}", "text": TEXT.replace("{}", f"{number}-{n}")} for n in range(20)]
            data = "".join(json.dumps(row) + "\n" for row in rows).encode() + b"no JSON\n"
            return 200, {"ETag": f'"v/{number}"'}, data
        return None

    with running_web_server() as server:
        server.routes = guard
        yield server


def signed(web: WebServer, path: str, signature: str) -> str:
    address = web.url(path).replace("http://", f"http://user:{PASSWORD}@")
    return f"{address}{'&' if '?' in address else '?'}X-Amz-Signature={signature}&X-Amz-Date=2026-{signature}&Expires=9"


def recipe(folder: Path, web: WebServer, signature: str = SIGNATURE) -> Path:
    train_tokenizer([TEXT], folder / "t.json", 400)
    web.files["tokenizer.json"] = (folder / "t.json").read_bytes()
    data: dict[str, Any] = {
        "name": "signed",
        "sources": {
            "web": {
                "read": {"paths": [signed(web, f"x.jsonl?id={n}", signature) for n in (5, 6)]},
                "steps": [{"mask_pii": {}}, {"gopher_quality": {}}, {"dedup": {"method": "exact"}}],
            }
        },
        "tokenizer": {"path": signed(web, "tokenizer.json", signature)},
        "mixture": {},
        "run": {"failures": {"documents": 0.5}},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data))
    return folder / "recipe.yaml"


def held(folder: Path) -> str:
    """All that the files of a folder say, compressed or not."""
    found = []
    for path in folder.rglob("*"):
        if path.is_file():
            found += [str(path), path.read_bytes().decode("latin-1")]
            if path.suffix == ".gz":
                found.append(gzip.decompress(path.read_bytes()).decode())
            if path.suffix == ".parquet":
                found.append(str(pq.read_table(path).to_pylist()))
    return "\n".join(found)


def secret_free(text: str) -> str:
    for secret in (PASSWORD, SIGNATURE, ANOTHER, WRONG, "KEYID", "user:", "X-Amz"):
        assert secret not in text, text[max(0, text.index(secret) - 200) :][:400]
    return text


def test_a_run_keeps_no_secret_and_says_none(
    web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, path = tmp_path / "out", recipe(tmp_path, web)
    assert main(["run", str(path), "--out", str(out), "--inline"]) == 0, capsys.readouterr().err
    assert main(["report", str(out), "--out", str(tmp_path / "report.html")]) == 0
    name = web.url("x.jsonl?id=5")
    assert name in secret_free(held(out)) and web.url("tokenizer.json") in held(out)
    secret_free((tmp_path / "report.html").read_text())
    for command in (
        ["plan", str(path), "--rates", str(out), "--set", "expected.documents=42", "expected.text_bytes=27kB"],
        ["status", str(out)],
        ["inspect", str(out), "--show", "2"],
        ["trace", str(out), "web/00000:3"],
        ["why", str(out), "5-3"],
        ["sweep", str(out), "--measure", "gopher_quality.words", "--side", "min"],
        ["clusters", str(out)],
    ):
        assert main(command) == 0, (command, capsys.readouterr())
        assert main([*command, "--json"]) == 0
    printed = capsys.readouterr()
    said = secret_free(printed.out + printed.err)
    assert name in said
    # The record cannot be read again without the password, and `why` says where to put it; all else is answered.
    assert "refuses access (403)" in said and "passwords are read from ~/.netrc" in said and "kept:" in said

    recipe(tmp_path, web, ANOTHER)
    assert main(["run", str(path), "--out", str(out), "--inline", "--quiet"]) == 0
    assert "nothing to do" in secret_free(capsys.readouterr().out)


def test_errors_name_no_secret(web: WebServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = recipe(tmp_path, web), str(tmp_path / "out")
    address = signed(web, "x.jsonl", WRONG)
    for change in (
        f"sources.web.read.paths=['{address}']",  # refused
        f"sources.web.read.paths=['{signed(web, 'none.jsonl', SIGNATURE)}']",  # not there
        f"sources.web.read.paths={address}",  # no list
        f"sources.web.read.format={address}",  # no such value
        f"tokenizer.path={address}",
        f"sources.web.read.paths=['{address.replace('127.0.0.1', 'localhost')}/*']",
        "sources.web.read.paths=['s3://KEYID:hunter2@bucket/x.jsonl']",
        "sources.web.read.paths=['s3a://KEYID:hunter2@bucket/x.jsonl']",
        "sources.web.read.paths=['ftp://user:hunter2@host/x.jsonl']",
        "run.failures.documents=0",  # a record that is no JSON
    ):
        assert main(["run", str(path), "--out", out, "--inline", "--set", change]) == 2, change
        assert "error: " in secret_free(capsys.readouterr().err)
    secret_free(held(tmp_path / "out"))


def test_files_that_differ_in_a_secret_alone_are_not_lost(web: WebServer, tmp_path: Path, capsys: Any) -> None:
    def by_token(hit: Hit) -> tuple[int, dict[str, str], bytes] | None:
        token = hit.path.partition("token=")[2]
        if not token:
            return None
        return 200, {"ETag": f'"{token}"'}, (json.dumps({"id": token, "text": TEXT}) + "\n").encode()

    path = recipe(tmp_path, web)
    web.routes = by_token
    paths = ",".join(repr(web.url(f"y.jsonl?token={token}")) for token in ("aaa", "bbb"))
    assert (
        main(
            ["run", str(path), "--out", str(tmp_path / "out"), "--inline", "--set", f"sources.web.read.paths=[{paths}]"]
        )
        == 2
    )
    error = capsys.readouterr().err
    assert "lead to different files" in error and "aaa" not in error and "bbb" not in error


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://user:pass@host/a.jsonl?X-Amz-Signature=1&X-Amz-Date=2&id=5", "https://host/a.jsonl?id=5"),
        ("https://host/a?sv=2&se=3&sp=r&sig=abc%3D&v=7", "https://host/a?v=7"),
        ("https://host/a?sp=1&page=2", "https://host/a?sp=1&page=2"),
        ("https://host/a?GoogleAccessId=1&Expires=2&Signature=3", "https://host/a"),
        ("https://host/a?access_token=1#token=2", "https://host/a"),
        ("https://host/a?key=AIza&alt=media", "https://host/a?alt=media"),
        ("https://host/a?key=some/object.jsonl&author=x", "https://host/a?key=some/object.jsonl&author=x"),
        ("https://host/a?0123456789abcdef0123", "https://host/a"),
        ("https://host/a b?token=x y", "https://host/a b"),
        ("https://token@host:8080/a@b?download=true", "https://host:8080/a@b?download=true"),
        ("s3://id:secret@bucket/key?x", "s3://bucket/key?x"),
        ("hf://datasets/org/name@main/x?y", "hf://datasets/org/name@main/x?y"),
        ("/a/b@c?d", "/a/b@c?d"),
    ],
)
def test_the_public_name(address: str, name: str) -> None:
    assert public_name(address) == name and public_name(name) == name
    if " " not in address:
        assert (
            without_secrets(f"see '{address}', or {address}: bad ({address}).")
            == f"see '{name}', or {name}: bad ({name})."
        )
