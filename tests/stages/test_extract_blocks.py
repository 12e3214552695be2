"""The step `extract` with the engine `blocks`: the main text of real pages, metadata, failures that cost one page."""

import json
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pytest
from pydantic import ValidationError

from stages.document import PAGE
from stages.errors import DocumentsFailed
from stages.extract import blocks as module
from stages.extract.block_labels import Coverage, Truth, block_labels
from stages.extract.block_model import PATH, default_model, load
from stages.extract.block_scores import Found, by_language, read_truth
from stages.extract.block_training import _below, flatten, site_of
from stages.extract.blocks import Options, Parsed, extract_page
from stages.extract.extract import Extract
from stages.extract.page_metadata import read_date
from stages.read import ReadSpec, read_batches

SHARED = Path(__file__).resolve().parents[3] / "shared"
needs_shared = pytest.mark.skipif(not (SHARED / "data" / "web-a.warc.gz").exists(), reason="needs ../shared/data")

PARAGRAPH = (
    "The river carries less water in summer than it did ten years ago, and the people who live on it have noticed. "
    "Some of them measure it every morning, as their parents did, and write the figure in a book."
)
ARTICLE = f"""<!doctype html><html lang="en-GB"><head><title>Less water - The Paper</title>
<meta property="og:title" content="Less water &amp; more dust"><meta name="author" content="Ann Miller">
<meta property="article:published_time" content="2021-03-04T05:06:07Z"><meta name="robots" content="NOINDEX, nofollow"></head>
<body><nav class="menu"><ul><li><a href="/">Home</a></li><li><a href="/news">News</a></li>
<li><a href="/sport">Sport</a></li></ul></nav>
<article><h1>Less water</h1>{"".join(f"<p>{PARAGRAPH}</p>" for _ in range(6))}</article>
<div class="related"><h3>More on this</h3><ul><li><a href="/a">Another river dries out</a></li>
<li><a href="/b">Rain at last</a></li></ul></div>
<footer class="footer"><a rel="license" href="https://creativecommons.org/licenses/by/4.0/">CC BY</a>
<a href="/imprint">Imprint</a></footer>
</body></html>"""


def page_rows(*html, charset=None, metadata=None):
    count = len(html)
    return pa.RecordBatch.from_pydict(
        {
            "id": [str(i) for i in range(count)],
            "text": [""] * count,
            "url": [None] * count,
            "file": ["f"] * count,
            "record": list(range(1, count + 1)),
            "offset": [None] * count,
            "metadata": [metadata] * count,
            "html": [one.encode() if isinstance(one, str) else one for one in html],
            "charset": [charset] * count,
        },
        schema=PAGE,
    )


def test_the_main_text_is_kept_and_what_is_around_it_is_not():
    text, metadata = extract_page(ARTICLE.encode())
    assert text.decode().count(PARAGRAPH) == 6
    assert not [part for part in ("Home", "Sport", "Another river", "Imprint") if part in text.decode()]
    assert metadata.facts() == {
        "title": "Less water & more dust",
        "date": "2021-03-04",
        "author": "Ann Miller",
        "language": "en",
        "robots": ["noindex, nofollow"],
        "licenses": ["https://creativecommons.org/licenses/by/4.0/"],
    }


def test_the_headline_is_a_setting():
    assert extract_page(ARTICLE.encode())[0].decode().startswith("The river")
    assert extract_page(ARTICLE.encode(), Options(headline=True))[0].decode().startswith("Less water\n\nThe river")


def test_json_ld_goes_before_meta():
    data = {
        "@graph": [
            {"@type": "WebSite", "name": "x"},
            {
                "@type": "NewsArticle",
                "headline": "From &quot;JSON&quot;",
                "datePublished": "2020-01-02",
                "author": [{"name": "Bo"}, {"name": "Cy"}],
            },
        ]
    }
    page = ARTICLE.replace("</head>", f'<script type="application/ld+json">{json.dumps(data)}</script></head>')
    metadata = extract_page(page.encode())[1]
    assert (metadata.title, metadata.date, metadata.author) == ('From "JSON"', "2020-01-02", "Bo, Cy")
    broken = ARTICLE.replace("</head>", '<script type="application/ld+json">{"headline": [</script></head>')
    assert extract_page(broken.encode())[1].title == "Less water & more dust"


