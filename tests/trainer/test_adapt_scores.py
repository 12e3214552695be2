"""Scores of answers, against values worked out by hand and the libraries' own."""

from __future__ import annotations

import io
import json
import math
import socket
import sys
import threading

import pytest
import zstandard

from trainer.adapt.pairs import Record
from trainer.adapt.run_tests import passes
from trainer.adapt.scores import final_answer, overlap, program, same_final, score, self_bleu, spearman, task_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="programs are closed off by seccomp, which Linux has")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3 * 4 = 12\n#### 12", "12"),
        ("#### 1,200\nmore", "1,200"),
        ("so $x = \\boxed{\\dfrac{9}{7}}$.", "\\dfrac{9}{7}"),
        ("\\boxed{1} or rather \\boxed{\\frac{a}{b{c}}}", "\\frac{a}{b{c}}"),
        ("first 3, then 4.5 apples", "4.5"),
        ("nothing", None),
        ("#### ", None),
        ("\\boxed{never closed", None),
    ],
)
def test_the_final_answer_of_a_worked_one(text, found) -> None:
    assert final_answer(text) == found


@pytest.mark.parametrize(
    ("answer", "expected", "same"),
    [
        ("#### 70,000", "70000", True),
        ("#### $18.00", "18", True),
        ("it is \\boxed{\\dfrac{9}{7}}", "\\frac{9}{7}", True),
        ("\\boxed{\\left( 1,2 \\right)}", "(1, 2)", True),
        ("\\boxed{12}", "(1,2)", False),
        ("#### 7", "70", False),
        ("the answer is 100", "10", False),
        ("#### 10.50", "10.5", True),
    ],
)
def test_final_answers_are_compared_as_written_alike(answer, expected, same) -> None:
    assert same_final(answer, expected) is same


def test_words_overlap_as_squad_and_rouge_count() -> None:
    found = overlap("The cat sat on a mat", "a cat sat")
    assert found["f1"] == pytest.approx(2 * 2 / (4 + 2))  # cat sat on mat; cat sat
    assert found["exact_match"] == 0
    assert found["rouge1"] == pytest.approx(2 * (3 / 6) * (3 / 3) / (3 / 6 + 1))  # a, cat, sat
    assert found["rouge2"] == pytest.approx(2 * (1 / 5) * (1 / 2) / (1 / 5 + 1 / 2))  # cat sat
    assert found["rougeL"] == pytest.approx(2 * (2 / 6) * (2 / 3) / (2 / 6 + 2 / 3))
    assert overlap("An  answer!", "answer")["exact_match"] == 1


def test_self_bleu_is_highest_for_equal_samples() -> None:
    one = "the water turns the wheel of the mill"
    assert self_bleu([one, one, one]) == pytest.approx(100)
    assert self_bleu([one, "a completely different sentence is here now"]) < 5
    assert self_bleu([one, "the water turns the wheel"]) == pytest.approx((_bleu(8, 5) + _bleu(5, 8)) / 2, rel=1e-6)


def _bleu(words: int, reference: int) -> float:
    """By hand: the samples share their first five words; of 8 words 5 are common, 4 of 7 pairs, and so on."""
    shared = min(words, reference)
    logs = [math.log((shared - n) / (words - n)) for n in range(4)]
    # "the" stands three times in the longer sample and twice in the shorter: a match each up to the shorter's count.
    brevity = min(0.0, 1 - reference / words)
    return 100 * math.exp(sum(logs) / 4 + brevity)


def test_spearman_with_and_without_ties() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5 / sqrt(4.5 * 5).
    assert spearman([1, 5, 5, 9], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_a_fenced_program_is_taken_out_of_its_fence() -> None:
    assert program("Here:\n```python\nx = 1\n```\ndone") == "x = 1\n"
    assert program("x = 1") == "x = 1"


GOOD = "def double(x):\n    return 2 * x"


@linux
def test_programs_pass_and_fail_their_tests() -> None:
    assert passes(GOOD, ["assert double(2) == 4"])
    assert passes("import math, re, collections, itertools\n" + GOOD, ["assert double(math.inf) == math.inf"])
    assert not passes(GOOD, ["assert double(2) == 5"])
    assert not passes("def double(x:", ["assert True"])
    assert not passes("import sys\nsys.exit(0)", ["assert False"])
    assert not passes("import os\nos._exit(0)", ["assert False"])


@linux
def test_programs_have_limits() -> None:
    assert not passes("while True: pass", [], time_s=1)
    assert not passes("import time\ntime.sleep(60)", [], time_s=1)
    assert not passes("x = bytearray(2 << 30)", [])
    assert passes("x = bytearray(1 << 20)", [])
    assert not passes("open('big', 'wb').write(bytes(8 << 20))", [])


@linux
def test_programs_reach_no_network() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        reached = threading.Event()

        def accept() -> None:
            try:
                server.accept()
                reached.set()
            except OSError:
                pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        dial = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), 2)"
        assert not passes(dial, [])
        caught = "import socket\ntry:\n    socket.socket()\nexcept PermissionError:\n    pass\nelse:\n    raise SystemExit(1)"
        assert passes(caught, [])
        child = f"import subprocess, sys\nassert subprocess.run([sys.executable, '-c', {dial!r}]).returncode == 0"
        assert not passes(child, [])
        assert not reached.is_set()
        with socket.create_connection(("127.0.0.1", port), 2):  # it was there all along
            thread.join(5)
        assert reached.is_set()


def test_how_records_are_judged_follows_from_their_fields() -> None:
    def record(**fields):
        return Record("r", "answer", "p", "the mill", fields)

    assert task_of(record(tests=["assert True"])) == "tests"
    assert task_of(record(final="3")) == "final"
    assert task_of(record()) == "text"
    assert score("final", record(final="3"), "#### 3") == {"exact_match": 1.0}
    assert score("text", record(), "mill")["f1"] == 1.0


@linux
def test_the_shared_answers_score_themselves_right(shared_data) -> None:
    for name, most in (("gsm8k", 300), ("math", 300), ("mbpp", 6)):
        with (shared_data / "pairs" / f"{name}.jsonl.zst").open("rb") as file:
            stream = io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(file), encoding="utf-8")
            rows = [json.loads(line) for _, line in zip(range(most), stream, strict=False)]
        records = [Record(row["id"], "answer", row["prompt"], row["answer"], row) for row in rows]
        scores = [next(iter(score(task_of(r), r, r.answer).values())) for r in records]
        assert sum(scores) == len(scores), [r.id for r, s in zip(records, scores, strict=True) if not s]
