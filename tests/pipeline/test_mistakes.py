"""What people get wrong: each mistake is one sentence that names the place, the cause and what mends it, and exit status 2."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from pipeline.cli import main

TEXT = "The miller opens the gate, and the water of the river turns the wheel that drives the stones of the mill. "
RECIPE = """
name: corpus
sources:
  web:
    read: {paths: [data/docs.jsonl]}
    steps:
      - gopher_quality: {words: [5, 100000]}
      - dedup: {method: exact}
tokenizer: {train: {vocab_size: 300}}
shards: {held_out: 0}
mixture: {epochs: 1}
"""
STEPS = "      - gopher_quality: {words: [5, 100000]}\n      - dedup: {method: exact}\n"
PATHS = "paths: [data/docs.jsonl]"
RUN = ("run", "recipe.yaml", "--inline", "--quiet")


@dataclass
class Mistake:
    """What is changed in a recipe that works, or typed; and what must stand in the answer, in this order."""

    told: tuple[str, ...]
    old: str = ""
    new: str = ""
    typed: tuple[str, ...] = RUN
    files: dict[str, bytes] = field(default_factory=dict)
    before: Callable[[], object] | None = None


def steps(text: str, *told: str, **more: object) -> Mistake:
    return Mistake(told, STEPS, text, **more)  # type: ignore[arg-type]


def ran() -> None:
    assert main(["run", "recipe.yaml", "--inline", "--quiet"]) == 0


CUT = gzip.compress("".join(json.dumps({"text": f"{TEXT * 3} {number * 7919}"}) + "\n" for number in range(300)).encode())
MISTAKES = {
    # keys
    "path for paths": Mistake(("sources.web.read.path = ", "unknown key", "did you mean paths?"), "paths:", "path:"),
    "tokeniser": Mistake(("recipe.yaml: tokeniser", "unknown key", "did you mean tokenizer?"), "tokenizer:", "tokeniser:"),
    "a path that is empty": Mistake(("sources.web.read.paths.0 = ", "names no file"), PATHS, 'paths: [""]'),
    "a path that no system can have": Mistake(
        ("sources.web.read.paths.0 = ", "names no file"), PATHS, 'paths: ["data/docs\\0.jsonl"]'
    ),
    "one path without brackets": Mistake(
        ("sources.web.read.paths = ", "must be a list", "write [data/docs.jsonl]"), PATHS, "paths: data/docs.jsonl"
    ),
    "a step that there is not": steps(
        "      - gopher_qualty\n", "sources.web.steps.gopher_qualty", "no such step", "gopher_quality?"
    ),
    "a key of a step that there is not": steps(
        "      - gopher_quality: {word: [5, 9]}\n", "steps.gopher_quality.word", "unknown key", "did you mean words?"
    ),
    "text for a limit": steps(
        "      - gopher_quality: {words: many}\n", "gopher_quality.words = 'many'", "a limit is a number", "[min, max]"
    ),
    "one number for a limit of two sides": steps(
        "      - gopher_quality: {words: 50}\n", "gopher_quality", "words: this limit has two sides", "write [min, max]"
    ),
    "limits the wrong way round": steps(
        "      - gopher_quality: {words: [100, 5]}\n", "gopher_quality.words", "min 100 is above max 5", "no document could pass"
    ),
    "a key that is not indented enough": steps(
        "      - gopher_quality:\n        words: [5, 9]\n", "steps.gopher_quality", "`words` is a key of this step", "indent it"
    ),
    "a dedup without its method": steps(
        "      - dedup: {ngram: 5}\n",
        "steps.dedup",
        "`method` is needed",
        "one of exact, url, minhash, bff, paragraphs, substring",
    ),
    "a method of dedup that there is not": steps(
        "      - dedup: {method: minhsh}\n", "steps.dedup.method = 'minhsh'", "no such method", "did you mean minhash?"
    ),
    "a method of dedup as a step": steps(
        "      - minhash: {ngram: 5}\n", "steps.minhash", "is a method of dedup", "write `dedup: {method: minhash}`"
    ),
    "a key of another method": steps(
        "      - dedup: {method: exact, ngram: 5}\n", "steps.dedup.ngram = 5", "unknown key", "valid here"
    ),
    "a language by its name": steps(
        "      - language: {label: english}\n", "steps.language", "no language 'english'", "did you mean en?"
    ),
    "a size that is none": Mistake(
        ("shards.bytes = '64 megs'", "not a quantity", "write it like 256MiB"), "{held_out: 0}", "{bytes: 64 megs}"
    ),
    "a share above 1": Mistake(("shards.held_out = 5", "must be at most 1"), "held_out: 0", "held_out: 5"),
    "one of several words": Mistake(
        ("run.keep = 'everything'", "must be one of all, measures, none"), "mixture:", "run: {keep: everything}\nmixture:"
    ),
    "two tokenizers": Mistake(
        ("tokenizer", "name exactly one of path, hub and train", "path and train"), "{train:", "{path: t.json, train:"
    ),
    "a source that the mixture does not have": Mistake(
        ("mixture.per_source.wed", "no such source", "did you mean web?"), "epochs: 1", "per_source: {wed: {repeats: 2}}"
    ),
    "a source's name with a space": Mistake(("sources.web pages", "letters and digits"), "  web:", "  web pages:"),
    "brackets that are not closed": Mistake(("recipe.yaml, line 6", "not valid YAML"), PATHS + "}", "paths: [data/docs.jsonl"),
    "a key twice": Mistake(("recipe.yaml, line", "key 'name' is given twice"), "\nname: corpus", "\nname: corpus\nname: other"),
    "a profile where there are none": Mistake(
        ("--profile full", "recipe.yaml has no profiles", "leave --profile out"), typed=(*RUN, "--profile", "full")
    ),
    "a --set without a value": Mistake(("--set run.keep", "write it as key.path=value"), typed=(*RUN, "--set", "run.keep")),
    "a --set of a source that there is not": Mistake(
        ("--set sources.wed.steps", "there is no source wed", "did you mean web?"),
        typed=(*RUN, "--set", "sources.wed.steps.gopher_quality.words.min=9"),
    ),
    "sources as a list": Mistake(("recipe.yaml: sources: must be a mapping",), "  web:\n    read:", "  - name: web\n    read:"),
    "a recipe without anything in it": Mistake(("recipe.yaml: ", "the file is empty", "`init` writes one"), RECIPE, ""),
    # files
    "a recipe that is not there": Mistake(
        ("recipe recpe.yaml does not exist", "did you mean recipe.yaml?"), typed=("run", "recpe.yaml", "--inline")
    ),
    "a shipped recipe by a wrong name": Mistake(
        ("recipe dclm_mx does not exist", "did you mean dclm_mix"), typed=("run", "dclm_mx", "--inline")
    ),
    "a file that is not there": Mistake(
        ("sources.web.read.paths: nothing found at data/dcs.jsonl in ", "the recipe's folder", "did you mean data/docs.jsonl?"),
        "data/docs.jsonl",
        "data/dcs.jsonl",
    ),
    "a path that is relative to the current folder": Mistake(
        ("sources.web.read.paths: nothing found at data/docs.jsonl in ", "in the current folder", "write ../data/docs.jsonl"),
        typed=("run", "recipes/recipe.yaml", "--inline", "--quiet"),
        files={"recipes/recipe.yaml": RECIPE.encode()},
    ),
    "a name that does not tell what a file holds": Mistake(
        ("data/docs.dat", "its name does not say what it holds", "set `format`"),
        "data/docs.jsonl",
        "data/docs.dat",
        files={"data/docs.dat": b"{}"},
    ),
    "records without the text field": Mistake(
        ("data/other.jsonl, record 1", "no text in the field 'text'", "its fields are 'body'", "set `read.text_field`"),
        "data/docs.jsonl",
        "data/other.jsonl",
        files={"data/other.jsonl": b'{"body": "one"}\n{"body": "two"}\n'},
    ),
    "a table without the text column": Mistake(
        ("data/t.csv", "no column 'text'", "its columns are 'id', 'body'", "set `read.text_field`"),
        "data/docs.jsonl",
        "data/t.csv",
        files={"data/t.csv": b"id,body\n1,one\n"},
    ),
    "a file that was cut": Mistake(
        ("1 source files could not be read", "data/cut.jsonl.gz", "--set run.failures.files=1 run.failures.documents="),
        "data/docs.jsonl",
        "data/cut.jsonl.gz",
        files={"data/cut.jsonl.gz": CUT[: len(CUT) * 2 // 3]},
    ),
    "pages without extraction": Mistake(
        ("sources.web.steps: data/a.warc holds web pages", "no step takes their text out", "add `extract`"),
        "data/docs.jsonl",
        "data/a.warc",
        files={"data/a.warc": b"WARC/1.0\r\n"},
    ),
    "metadata records, which nobody asked for": Mistake(
        ("sources.web.read: data/a.warc.wat.gz holds metadata about pages", "record_types: [metadata]", "name WARC or WET files"),
        "data/docs.jsonl",
        "data/a.warc.wat.gz",
        files={"data/a.warc.wat.gz": b"WARC/1.0\r\n"},
    ),
    "records of another type": Mistake(
        ("no document was read; there were conversion (1)", "`read.record_types` can name: conversion"),
        "data/docs.jsonl]",
        "data/a.warc], mime_types: [text/plain]",
        files={"data/a.warc": b"WARC/1.0\r\nWARC-Type: conversion\r\nContent-Length: 5\r\n\r\nwords\r\n\r\n"},
    ),
    "extraction without pages": steps(
        "      - extract\n", "sources.web.steps.extract", "data/docs.jsonl holds none", "take the step out"
    ),
    "a tokenizer that is not there": Mistake(
        ("tokenizer.path", "/tok.json", "no such file", "relative to its folder"),
        "{train: {vocab_size: 300}}",
        "{path: tok.json}",
    ),
    "a model that is not there": steps(
        "      - quality: {model: good.bin}\n", "sources.web.steps.quality.model", "/good.bin", "no such file", "its folder"
    ),
    "a function that is not there": steps(
        "      - python: {function: 'my_rules:length', measure: length, max: 9}\n",
        "sources.web.steps.python: function my_rules",
        "there is no module my_rules",
        "put the file beside the recipe",
    ),
    # results and folders
    "a limit that drops all": steps(
        "      - gopher_quality: {words: [90000, 100000]}\n",
        "sources.web: none of its 20 documents is left",
        "gopher_quality.words.min (20)",
        "allow_empty: true",
    ),
    "a folder with files of one's own": Mistake(
        ("data is not empty and holds no run", "choose another --out"), typed=(*RUN, "--out", "data")
    ),
    "the folder of another recipe's run": Mistake(
        ("holds the run of corpus", "choose another --out, or go on in it with --take-over"),
        typed=(*RUN, "--out", "runs/corpus", "--set", "name=other"),
        before=ran,
    ),
    "a document that there is not": Mistake(
        ("data/docs.jsonl:99",), typed=("why", "runs/corpus", "data/docs.jsonl:99"), before=ran
    ),
    "a folder that holds no run": Mistake(("data holds no finished run", "folder's name right?"), typed=("inspect", "data")),
    "more than there is": Mistake(
        ("the mixture asks for more than there is: web", "4 allowed"), "{epochs: 1}", "{tokens: 1B}"
    ),
    "a trainer's configuration by a wrong name": Mistake(
        ("--train: olmoe_tny", "did you mean olmoe_tiny?"), typed=(*RUN, "--train", "olmoe_tny")
    ),
    "a recipe that would be written over": Mistake(("recipe.yaml exists", "--force"), typed=("init", "data")),
    "no files to begin with": Mistake(
        ("empty: ", "there is no such file or folder"), typed=("init", "empty", "--out", "new.yaml")
    ),
    "a name of nothing": Mistake(("steps gopher", "did you mean gopher_quality?"), typed=("steps", "gopher")),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_in_one_sentence(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mistake = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    documents = "".join(json.dumps({"text": f"{TEXT * 2}{number}"}) + "\n" for number in range(20))
    for path, content in {"data/docs.jsonl": documents.encode(), **mistake.files}.items():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content)
    assert mistake.old in RECIPE
    Path("recipe.yaml").write_text(RECIPE)
    if mistake.before:
        mistake.before()
    if mistake.old:
        Path("recipe.yaml").write_text(RECIPE.replace(mistake.old, mistake.new))
    capsys.readouterr()

    assert main(list(mistake.typed)) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    (sentence,) = [line for line in lines if line.startswith("error: ")]
    assert lines[-1] == sentence  # nothing behind it; before it, at most notes of the run
    at = 0
    for part in mistake.told:
        assert part in sentence[at:], sentence
        at = sentence.index(part, at)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (("rum", "recipe.yaml"), "rum: no such command; did you mean run?"),
        (("run", "recipe.yaml", "--outt", "x"), "--outt: unknown argument; did you mean --out?"),
        (("export", "x", "--format", "parket", "--out", "y"), "parket: not one that --format takes; did you mean parquet?"),
        (("run",), "the following arguments are required: recipe"),
        (("mix", "a", "--set"), "argument --set: expected one argument"),
    ],
)
def test_what_is_typed_wrong_is_told_in_one_line(typed: tuple[str, ...], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(typed))
    assert ended.value.code == 2 and capsys.readouterr() == ("", f"error: {told}\n")


def test_there_are_thirty_and_more() -> None:
    assert len(MISTAKES) >= 30
