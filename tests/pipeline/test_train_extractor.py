"""`train-extractor`: the same data give the same model, which extracts; wrong data are refused in a sentence."""

import json

import pytest

from pipeline.cli import main
from stages.extract.block_model import load
from stages.extract.blocks import extract_page

FAST = ["--folds", "2", "--set", "rounds=6", "leaves=4", "least_in_leaf=1", "inner_folds=2", "epochs=2"]


def page(number: int) -> str:
    text = f"The {number} boats went out before dawn, and nobody on the shore could say when they would be back. " * 3
    menu = "".join(f"<li><a href=/{i}>Menu {i}</a></li>" for i in range(9))
    return (
        f"<html lang={'en' if number % 2 else 'fr'}><body><ul class=menu>{menu}</ul>"
        f"<article>{''.join(f'<p>{text} It was day {i}.</p>' for i in range(5))}</article>"
        f"<div class=footer><p>Imprint and privacy {number}</p></div></body></html>"
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A WARC file of twelve pages of as many sites, and its truth."""
    folder = tmp_path_factory.mktemp("pages")
    truth = {}
    with (folder / "pages.warc").open("wb") as file:
        for number in range(12):
            url = f"https://site{number}.example{number}.com/page"
            truth[url] = {"with": [f"The {number} boats", "It was day 4."], "without": ["Menu 3", "Imprint and privacy"]}
            body = page(number).encode()
            http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nContent-Length: %d\r\n\r\n" % len(body)
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:{number}>\r\nWARC-Target-URI: {url}\r\n"
                f"WARC-Date: 2024-01-01T00:00:00Z\r\nContent-Type: application/http; msgtype=response\r\n"
                f"Content-Length: {len(http) + len(body)}\r\n\r\n"
            )
            file.write(head.encode() + http + body + b"\r\n\r\n")
    (folder / "truth.json").write_text(json.dumps(truth))
    return folder


def train(data, out, *more):
    paths = ["--pages", str(data / "*.warc"), "--truth", str(data / "truth.json"), "--out", str(out)]
    return main(["train-extractor", *paths, *more])


def test_a_model_is_trained_judged_and_the_same_again(data, tmp_path, capsys):
    assert train(data, tmp_path / "one.npz", *FAST) == 0
    card = (tmp_path / "one.card.md").read_text()
    assert "| all | 24 |" in card and "pages.warc" in card and "trafilatura" in card
    assert card in capsys.readouterr().out
    assert train(data, tmp_path / "two.npz", *FAST) == 0
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    text = extract_page(page(77).encode(), model=load(tmp_path / "one.npz"))[0].decode()
    assert "The 77 boats" in text and "Menu 3" not in text


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--set", "rounds=many"], "rounds"),
        (["--set", "lives=9"], "lives"),
        (["--folds", "1"], "--folds 1"),
        (["--pages", "nowhere.warc"], "nowhere.warc"),
    ],
)
def test_wrong_settings_are_one_sentence(data, tmp_path, capsys, arguments, said):
    assert train(data, tmp_path / "m.npz", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "m.npz").exists()


def test_a_truth_of_another_form_is_refused(data, tmp_path, capsys):
    (tmp_path / "truth.json").write_text('{"https://a.b": ["x"]}')
    assert train(data, tmp_path / "m.npz", "--truth", str(tmp_path / "truth.json")) == 2
    assert '"with"' in capsys.readouterr().err