@pytest.mark.parametrize(
    "said, date",
    [
        ("2021-03-04", "2021-03-04"),
        ("2021-03-04T10:00:00+02:00", "2021-03-04"),
        ("20210304", "2021-03-04"),
        ("2021/03/04", "2021-03-04"),
        ("Thu, 04 Mar 2021 10:00:00 GMT", "2021-03-04"),
        ("2021-13-04", None),
        ("0000-00-00", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_dates_are_read_or_left_out(said, date):
    assert read_date(said) == date


def test_the_step_gives_text_measures_and_metadata():
    step = Extract(engine="blocks", characters=1)
    docs, measures = step.edit(page_rows(ARTICLE, "<p>", metadata='{"status":200}'))
    assert docs.column("text")[0].as_py() == extract_page(ARTICLE.encode())[0].decode()
    assert measures["characters"][1] == 0 and measures["page_bytes"][0] == len(ARTICLE.encode())
    known = orjson.loads(docs.column("metadata")[0].as_py())
    assert known["status"] == 200 and known["page"]["title"] == "Less water & more dust"
    assert docs.column("metadata")[1].as_py() == '{"status":200}'
    assert "page" not in orjson.loads(
        Extract(engine="blocks", page_metadata=False).edit(page_rows(ARTICLE))[0].column("metadata")[0].as_py() or "{}"
    )


def test_the_reader_s_charset_counts():
    page = ARTICLE.replace("The river", "Der Fluß führt").encode("windows-1252")
    docs, _ = Extract(engine="blocks").edit(page_rows(page, charset="windows-1252"))
    assert "Der Fluß führt" in docs.column("text")[0].as_py()


def test_a_page_that_is_refused_fails_alone(monkeypatch):
    def parse(self, page, math="dollars", real=Parsed.parse):
        if b"COMPLEX" in page:
            raise module.PageTooComplex("too much")
        real(self, page, math)

    monkeypatch.setattr(Parsed, "parse", parse)
    with pytest.raises(DocumentsFailed) as failed:
        Extract(engine="blocks").edit(page_rows(ARTICLE, "COMPLEX", ARTICLE))
    assert [failure.row for failure in failed.value.failures] == [1]
    assert "too much" in failed.value.failures[0].error
    assert failed.value.result[0].num_rows == 2 and list(failed.value.kept_rows) == [0, 2]


def test_an_unknown_engine_is_refused():
    with pytest.raises(ValidationError):
        Extract(engine="block")


def test_batches_and_order_change_nothing():
    pages = [ARTICLE, "<p>x", ARTICLE.replace("h1", "h2"), "", ARTICLE]
    together = Extract(engine="blocks").edit(page_rows(*pages))[0].column("text").to_pylist()
    alone = [Extract(engine="blocks").edit(page_rows(page))[0].column("text")[0].as_py() for page in reversed(pages)]
    assert together == alone[::-1]


def test_the_model_is_small_has_a_card_and_is_loaded_as_it_was_saved(tmp_path):
    model = default_model()
    assert PATH.stat().st_size < 600_000
    assert "| all |" in PATH.with_suffix(".card.md").read_text()
    model.save(tmp_path / "copy.npz")
    again = load(tmp_path / "copy.npz")
    assert all(np.array_equal(getattr(model, name), getattr(again, name)) for name in model.__dataclass_fields__)


@needs_shared
def test_real_pages_are_extracted_as_well_as_the_goal_says():
    """Pages that the model knows: this holds the engine to its model. How good it is on others is on its card."""
    truth = read_truth(SHARED / "data" / "web-extraction-truth.json")
    found = Found()
    path = SHARED / "data" / "web-a.warc.gz"
    step = Extract(engine="blocks")
    pages = 0
    with path.open("rb") as stream:
        for batch in read_batches(stream, path.name, ReadSpec(), batch_bytes=4 << 20, on_event=lambda event: None, part=None):
            urls = batch.column("url").to_pylist()
            for url, text in zip(urls, step.edit(batch)[0].column("text").to_pylist(), strict=True):
                found.add(text, truth[url])
            pages += len(urls)
            if pages >= 80:
                break
    assert found.f1 > 0.94


FORMS = {
    "code": ("<pre>$ ls -la\ntotal 0</pre>", "$ ls -la\ntotal 0"),
    "code in a box": ("<div class='highlight'><pre><code>int x;\n  y();</code></pre></div>", "int x;\n  y();"),
    "code in a table": (
        "<div class='code'><table><tr><td class='gutter'><pre class='lineno'>1\n2\n</pre></td>"
        "<td><pre>a = 1\nb = 2\n</pre></td></tr></table></div>",
        "a = 1\nb = 2",
    ),
    "formula": ("<div class='katex-display'><math><annotation encoding=TeX>a^2</annotation></math></div>", "$$a^2$$"),
    "formula without TeX": ("<math display='block'><msup><mi>x</mi><mn>2</mn></msup></math>", "x^2"),
    "image of a formula": ("<p><img class='latex' alt='x^2 + y'></p>", "$x^2 + y$"),
    "table": ("<div><table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table></div>", "A\tB\n1\t2"),
    "lists": ("<ol><li>one</li></ol><dl><dt>Term</dt><dd>Def</dd></dl><ul><li>a<ul><li>b</li></ul></li></ul>", "- a\n  - b"),
    "terms": ("<dl><dt>Term</dt><dd>Def</dd></dl>", "Term\nDef"),
    "quotation": ("<blockquote><p>Short.</p></blockquote>", "Short."),
}


@pytest.mark.parametrize("name", FORMS)
def test_what_stands_between_paragraphs_stays(name):
    """Whatever the model says of short pieces, where the same element has main text before and behind them."""
    html, expected = FORMS[name]
    page = ARTICLE.replace("</p><p>", f"</p>{html}<p>", 1)
    assert expected in extract_page(page.encode())[0].decode()


def test_lists_of_links_between_paragraphs_may_go():
    links = "<ul><li><a href=/x>Read: another story</a></li><li><a href=/y>Read: a third</a></li></ul>"
    page = ARTICLE.replace("</p><p>", f"</p>{links}<p>", 1)
    parsed = Parsed(1 << 16)
    parsed.parse(page.encode())
    scores = np.array([0.9 if "river carries" in parsed.block(b) else 0.1 for b in range(parsed.blocks)], np.float32)
    parsed.decide(scores, 0.5, 0.6)
    assert parsed.text().decode().count(PARAGRAPH) == 6 and "Read:" not in parsed.text().decode()


CASES = json.loads((SHARED / "cases" / "structure.json").read_text()) if SHARED.exists() else []


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["name"])
def test_shared_structure_is_main_text(case):
    text = extract_page(case["html"].encode())[0].decode()
    assert not [wanted for wanted in case["must_contain"] if wanted not in text]
    assert not [unwanted for unwanted in case["must_not_contain"] if unwanted in text]


def test_coverage_and_labels():
    assert Coverage("one two three four five").of(["two", "three", "four", "five"]) == 1
    assert Coverage("one two three four five").of(["two", "one"]) == 0
    labels, weights, by_people = block_labels(
        ["one two three four", "menu here", "odd", ""],
        ["one two three four five", "other"],
        Truth(("odd",), ("menu",)),
    )
    assert labels.tolist() == [0.5, 0, 1, 0] and weights[2] > weights[0] and weights[3] == 0
    assert by_people.tolist() == [False, True, True, False]


def test_strings_are_counted():
    found = Found()
    found.add("a b c", Truth((" a ", "x"), ("c", "y")))
    assert (found.wanted, found.missed, found.unwanted, found.precision, found.recall) == (1, 1, 1, 0.5, 0.5)
    sums = by_language([("de", found), (None, found)], 2)
    assert list(sums) == ["all", "de", "not said"] and sums["all"].wanted == 2
    assert list(by_language([("de", found)], 3)) == ["all"]


def test_sites():
    assert [site_of(f"https://{host}/x") for host in ("www.a.com", "b.a.com", "www.a.co.uk", "localhost")] == [
        "a.com", "a.com", "a.co.uk", "localhost",
    ]  # fmt: skip


def test_trees_are_flattened_in_place():
    tree = {
        "split_feature": 3, "threshold": 0.1,
        "left_child": {"leaf_value": 1.0},
        "right_child": {
            "split_feature": 4, "threshold": 2.0, "left_child": {"leaf_value": 2.0}, "right_child": {"leaf_value": 3.0},
        },
    }  # fmt: skip
    roots, depths, nodes, numbers = flatten([tree, tree])
    assert roots.tolist() == [0, 5, 10, 11] and depths.tolist() == [2]
    assert nodes[:5].tolist() == [[3, 1, 2], [0, 1, 1], [4, 3, 4], [0, 3, 3], [0, 4, 4]]
    assert numbers[[1, 3, 4, 10]].tolist() == [1, 2, 3, 0]
    assert float(numbers[0]) <= 0.1 and float(_below(0.1)) <= 0.1 < float(np.nextafter(_below(0.1), np.float32(1)))
