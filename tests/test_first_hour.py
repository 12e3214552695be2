"""What a new user does: from a wheel, outside the checkout, by the quickstart's own commands, from files to a trained model."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path
from pydoc_data.topics import topics

import pages
import pytest

ROOT = Path(__file__).resolve().parents[1]
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text()
TEXTS = [text[:5000] for _, text in sorted(topics.items()) if len(text) > 400]
PACKED = ("pipeline", "stages", "trainer", "configs", "pyproject.toml", "README.md", "LICENSE")


def blocks(language: str) -> list[str]:
    """The quickstart's code blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", QUICKSTART, re.S)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment with Headrace from a wheel, and what it needs from the environment of the tests."""
    folder = tmp_path_factory.mktemp("installed")
    for name in PACKED:  # a copy: a build leaves files beside the sources
        source = ROOT / name
        ignore = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(source, folder / "source" / name, ignore=ignore) if source.is_dir() else shutil.copy2(
            source, folder / "source"
        )
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "source")]
    subprocess.run(wheel, check=True, capture_output=True)
    venv.create(folder / "env", with_pip=False, symlinks=True)
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    packages = folder / "env" / "lib" / version / "site-packages"
    (packages / "needed.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    install = [*pip, "--python", str(folder / "env" / "bin" / "python"), "install", "-q", "--no-deps"]
    subprocess.run([*install, *map(str, folder.glob("*.whl"))], check=True, capture_output=True)
    return folder / "env" / "bin"


def page(number: int) -> bytes:
    text = "".join(f"<p>{paragraph}</p>" for paragraph in TEXTS[number].replace("<", "&lt;").split("\n\n"))
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<html><body><article>{text}</article></body></html>".encode()
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Target-URI: http://a.example/{number}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files of the quickstart, and modules of the user's own that are called as Headrace's packages are."""
    folder = tmp_path_factory.mktemp("corpus")
    third = len(TEXTS) // 3
    with (folder / "articles.jsonl").open("w") as file:
        for number, text in enumerate(TEXTS[:third]):
            file.write(json.dumps({"key": f"a{number}", "title": text[:20], "body": text}) + "\n")
    (folder / "crawl.warc.gz").write_bytes(b"".join(page(number) for number in range(third, 2 * third)))
    with (folder / "notes.csv").open("w", newline="") as file:
        rows = csv.writer(file, delimiter=";")
        rows.writerow(["date", "remark"])
        rows.writerows(["2024-01-01", text] for text in TEXTS[2 * third :])
    for name in ("pipeline.py", "trainer.py", "stages/__init__.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("raise SystemExit('a module of my own')\n")
    return folder


def said(command: str, folder: Path, installed: Path, status: int = 0) -> str:
    """What a command prints, both streams together."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RAY_ADDRESS")}
    environment |= {"PATH": f"{installed}{os.pathsep}{environment['PATH']}", "COLUMNS": "200"}
    environment |= {"OMP_NUM_THREADS": "1"}  # two threads take longer for a model so small, and far longer on a busy machine
    done = subprocess.run(
        ["sh", "-ec", command], cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert done.returncode == status, done.stdout
    return done.stdout


def test_two_commands_and_one_edit_lead_from_files_to_a_trained_model(folder: Path, installed: Path) -> None:
    commands = [command.text for command in pages.commands("docs/quickstart.md") if not command.mark]
    assert [command.split()[1] for command in commands] == ["init", "validate", "run"]
    made = said(commands[0], folder, installed)
    assert "text in `body`" in made and "text in `remark`" in made and "warc" in made
    assert "next: headrace validate recipe.yaml" in made

    recipe = (folder / "recipe.yaml").read_text()
    (edit,) = blocks("diff")
    before, after = (re.search(rf"^[{sign}](.*)$", edit, re.M)[1] for sign in "-+")  # type: ignore[index]
    assert recipe.count(before) == 1
    (folder / "recipe.yaml").write_text(recipe.replace(before, after))

    checked = said(commands[1], folder, installed)
    assert "no mistakes found\nnext: headrace run recipe.yaml" in checked
    trained = said(commands[2], folder, installed)
    name = re.search(r"^name: (.*)$", recipe, re.M)[1]  # type: ignore[index]
    assert f"wrote runs/{name}/manifest.json" in trained
    manifest = json.loads((folder / "runs" / name / "manifest.json").read_text())
    assert {source: manifest["sources"][source]["documents"] > 10 for source in manifest["sources"]} == {
        "articles": True,
        "crawl": True,
        "notes": True,
    }
    notes = manifest["sources"]["notes"]
    assert notes["budget_tokens"] == 2 * notes["tokens"]
    losses = [float(loss) for loss in re.findall(r"^step \d+/\d+  loss ([\d.]+)", trained, re.M)]
    assert len(losses) > 20 and sum(losses[-5:]) < 0.8 * sum(losses[:5])
    checkpoint = re.search(r"checkpoint (runs/train/\S+)", trained)[1]  # type: ignore[index]
    assert (folder / checkpoint / "state.json").is_file() or list((folder / checkpoint).iterdir())

    sample = re.search(r"^next: (headrace trainer sample .*)$", trained, re.M)[1]  # type: ignore[index]
    assert said(f"{sample} --tokens 8", folder, installed).strip()


def test_the_next_line_of_a_run_is_a_command_that_works(folder: Path, installed: Path) -> None:
    (folder / "small.yaml").write_text(
        "name: small\nsources: {a: {read: {paths: [articles.jsonl], text_field: body}}}\n"
        "tokenizer: {train: {vocab_size: 500}}\nshards: {held_out: 0}\nmixture: {epochs: 1}\n"
    )
    printed = said("headrace run small.yaml --inline --quiet", folder, installed)
    command = re.search(r"^next: (headrace train .*)$", printed, re.M)[1]  # type: ignore[index]
    small = " --set train.tokens=2048 train.batch_tokens=1024 model.n_layers=1 evaluate.instances=1"
    assert "done: 2 steps" in said(command + small, folder, installed)


def test_what_is_shipped_is_found_by_name_and_the_folders_own_modules_are_left_alone(folder: Path, installed: Path) -> None:
    assert said("headrace --version", folder, installed).startswith("headrace 0.")
    assert str(installed.parent) in said("headrace --version", folder, installed)
    assert "no mistakes found" in said("headrace validate dclm_mix --json > seen.json; echo no mistakes found", folder, installed)
    assert set(json.loads((folder / "seen.json").read_text())["sources"]) >= {"dclm", "wiki"}
    assert "did you mean dclm_mix" in said("headrace run dclm_mx", folder, installed, status=2)
    page = "files('pipeline.live').joinpath('templates/run.html').is_file()"  # of `serve`
    there = f'{installed}/python -P -c "from importlib.resources import files; print({page})"'
    assert said(there, folder, installed) == "True\n"
    assert "active; 8 GPUs" in said("headrace trainer plan olmoe_1b_7b", folder, installed)
    assert "a module of my own" in said("python -m pipeline --version", folder, installed, status=1)
