"""`language-rules`: a language's stop words and limits from its texts, and from FineWeb2's files, as steps that run."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml

from pipeline.cli import main
from stages.document import text_buffers
from stages.filters.english_rules import word_spans
from stages.steps import STEPS

COMMON = ("de", "la", "le", "et", "les", "une", "dans", "pour")
FINEWEB2 = """
dup_line_frac: 0.264
dup_n_grams: [[5, 0.15], [6, 0.141], [7, 0.131], [8, 0.121], [9, 0.111], [10, 0.1]]
line_punct_thr: 0.1
max_avg_word_length: 11
max_non_alpha_words_ratio: 0.812
min_avg_word_length: 2
new_line_ratio: 0.185
stopwords: [de, la, "о", "который", l'été]
top_n_grams: [[2, 0.161], [3, 0.149], [4, 0.134]]
"""


def text(rng: random.Random, words: int) -> str:
    letters = "abcdefghijklmnopqrstuvwxyzéèà"
    own = ["".join(rng.choices(letters, k=rng.randrange(3, 12))) for _ in range(words)]
    mixed = [rng.choice(COMMON) if rng.random() < 0.4 else word for word in own]
    return "\n".join(" ".join(mixed[i : i + 12]) + "." for i in range(0, words, 12))


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    rng = random.Random(4)
    made = [text(rng, rng.randrange(60, 200)) for _ in range(300)]
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": one}) + "\n" for one in made))
    return path, made


def steps_of(printed: str) -> dict[str, dict[str, Any]]:
    return {name: settings for step in yaml.safe_load(printed)["steps"] for name, settings in step.items()}


def test_stop_words_and_tails_are_those_of_the_texts(
    texts: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    path, made = texts
    assert main(["language-rules", "--texts", str(path), "--tail", "0.2"]) == 0
    steps = steps_of(capsys.readouterr().out)
    gopher = steps["gopher_quality_datatrove"]
    assert set(gopher["stop_list"]) == set(COMMON) and gopher["stop_words"] == 2
    docs = pa.record_batch({"text": pa.array(made, pa.large_string())})
    for name, settings in steps.items():
        step = STEPS[name].model_validate(settings)
        measures, limits = step.measure(docs), step.limits()
        for measure in ("duplicate_5grams", "top_2gram", "newlines_per_word", "line_punctuation"):
            if measure not in settings:
                continue
            drops = limits[measure].decide(np.asarray(measures[measure]))  # type: ignore[arg-type]
            assert np.mean(np.any(list(drops.values()), axis=0)) <= 0.2 + 1e-9, measure
    length = np.asarray(STEPS["gopher_quality_datatrove"]().measure(docs)["mean_word_length"])
    assert gopher["mean_word_length"][0] <= length.min() and length.max() <= gopher["mean_word_length"][1]
    assert steps["repetition_datatrove"]["duplicate_paragraphs"] is None


def test_the_rules_of_fineweb2_decide_as_they_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "xxx_Latn.yml").write_text(FINEWEB2)
    out = tmp_path / "steps.yaml"
    assert main(["language-rules", "--published", str(tmp_path / "xxx_Latn.yml"), "--out", str(out)]) == 0
    assert "5 stop words" in capsys.readouterr().out
    steps = steps_of(out.read_text("utf-8"))
    assert (
        steps["repetition_datatrove"]["duplicate_7grams"] == 0.131
        and steps["repetition_datatrove"]["top_4gram"] == 0.134
    )
    assert steps["fineweb_quality"] == {
        "short_lines": None, "duplicate_chars": 0.1, "line_punctuation": 0.1, "newlines_per_word": 0.185,
    }  # fmt: skip
    for splitter in ("english", "unicode"):
        gopher = STEPS["gopher_quality_datatrove"].model_validate(
            steps["gopher_quality_datatrove"] | {"splitter": splitter, "words": [1, 100]}
        )
        given = ["mot de mot la fin", "de de de", "который о нём", "л которых о", "l'été de", "De La", "delà lade", ""]
        found = gopher.measure(pa.record_batch({"text": pa.array(given, pa.large_string())}))
        assert list(found["stop_words"]) == [2, 1, 2, 1, 2, 0, 0, 0], splitter


@pytest.mark.parametrize(("splitter", "words"), [("spanish", 3), ("english", 5), ("unicode", 5)])
def test_the_splitter_is_that_of_the_steps(
    splitter: str, words: int, tmp_path: Path, texts: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "xxx_Latn.yml").write_text(FINEWEB2)
    for source in (["--published", str(tmp_path / "xxx_Latn.yml")], ["--texts", str(texts[0])]):
        assert main(["language-rules", *source, "--splitter", splitter]) == 0
        for name, settings in steps_of(capsys.readouterr().out).items():
            assert settings.get("splitter", "english") == splitter, name
    docs = pa.record_batch({"text": pa.array(["franco-español en 1990-1995 ."], pa.large_string())})
    gopher = STEPS["gopher_quality_datatrove"].model_validate({"splitter": splitter})
    assert list(np.asarray(gopher.measure(docs)["words"])) == [words]


def test_words_of_french_are_spacys() -> None:
    spacy = pytest.importorskip("spacy")
    given = [
        "L'eau de l'été, c'est qu'elle m’a dit d'où j'étais.", "'mot' d' 'l'arbre'", "rien", "", "l'", "À l'œuvre l’île",
        "Le moulin tourne, mais l'homme n'y est plus.", "Les États-Unis, dont Saint-Pétersbourg et Aix-en-Provence, peut-être",
        "dit-il aujourd'hui, en 44 av. J.-C., etc. Here's demi-finale-là porte-monnaie gare-routière d'ici-bas c'est-à-dire",
        "ex-libris Néo-Zélandais états-unien dit-on : donnez-moi, après-demain Condé-sur-l'Escaut -x a- b--c d-'e",
    ]  # fmt: skip
    texts = pa.array(given, pa.large_string())
    spans, ends = word_spans(texts, "french")
    data = text_buffers(texts)[0].tobytes()
    words = [data[a:b].decode() for a, b in spans.reshape(-1, 2).tolist()]
    split = spacy.blank("fr")
    for row in (0, 2, 3, 5, 6, 7, 8, 9):
        assert words[ends[row] : ends[row + 1]] == [token.text for token in split(given[row])], given[row]
    assert words[ends[1] : ends[2]][-3:] == ["l'", "arbre", "'"] and words[ends[4] : ends[5]][0].startswith("l")


def test_what_cannot_be_used_is_said(
    tmp_path: Path, texts: tuple[Path, list[str]], capsys: pytest.CaptureFixture[str]
) -> None:
    few = tmp_path / "few.jsonl"
    few.write_text('{"text": "un texte"}\n')
    (tmp_path / "other.yml").write_text("name: x\n")
    for arguments, told in (
        (["--texts", str(few)], "1 texts are too few"),
        (
            ["--texts", str(texts[0]), "--tail", "0.7"],
            "--tail 0.7: the share of texts beyond a limit is above 0 and below 0.5",
        ),
        (["--published", str(tmp_path / "other.yml")], "other.yml: not a file of FineWeb2's configs"),
        (["--published", str(tmp_path / "absent.yml")], "absent.yml: No such file"),
    ):
        assert main(["language-rules", *arguments]) == 2
        assert told in capsys.readouterr().err
    with pytest.raises(ValueError, match="is no word of 1 to 255 bytes"):
        STEPS["gopher_quality_datatrove"].model_validate({"stop_list": ["two words"]})
