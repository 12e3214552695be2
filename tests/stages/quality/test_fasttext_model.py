"""fastText on columns against the fastText library."""

from __future__ import annotations

import json
import multiprocessing
import random
import struct
import tempfile
from pathlib import Path

import fasttext
import numpy as np
import pyarrow as pa
import pytest
from fasttext_models import KINDS, WORDS, library_says, train
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stages.errors import InputError, UserError
from stages.kernels.fasttext_lines import JOIN_LINES, NEWLINE_REMOVE, NEWLINE_SPACE
from stages.quality.fasttext_model import FORMAT, huffman_tree, load_model
from stages.quality.language import packaged_model

PIECES = [*WORDS, " ", "  ", "\t", "\r", "\v", "\f", "\0", "\u00a0", "\u2028", "\x1f", "</s>", "__label__l0", "__label__new",
          "x" * 8, "y" * 31, "é" * 16, "z" * 32, "水" * 11, "w" * 33, "ж" * 100, "12345678", "mill wheel"]  # fmt: skip
LINES = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=40).map("".join),
    st.lists(st.sampled_from(PIECES), max_size=80).map(" ".join),
    st.text(alphabet=st.characters(exclude_categories=["Cs"], exclude_characters="\n"), max_size=60),
)


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEADRACE_CACHE", str(tmp_path_factory.getbasetemp() / "headrace-cache"))


@pytest.fixture(scope="module", params=list(KINDS))
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    path, library = train(KINDS[request.param], tmp_path_factory.mktemp("model"))
    return path, library, KINDS[request.param]


def column(texts: list[str]) -> pa.Array:
    return pa.array(texts, pa.large_string())


def agree(model, library, texts: list[str], newlines: int, lines: list[str], tolerance: float = 1e-5) -> None:
    """Every text's best label, its probability, and that of each label in turn, are the library's."""
    stepped = (
        model.settings["layer"] == 2
    )  # the sigmoid table: a difference in the last place may cross a step of 1/128
    rounded = 0
    for wanted in range(min(len(model.labels), 3)):
        found = model.predict(column(texts), newlines, wanted)
        for i, line in enumerate(lines):
            expected = library_says(library, line)
            if not expected:
                assert found.label[i] == -1 and np.isnan(found.probability[i])
                continue
            first, *others = expected.items()
            allowed = tolerance
            if stepped and abs(found.probability[i] - first[1]) > tolerance:
                rounded, allowed = rounded + 1, 0.008
            assert abs(found.probability[i] - first[1]) <= allowed, line
            if not others or first[1] - others[0][1] > 2 * allowed:
                assert model.labels[found.label[i]] == first[0], line
            if not stepped and model.labels[wanted] in expected:
                assert abs(found.of_wanted[i] - expected[model.labels[wanted]]) <= tolerance, line
    assert rounded <= 0.05 * len(texts) + 1


def test_every_kind_of_model_says_what_the_library_says(trained) -> None:
    path, library, _ = trained
    choose = random.Random(3)
    texts = [" ".join(choose.choices(PIECES, k=choose.randrange(60))) for _ in range(150)]
    texts += ["", " ", "mill", "\0", "\n", "a", "é", "</s>", "mill </s> river", "__label__l0", "__label__", "x" * 500]
    agree(load_model(path), library, texts, NEWLINE_REMOVE, [text.replace("\n", "") for text in texts])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(LINES, min_size=1, max_size=12))
def test_strange_lines(trained, texts: list[str]) -> None:
    path, library, _ = trained
    agree(load_model(path), library, texts, NEWLINE_SPACE, texts)


def test_the_probability_of_every_label(trained) -> None:
    path, library, kind = trained
    texts = ["mill wheel water", "", "\0", "le moulin 水 хлеб", "</s>", "bread " * 200]
    model = load_model(path)
    found = model.probabilities(column(texts), NEWLINE_REMOVE)
    stepped = model.settings["layer"] == 2
    for i, text in enumerate(texts):
        expected = library_says(library, text)
        if not expected:
            assert np.isnan(found[i]).all()
        for label, probability in expected.items():
            assert abs(found[i][model.label_index(label)] - probability) <= (0.008 if stepped else 1e-5), (kind, text, label)


