"""A source that gives nothing, or less than it is known to have, stops the run with the key that took all."""

from __future__ import annotations

import json

import pytest

from pipeline.cli import main
from pipeline.jobs.documents import DocumentsReport
from pipeline.ledger import Ref
from pipeline.plan.graph import Release
from pipeline.plan.node import Done, Job, Node, Stage
from pipeline.recipe.checks import SourceBooks, check_documents, check_files, checked
from pipeline.recipe.recipe import RecipeError, build_recipe
from stages.books import Amount, StepBooks
from stages.errors import UserError


def recipe(**source):
    data = {
        "name": "x",
        "sources": {"docs": {"read": {"paths": ["x.jsonl"]}} | source},
        "tokenizer": {"train": {"vocab_size": 300}},
        "mixture": {"epochs": 1},
    }
    return build_recipe(data)


def books(step, into, failed=0, **dropped):
    out = into - failed - sum(dropped.values())
    made = StepBooks(step, Amount(into, into), Amount(out, out), Amount(failed, failed))
    for reason, docs in dropped.items():
        made.dropped[reason.replace("__", ".")] = Amount(docs, docs)
    return made


def report(*steps, notes=None):
    return DocumentsReport(part="", dropped="", docs=0, bytes=0, books=list(steps), notes=notes or {})


def check(recipe, *reports, later=None):
    found = SourceBooks()
    for one in reports:
        found.add("documents", "0", one)
    if later:
        found.add("tokenize", "", later)
    check_documents("docs", recipe.sources["docs"], found)


def test_nothing_was_read():
    with pytest.raises(UserError) as error:
        check(recipe(), report(books("read", 0), notes={"empty line": 7}))
    assert str(error.value) == (
        "sources.docs: no document was read; there were empty line (7); mend that, or set sources.docs.allow_empty: true if "
        "it may be empty"
    )
    check(recipe(allow_empty=True), report(books("read", 0)))


def test_the_step_that_took_all_is_named():
    read, length = books("read", 10), books("length", 10, length__min=8)
    last = books("language", 2, language__label__keep=2)
    with pytest.raises(
        UserError, match=r"none of its 10 documents is left: length\.min \(8\), language\.label\.keep \(2\)"
    ):
        check(recipe(), report(read, length, last))
    with pytest.raises(UserError, match=r"and the last went at language\.label\.keep; mend that"):
        check(recipe(), report(read, length, last))
    check(recipe(), report(read, length, last), report(books("read", 1), books("length", 1), books("language", 1)))
    assert (read.into.docs, last.into.docs) == (10, 2)
    failed = report(books("read", 3, failed=3))
    with pytest.raises(UserError, match=r"is left: failed in read \(3\) took them;"):
        check(recipe(), failed)
    later = report(books("dedup", 10), books("tokenize", 10, tokenize__skip_empty=10))
    with pytest.raises(UserError, match=r"tokenize\.skip_empty \(10\)"):
        check(recipe(), report(read), later=later)


def test_less_than_expected():
    known = recipe(expected={"files": 3, "documents": "1K"})
    check_files(known.sources, {"docs": [1, 2, 3]})
    with pytest.raises(UserError, match=r"sources\.docs\.expected\.files: 2 files were found, and 3 are expected"):
        check_files(known.sources, {"docs": [1, 2]})
    check(known, report(books("read", 600)), report(books("read", 400)))
    with pytest.raises(
        UserError, match=r"expected\.documents: 999 documents were read, and 1,000 are .* not be read \(1\)"
    ):
        check(known, report(books("read", 600)), report(books("read", 400, failed=1)))
    assert known.content() == recipe().content()


def test_a_plan_is_looked_at_as_it_is_walked():
    seen = []

    def plan():
        seen.append((yield Release()))
        seen.append((yield Stage("read", [Node(Ref("documents", "docs", "0", 0), Job())])))
        return "end"

    def walk(answer):
        walked = checked(plan(), recipe())
        assert isinstance(next(walked), Release)
        assert isinstance(walked.send(None), Stage)
        with pytest.raises(StopIteration) as end:
            walked.send([Done("key", [], answer)])
        return end.value.value

    assert walk(report(books("read", 5))) == "end"
    assert walk(report()) == "end"
    with pytest.raises(UserError, match="no document was read"):
        walk(report(books("read", 0)))


def test_records_that_do_not_fit_in_memory_are_refused():
    recipe(read={"paths": ["x"], "max_record_bytes": 200 << 20})
    with pytest.raises(
        RecipeError, match=r"read\.max_record_bytes = 419430400: a task holds 6 times that of a record, and run"
    ):
        recipe(read={"paths": ["x"], "max_record_bytes": 400 << 20})


@pytest.mark.parametrize(
    ("lines", "source", "said"),
    [
        (["", " "], {}, "sources.docs: no document was read; there were empty line (2)"),
        ([{"text": "a b"}], {"steps": [{"gopher_quality": {}}]}, "took them"),
        ([{"text": " "}, {"text": ""}], {}, "tokenize.skip_empty (2) took them"),
        ([{"text": "a"}], {"expected": {"documents": 2}}, "1 documents were read, and 2 are expected"),
        ([{"text": "a"}], {"expected": {"files": 2}}, "1 files were found, and 2 are expected"),
    ],
)
def test_a_run_says_so_in_one_sentence(tmp_path, capsys, lines, source, said):
    text = "".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines)
    (tmp_path / "x.jsonl").write_text(text)
    (tmp_path / "more.jsonl").write_text(json.dumps({"text": "the wheel turns"}) + "\n")
    data = {
        "name": "x",
        "sources": {
            "docs": {"read": {"paths": [str(tmp_path / "x.jsonl")]}, **source},
            "more": {"read": {"paths": [str(tmp_path / "more.jsonl")]}},
        },
        "tokenizer": {"train": {"vocab_size": 300}},
        "mixture": {"epochs": 1},
        "shards": {"held_out": 0},
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(data))
    call = ["run", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--inline"]
    assert main(call) == 2
    shown = capsys.readouterr()
    errors = [line for line in (shown.out + shown.err).splitlines() if "sources.docs" in line]
    assert len(errors) == 1 and said in errors[0]
    assert "Traceback" not in shown.err + shown.out
