"""Extraction: the same text as Resiliparse's own, each page's trouble its own, and no process left behind."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
import zstandard
from pydantic import ValidationError
from resiliparse.extract.html2text import extract_plain_text

from stages.document import DOCUMENT, PAGE
from stages.errors import DocumentsFailed, UserError
from stages.extract import extract as module
from stages.extract.extract import Extract
from stages.read import ReadSpec, read_batches

ENGINE = """
    import ctypes, os, sys, time

    def work(html):
        if "SEGFAULT" in html:
            ctypes.string_at(0)
        if "SPIN" in html:
            while True:
                pass
        if "SLEEP" in html:
            time.sleep(1000)
        if "RAISE" in html:
            raise ValueError("cannot read this")
        if "EXIT" in html:
            os._exit(3)
        if "MEMORY" in html:
            return str(len(bytes(8 << 30)))
        if "NUMBER" in html:
            return 3
        if "NOISE" in html:
            sys.stderr.write("x" * 3_000_000)
            print("on stdout")
        if "SURROGATE" in html:
            return "a\\ud800"
        if "NONE" in html:
            return None
        return html.upper()

    class Outer:
        inner = staticmethod(len)
"""


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """A module of extraction functions that misbehave on demand, and no process of it left afterwards."""
    (tmp_path / "engine_under_test.py").write_text(textwrap.dedent(ENGINE))
    monkeypatch.syspath_prepend(tmp_path)
    yield "engine_under_test:work"
    module.close_all()


def pages(*html, charset=None):
    count = len(html)
    return pa.RecordBatch.from_pydict(
        {
            "id": [str(i) for i in range(count)],
            "text": [""] * count,
            "url": [None] * count,
            "file": ["f"] * count,
            "record": list(range(1, count + 1)),
            "offset": [None] * count,
            "metadata": [None] * count,
            "html": [one.encode() if isinstance(one, str) else one for one in html],
            "charset": [charset] * count,
        },
        PAGE,
    )


def supervisor(step):
    return step._supervisor()


HTML = """<html><head><title>Mill</title></head><body><nav><a href="/">Home</a></nav><article><h1>The water mill</h1>
<p>Water turns the wheel, and the wheel turns the stone. It has done so for two thousand years.</p><ul><li>oak</li></ul>
</article><footer>imprint</footer></body></html>"""


def test_main_text():
    batch, measures = Extract().edit(pages(HTML, "<html></html>", ""))
    assert batch.schema == DOCUMENT
    expected = extract_plain_text(HTML, main_content=True)
    assert "Water turns the wheel" in expected
    assert "imprint" not in expected
    assert batch.column("text").to_pylist() == [expected, "", ""]
    assert measures["characters"].tolist() == [len(expected), 0, 0]
    assert measures["page_bytes"].tolist() == [len(HTML), 13, 0]
    step = Extract()
    assert [step.reasons()[i] if i >= 0 else None for i in step.decide(measures)] == [
        None,
        "characters.min",
        "characters.min",
    ]


def test_options_reach_the_engine():
    step = Extract(main_content=False, list_bullets=False, preserve_formatting=False, skip_elements=["h1"])
    text = step.edit(pages(HTML))[0].column("text")[0].as_py()
    assert text == extract_plain_text(
        HTML, main_content=False, list_bullets=False, preserve_formatting=False, skip_elements=["h1"]
    )
    assert "imprint" in text
    assert "The water mill" not in text


def test_text_passes_through_and_slices_work():
    batch = pages("<p>one", "<p>two", "<p>three", "<p>four")
    html = pa.array([b"<p>one", None, b"<p>three", b"<p>four"], pa.large_binary())
    text = pa.array(["", "already text", "", ""], pa.large_string())
    batch = pa.RecordBatch.from_arrays(
        [*batch.columns[:1], text, *batch.columns[2:7], html, batch.columns[8]], schema=PAGE
    )
    result, measures = Extract().edit(batch)
    assert result.column("text").to_pylist() == ["one", "already text", "three", "four"]
    assert measures["page_bytes"].tolist() == [6, 12, 8, 7]
    assert Extract().edit(batch.slice(1, 2))[0].column("text").to_pylist() == ["already text", "three"]
    assert Extract().edit(batch.slice(0, 0))[0].num_rows == 0
    documents, measures = Extract().edit(result)
    assert documents == result
    assert measures["characters"].tolist() == [3, 12, 5, 4]


def test_large_pages_are_dropped_unread():
    step = Extract(max_page_bytes=100)
    batch, measures = step.edit(pages("<p>" + "x" * 200, "<p>y"))
    assert batch.column("text").to_pylist() == ["", "y"]
    assert [step.reasons()[i] if i >= 0 else None for i in step.decide(measures)] == ["page_bytes.max", None]
    assert step.settings()["max_page_bytes"] == 100
    assert "characters" not in step.settings()


def test_replaced_characters_are_a_measure():
    html = "<p>Große Mühle am Fluss, schöne Räder".encode()
    broken = html.replace("ü".encode(), b"\xc3", 1).replace("ß".encode(), b"\xc3", 1)
    batch = pages(html, broken)
    nothing = pa.array([html, None], pa.large_binary())
    step = Extract(replaced=1)
    result, measures = step.edit(batch)
    assert result.column("text")[1].as_py() == "Gro\ufffde M\ufffdhle am Fluss, schöne Räder"
    assert measures["replaced"].to_pylist() == [0, 2]
    assert [step.reasons()[i] if i >= 0 else None for i in step.decide(measures)] == [None, "replaced.max"]
    text_alone = batch.set_column(7, PAGE.field("html"), nothing)
    assert step.edit(text_alone)[1]["replaced"].to_pylist() == [0, None]
    result, measures = Extract(charset="as_dclm").edit(batch)
    assert "ü" not in result.column("text")[1].as_py()
    assert "\ufffd" not in result.column("text")[1].as_py()
    assert measures["replaced"].to_pylist() == [None, None]


ENCODED = [
    ("Mühle — 水", "utf-8", None, None),
    ("Mühle", "iso-8859-1", "ISO-8859-1", None),
    ("мельница", "windows-1251", None, "windows-1251"),
    ("水車小屋の水車", "shift_jis", '"Shift_JIS"', None),
    ("水車小屋の水車", "iso-2022-jp", "iso-2022-jp", None),
    ("水车磨坊", "gbk", "gb2312", None),
    ("Mühle", "utf-16", None, None),
    ("Mühle — 水", "utf-8-sig", "iso-8859-1", None),
    ("Mühle — 水", "utf-8", "iso-8859-1", "windows-1252"),
    ("Mühle und Wehr, Bäche und Flüsse", "windows-1252", "no-such-charset", None),
]


@pytest.mark.parametrize(("text", "encoding", "declared", "meta"), ENCODED)
def test_encodings(text, encoding, declared, meta):
    head = f'<meta charset="{meta}">' if meta else ""
    html = f"<html><head>{head}</head><body><p>{text}</p></body></html>".encode(encoding)
    assert Extract().edit(pages(html, charset=declared))[0].column("text")[0].as_py() == text


def test_a_page_cut_within_a_character():
    html = "<p>Wasser für die Mühle".encode()[:-4]
    assert html[-1:] == b"\xc3"
    assert Extract().edit(pages(html, charset="iso-8859-1"))[0].column("text")[0].as_py() == "Wasser für die M"


def test_every_kind_of_trouble_costs_its_page(engine):
    html = [
        "a",
        "SEGFAULT",
        "b",
        "SPIN",
        "SLEEP",
        "c",
        "RAISE",
        "EXIT",
        "MEMORY",
        "NONE",
        "NUMBER",
        "NOISE",
        "SURROGATE",
    ]
    step = Extract(engine=engine, page_seconds=0.2, memory_mb=1024)
    with pytest.raises(DocumentsFailed) as caught:
        step.edit(pages(*html))
    failures = {html[failure.row]: failure for failure in caught.value.failures}
    errors = {name: failure.error for name, failure in failures.items()}
    # On a machine that is very busy the process may get no 0.2 seconds, and is told by the clock, as one that sleeps.
    assert errors.pop("SPIN") in ("PageTimeout: the page took more than 0.2 seconds of CPU time", errors["SLEEP"])
    assert errors == {
        "SEGFAULT": "ParserCrash: the parser's process ended with signal SIGSEGV on this page",
        "SLEEP": "PageTimeout: the page took more than 1.2 seconds",
        "RAISE": "ValueError: cannot read this",
        "EXIT": "ParserCrash: the parser's process ended with exit status 3 on this page",
        "MEMORY": "MemoryError: ",
        "NUMBER": "TypeError: the engine returned int, not str",
    }
    assert "engine_under_test.py" in failures["RAISE"].traceback
    assert "Segmentation fault" in failures["SEGFAULT"].traceback
    batch, measures = caught.value.result
    assert caught.value.kept_rows.tolist() == [0, 2, 5, 9, 11, 12]
    assert batch.column("id").to_pylist() == ["0", "2", "5", "9", "11", "12"]
    assert batch.column("text").to_pylist() == ["A", "B", "C", "", "NOISE", "a?"]
    assert [len(values) for values in measures.values()] == [6, 6, 6]
    # The process lives on for the next batch, which is as if nothing had been.
    process = supervisor(step).process
    assert step.edit(pages("d"))[0].column("text").to_pylist() == ["D"]
    assert supervisor(step).process is process


def test_a_batch_in_which_all_fail(engine):
    with pytest.raises(DocumentsFailed) as caught:
        Extract(engine=engine).edit(pages("EXIT", "EXIT"))
    batch, measures = caught.value.result
    assert batch.schema == DOCUMENT
    assert (batch.num_rows, len(measures["characters"]), caught.value.kept_rows.tolist()) == (0, 0, [])


def test_a_process_that_died_between_batches_is_replaced(engine):
    step = Extract(engine=engine)
    step.prepare()
    first = supervisor(step).process
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert step.edit(pages("a"))[0].column("text").to_pylist() == ["A"]
    assert supervisor(step).process is not first


def test_batches_of_any_size_share_one_process(engine):
    step = Extract(engine=engine)
    for size in (10, 3_000_000, 0, 100, 5_000_000):
        assert step.edit(pages("x" * size, "y"))[0].column("text").to_pylist() == ["X" * size, "Y"]


def test_an_engine_that_is_not_there(engine):
    for missing, message in (
        ("no_such_module:work", "function no_such_module: there is no module no_such_module on Python's path"),
        ("engine_under_test:missing", "the extraction engine 'engine_under_test:missing' does not start: .*Error"),
    ):
        with pytest.raises(UserError, match=message):
            Extract(engine=missing).prepare()
    with pytest.raises(ValidationError):
        Extract(engine="resiliparse2")
    with pytest.raises(DocumentsFailed, match="the engine returned int"):
        Extract(engine="engine_under_test:Outer.inner").edit(pages("a"))


@pytest.mark.parametrize("how", ["signal.SIGKILL", "signal.SIGTERM"])
@pytest.mark.parametrize("busy", ["", "SLEEP"])
def test_the_process_ends_with_its_parent(engine, how, busy):
    script = f"""
        import os, signal, sys, threading
        import pyarrow as pa
        from stages.document import PAGE
        from stages.extract.extract import Extract
        step = Extract(engine={engine!r})
        step.prepare()
        print(step._supervisor().process.pid, flush=True)
        if {busy!r}:
            threading.Timer(0.3, lambda: os.kill(os.getpid(), {how})).start()
            html = {{"html": [b"SLEEP"], "text": [""], "id": ["a"], "file": ["f"], "record": [1]}}
            step.edit(pa.RecordBatch.from_pylist([{{k: v[0] for k, v in html.items()}}], PAGE))
        os.kill(os.getpid(), {how})
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=environment, cwd=root, stdout=subprocess.PIPE, timeout=60
    )
    assert done.returncode < 0
    child = int(done.stdout)
    deadline = time.monotonic() + 20
    while _alive(child) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _alive(child)


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def web_pages(folder, batch_bytes=8 << 20):
    for name in ("web-a.warc.gz", "web-b.warc.gz"):
        with (folder / name).open("rb") as stream:
            yield from read_batches(stream, name, ReadSpec(), batch_bytes=batch_bytes, on_event=lambda event: None)