def test_line_breaks_are_treated_as_asked(trained) -> None:
    path, library, _ = trained
    texts = ["mill\nwheel\n\nwater", "\u3000 mill\r\nwheel\u2028water\x1c bread \n\u00a0", "\n\n", "a\vb\x85c"]
    model = load_model(path)
    agree(model, library, texts, NEWLINE_REMOVE, [t.replace("\n", "") for t in texts])
    agree(model, library, texts, NEWLINE_SPACE, [t.replace("\n", " ") for t in texts])
    agree(model, library, texts, JOIN_LINES, [" ".join(t.strip().splitlines()) for t in texts])


def test_a_full_table_of_words_changes_nothing(trained) -> None:
    path, _, _ = trained
    choose = random.Random(5)
    made = ["".join(choose.choices("abcdefgh水ж", k=choose.randrange(1, 14))) for _ in range(300)]
    texts = [" ".join(choose.choices(made + PIECES[:40], k=50)) for _ in range(60)]
    roomy, tight = load_model(path), load_model(path, table_bytes=1)
    for _ in range(2):
        one, other = roomy.predict(column(texts), 0, 0), tight.predict(column(texts), 0, 0)
        for name in ("label", "probability", "of_wanted"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_slice_of_a_column(trained) -> None:
    path, _, _ = trained
    texts = column(["mill wheel", "water", "bread flour", "", "river"])
    model = load_model(path)
    whole, part = model.predict(texts, 0), model.predict(texts.slice(1, 3), 0)
    np.testing.assert_array_equal(whole.probability[1:4], part.probability)
    assert len(model.predict(texts.slice(0, 0), 0).label) == 0


def test_one_folded_copy_is_kept_and_mapped(trained, tmp_path: Path) -> None:
    path, _, _ = trained
    first = load_model(path, cache=tmp_path)
    (folded,) = tmp_path.glob(f"*.{FORMAT.decode()}")
    written = folded.stat().st_mtime_ns
    again = load_model(path, cache=tmp_path)
    assert folded.stat().st_mtime_ns == written
    assert not again.arrays["rows"].flags.writeable
    assert again.labels == first.labels
    folded.write_bytes(folded.read_bytes()[:-64])  # not whole: made anew
    assert load_model(path, cache=tmp_path).labels == first.labels
    assert folded.stat().st_mtime_ns != written
    assert not list(tmp_path.glob("*.tmp"))


def _load(path: Path, cache: Path) -> int:
    return int(load_model(path, cache=cache).predict(pa.array(["mill wheel"], pa.large_string()), 0).label[0])


def test_processes_that_load_at_once(tmp_path: Path) -> None:
    path, _ = train(KINDS["softmax of two"], tmp_path)
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        labels = pool.starmap(_load, [(path, tmp_path / "cache")] * 6)
    assert len(set(labels)) == 1
    assert len(list((tmp_path / "cache").glob(f"*.{FORMAT.decode()}"))) == 1


def test_truncated_files_are_refused(tmp_path: Path) -> None:
    for kind in ("softmax of three, three words", "quantized, pruned, norms, output"):
        path, _ = train(KINDS[kind], tmp_path)
        whole = path.read_bytes()
        for size in {0, 3, 8, 40, 64, 90, 91, 100, *range(120, len(whole), max(1, len(whole) // 40)), len(whole) - 1}:
            broken = tmp_path / "broken.bin"
            broken.write_bytes(whole[:size])
            with pytest.raises(InputError, match=r"broken\.bin.*(ends|mixed|does not)"):
                load_model(broken, cache=tmp_path / "cache")


@settings(max_examples=150, deadline=None)
@given(place=st.integers(0, 400), value=st.integers(0, 255))
@example(place=31, value=3)  # n-grams of 50 million words
@example(place=43, value=127)  # 2 billion buckets
@example(place=51, value=1)  # n-grams of up to 16 million characters
def test_damaged_files_are_refused_or_read_but_never_crash(damaged_base, place: int, value: int) -> None:
    base = damaged_base
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "damaged.ftz"
        path.write_bytes(base[:place] + bytes([value]) + base[place + 1 :])
        try:
            load_model(path, cache=Path(folder)).predict(column(["mill wheel water"]), 0)
        except (InputError, UserError) as error:
            assert "damaged.ftz" in str(error)


@pytest.fixture(scope="module")
def damaged_base(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path, _ = train(KINDS["quantized, pruned, norms, output"], tmp_path_factory.mktemp("damaged"))
    return path.read_bytes()


def test_what_is_not_supported_is_refused(tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("mill wheel water bread " * 50)
    vectors = fasttext.train_unsupervised(str(text), minCount=1, dim=5, bucket=100, verbose=0, thread=1)
    vectors.save_model(str(tmp_path / "vectors.bin"))
    with pytest.raises(InputError, match="not a supervised classifier"):
        load_model(tmp_path / "vectors.bin", cache=tmp_path)
    with pytest.raises(InputError, match="fastText's mark"):
        load_model(text, cache=tmp_path)
    with pytest.raises(UserError, match="No such file"):
        load_model(tmp_path / "absent.bin", cache=tmp_path)
    path, _ = train(KINDS["no n-grams"], tmp_path)
    whole = bytearray(path.read_bytes())
    whole[4:8] = struct.pack("<i", 13)
    (tmp_path / "later.bin").write_bytes(whole)
    with pytest.raises(InputError, match="version 13"):
        load_model(tmp_path / "later.bin", cache=tmp_path)
    whole = bytearray(path.read_bytes())
    whole[-4:] = struct.pack("<f", float("nan"))
    (tmp_path / "nan.bin").write_bytes(whole)
    with pytest.raises(InputError, match="not finite"):
        load_model(tmp_path / "nan.bin", cache=tmp_path)


def test_a_label_that_is_not_there(tmp_path: Path) -> None:
    path, _ = train(KINDS["softmax of two"], tmp_path)
    model = load_model(path, cache=tmp_path)
    assert model.label_index("l1") == model.label_index("__label__l1")
    with pytest.raises(UserError, match="no label 'hq'; it has __label__l"):
        model.label_index("hq")


def test_huffman_tree_by_hand() -> None:
    left, right, parent = huffman_tree(np.array([5, 2, 1]))
    assert (left.tolist(), right.tolist(), parent.tolist()) == (
        [-1, -1, -1, 2, 3],
        [-1, -1, -1, 1, 0],
        [4, 3, 3, 4, -1],
    )


@pytest.fixture(scope="module")
def language_models():
    return load_model(packaged_model()), fasttext.load_model(str(packaged_model()))


def check_languages(models, texts: list[str]) -> None:
    ours, library = models
    found = ours.predict(column(texts), NEWLINE_REMOVE)
    for i, text in enumerate(texts):
        (label,), (probability,) = library.predict(text.replace("\n", ""))
        assert ours.labels[found.label[i]] == label
        assert abs(found.probability[i] - probability) <= 1e-4


def test_language_model_on_made_up_texts(language_models) -> None:
    texts = [
        "",
        "Hello, mill wheel.",
        "Le moulin à eau\ntourne.",
        "Мельница",
        "水車小屋" * 30,
        "\0 \t",
        "🍞🌾",
        "x" * 100_000,
    ]
    check_languages(language_models, [*texts, " ".join(WORDS)])


def shared_texts(shared_data: Path, pattern: str, most: int) -> list[str]:
    import zstandard

    texts = []
    for path in sorted(shared_data.glob(pattern)):
        with zstandard.open(path, "rt", encoding="utf-8", newline="\n") as lines:
            texts += [json.loads(line)["text"] or "" for line in lines]
    choose = random.Random(11)
    choose.shuffle(texts)
    return [text.encode("utf-8", "ignore").decode() for text in texts[:most]]


@pytest.mark.parametrize("pattern", ["*.jsonl.zst", "golden/*.jsonl.zst"])
def test_language_model_on_real_texts(shared_data: Path, language_models, pattern: str) -> None:
    check_languages(language_models, shared_texts(shared_data, pattern, 4000))


def test_every_kind_of_model_on_real_texts(shared_data: Path, trained) -> None:
    path, library, _ = trained
    texts = [text[:3000] for text in shared_texts(shared_data, "*.jsonl.zst", 60)]
    agree(load_model(path), library, texts, JOIN_LINES, [" ".join(text.strip().splitlines()) for text in texts])
