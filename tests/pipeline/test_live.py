"""A run while it goes on: one screen of a terminal, and a page of the browser."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import browser
from rich.console import Console

from pipeline.cli import main
from pipeline.live.look import Now, Source, Step, Watch
from pipeline.live.screen import screen
from pipeline.live.server import make_server
from pipeline.progress import Standing

ROOT = Path(__file__).resolve().parents[2]
FILTER = """
import pathlib, time
def waits(text):
    while "wait here" in text and not pathlib.Path("go").exists():
        time.sleep(0.02)
    if "raise here" in text:
        time.sleep(2.2)  # a run tells how far it is once two seconds have passed
        raise ValueError("no such word")
    return len(text)
"""
HOSTILE = "<script>document.title='taken'</script>\x1b[31m & short"


def document(number: int, text: str) -> str:
    return json.dumps({"id": f"d{number}", "text": text}) + "\n"


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a run in runs/live whose first task is done, and whose second one waits for the file `go`."""
    folder = tmp_path_factory.mktemp("live")
    (folder / "waiting.py").write_text(FILTER)
    long = "The water of the river turns the wheel that drives the stones of the mill. " * 3
    (folder / "a.jsonl").write_text(
        "".join(document(i, long) for i in range(8)) + document(8, HOSTILE) + document(9, "raise here " + long)
    )
    (folder / "b.jsonl").write_text(document(10, f"wait here {long}") + document(11, "short"))
    (folder / "recipe.yaml").write_text(
        "name: live\nsources: {docs: {read: {paths: ['*.jsonl']}, steps: ["
        "python: {function: 'waiting:waits', measure: length, min: 60}]}}\n"
        "tokenizer: {train: {vocab_size: 300}}\nshards: {held_out: 0}\nmixture: {epochs: 1}\n"
        "run: {split_bytes: 2500, failures: {documents: 0.5}}\n"
    )
    command = [sys.executable, "-m", "pipeline", "run", "recipe.yaml", "--inline", "--quiet"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: (folder / "runs/live/logs/progress.json").exists() or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        until(lambda: bool(Watch(str(folder / "runs/live")).look().dropped))  # the first task is in the ledger
        yield folder
        (folder / "go").touch()
        assert process.wait(120) == 0, process.communicate()[0]
    finally:
        process.kill()
        process.communicate()


def until(true: Callable[[], bool]) -> None:
    while not true():
        time.sleep(0.05)


@pytest.fixture(scope="module")
def address(running: Path) -> Iterator[int]:
    with make_server([str(running / "runs")], "127.0.0.1", 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


def got(port: int, path: str, host: str = "localhost") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", path, headers={"Host": host})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    return answer.status, body


def test_the_page_tells_of_a_run_that_goes_on(running: Path, address: int) -> None:
    run = str(running / "runs/live")
    status, page = got(address, "/")
    assert status == 200 and f'href="/run/{run}"' in page and 'class="state running"' in page
    now = json.loads(got(address, f"/run/{run}.json")[1])
    assert now["state"] == "running" and now["standing"]["phase"] == "read and filter" and now["standing"]["done"] == 1
    (docs,) = now["sources"]
    assert (docs["read"], docs["left"], docs["dropped"], docs["failed"]) == (10, 8, 1, 1)
    assert docs["reasons"] == {"python.length.min": 1}
    assert [(one["id"], one["reason"], one["text"]) for one in now["dropped"]] == [("d8", "python.length.min", HOSTILE)]
    status, page = got(address, f"/run/{run}")
    assert "<script>document" not in page and "&lt;script&gt;document" in page and "\x1b" not in page
    assert re.search(r"Phase 2 of 6: read and filter", page) and "1 of 2 tasks" in page and 'data-every="2"' in page
    assert "elapsed" in page and "python.<wbr>length.<wbr>min" in page


def test_a_run_that_cannot_be_read_hides_no_other(running: Path, address: int) -> None:
    broken = running / "runs/broken"
    (broken / "ledger").mkdir(parents=True)
    (broken / "run.json").write_text("{}")
    (broken / "ledger/000001-000001-0a0a0a0a.log").write_text("no ledger\nat all\n")
    status, page = got(address, "/")
    assert status == 200 and "cannot be read" in page and f'href="/run/{running / "runs/live"}"' in page
    status, page = got(address, f"/run/{broken}")
    assert status == 500 and "broken/ledger" in page
    shutil.rmtree(broken)
    assert "broken" not in got(address, "/")[1]


def test_nobody_else_is_answered(running: Path, address: int) -> None:
    assert got(address, "/", host="evil.example")[0] == 403
    assert got(address, "/run/etc/passwd")[0] == 404 and got(address, "/run/../../etc/passwd")[0] == 404
    assert got(address, "/live.css")[0] == 200


def test_a_browser_shows_it_whole_on_a_phone_and_on_a_desk(running: Path, address: int) -> None:
    run = running / "runs/live"
    with browser() as page:
        for width, height in ((390, 844), (1280, 900)):
            page.open(f"http://127.0.0.1:{address}/run/{run}", width, height)
            assert page.value("[innerWidth, document.documentElement.scrollWidth]") == [width, width]
            assert page.value("document.title") == f"{run}: running"
            assert page.value("document.querySelectorAll('#dropped pre').length") == 1
        # What was opened stays open while the page is asked for again, and what was put in is the new one.
        page.value("document.querySelector('#phase details').open = true; document.getElementById('live').old = true")
        page.until("!document.getElementById('live').old")
        assert page.value("document.querySelector('#phase details').open")
        assert page.picture().startswith(b"\x89PNG")


def test_the_screen_is_left_when_the_run_is_stopped_or_done(
    running: Path, address: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last of these tests: it lets the run go on."""
    monkeypatch.chdir(running)
    threading.Timer(1.5, (running / "go").touch).start()
    assert main(["status", "runs/live", "--watch"]) == 0
    told = capsys.readouterr()
    assert "phase 2 of 6: read and filter 1/2 tasks" in told.err
    assert told.out.startswith("finished after ") and re.search(r" docs +12 +9 +2 +1 ", told.out)
    page = got(address, f"/run/{running / 'runs/live'}")[1]
    assert 'class="state finished"' in page and "data-every" not in page
    assert main(["status", "recipe.yaml", "--watch"]) == 2 and "there is no run here" in capsys.readouterr().err
    assert main(["serve", "nowhere"]) == 2 and "nowhere: there is no such folder" in capsys.readouterr().err


def moment(sources: int) -> Now:
    steps = [Step("read", 3_786_123, 1_868_999, 1_917_124, 0)]
    reasons = {f"refinedweb_lines.removed_words_number_{i}.max": 362_123 for i in range(9)}
    names = ["open-web-math-and-more", *(f"source-{i}" for i in range(1, sources))]
    standing = Standing(
        phase="bff: count, exact: scatter, minhash: scatter", number=13, phases=17, tasks=19_357, done=7_588, tried_again=2,
        bytes=10**12, done_bytes=10**11, seconds=100.0, left=5000.0, run_left=90_000.0, elapsed=4000.0,
    )  # fmt: skip
    made = [Source(name, steps, 3_786_123, 1_868_999, 1_917_124, 0, 4_930_000_000, reasons) for name in names]
    return Now("runs/dclm_mix", "running", "me", 4000.0, standing, 1, made, [], [], [], 3)


@pytest.mark.parametrize("sources", [1, 7, 60])
def test_the_screen_is_whole_in_eighty_columns(sources: int) -> None:
    console = Console(file=io.StringIO(), width=80, height=24, force_terminal=True, color_system=None, legacy_windows=False)
    console.print(screen(moment(sources), console))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    lines = text.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 80 and "…" not in text
    assert lines[0].startswith("83 min 20 s left, about 25 h 00 min of the run; 66 min 40 s elapsed")
    assert lines[1].startswith("phase 13 of 17: bff: count")
    assert "7,588/19,357 tasks" in text
    every = f"{sources * 3.786123:.3g}M"
    assert re.search(rf"\n all( \(\d+ more\))? +{every} ", text)
    assert "runs/dclm_mix/logs/failed" in text