@pytest.fixture(scope="module")
def web_texts(shared_data):
    """URL -> text, for both settings of `charset`."""
    texts = {}
    for charset in ("declared", "as_dclm"):
        batches = [Extract(charset=charset).edit(batch)[0] for batch in web_pages(shared_data)]
        texts[charset] = {
            url: text
            for batch in batches
            for url, text in zip(batch.column("url").to_pylist(), batch.column("text").to_pylist(), strict=True)
        }
    return texts


def test_the_texts_that_dclm_filtered(shared_data, web_texts):
    raw = zstandard.ZstdDecompressor().stream_reader(
        (shared_data / "golden" / "dclm-web.jsonl.zst").open("rb"), read_across_frames=True
    )
    golden = {row["id"]: row["text"] for row in map(orjson.loads, raw.read().splitlines())}
    assert len(golden) == 495
    assert web_texts["as_dclm"] == golden
    # Two pages are UTF-8 that the detector takes for windows-1252, one of them with a byte that is no UTF-8.
    declared = web_texts["declared"]
    other = [url for url, text in golden.items() if declared[url] != text]
    assert len(other) == 2
    for url in other:
        assert "Ã" in golden[url] or "Â" in golden[url]
        assert "Ã" not in declared[url]
        assert "Â" not in declared[url]


def test_main_text_against_what_people_marked(shared_data, web_texts):
    truth = json.loads((shared_data / "web-extraction-truth.json").read_text())
    texts = {url: _spaced(text) for url, text in web_texts["declared"].items()}
    found = [_spaced(wanted) in texts[url] for url, marks in truth.items() for wanted in marks["with"]]
    absent = [_spaced(unwanted) not in texts[url] for url, marks in truth.items() for unwanted in marks["without"]]
    print(f"wanted strings found: {np.mean(found):.1%} of {len(found)}")
    print(f"unwanted strings absent: {np.mean(absent):.1%} of {len(absent)}")
    # Measured for Resiliparse 2.0.1: 95.1% and 68.9%. The floors are to show a loss, not to praise the engine.
    assert np.mean(found) > 0.94
    assert np.mean(absent) > 0.67


def _spaced(text):
    return " ".join(text.split())
