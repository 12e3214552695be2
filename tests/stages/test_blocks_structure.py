"""The engine `blocks` keeps what a page's text is made of: formulas, scripts, code, tables, lists; and stays within bounds."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.extract.blocks import MOST_ELEMENTS, PageTooComplex, Parsed
from stages.kernels import html_layout as L

CASES = Path(__file__).resolve().parents[3] / "shared" / "cases" / "structure.json"


@pytest.fixture(scope="module")
def parsed():
    return Parsed(4 << 20)


def blocks(parsed, html, math="dollars"):
    """The blocks of a page."""
    parsed.parse(html.encode("utf-8", "replace") if isinstance(html, str) else html, math)
    return [parsed.block(i) for i in range(parsed.blocks)]


def whole(parsed, html, math="dollars"):
    """The text of a page of which every block is kept."""
    parsed.parse(html.encode(), math)
    parsed.kept[: parsed.blocks] = 1
    return parsed.text().decode()


@pytest.mark.parametrize(
    "html, expected",
    [
        ("<p>a <b>b</b><i>c</i>\n d&amp;&lt;&#x20AC;&#8364;&eacute;&nbsp;e", "a bc d&<€€é e"),
        ("<p>&copy 1 &unknown; &#xFC;; &notit; &ampx &#xZ; &", "© 1 &unknown; ü; ¬it; &x &#xZ; &"),
        ("<p>1 < 2 <3 and a<b</p>", "1 < 2 <3 and a"),
        ("<p>a < b<<i>c</i> <", "a < b<c <"),
        ("<p>x&#150;y&#0;&#x110000;", "x–y\ufffd\ufffd"),
        ("<p>one<br>two<br><br>three", "one\ntwo\n\nthree"),
        ("<p>one<p>two<div>three<h2>four</h2>five", "one\n\ntwo\n\nthree\n\nfour\n\nfive"),
        ("a<!-- <p>x --> b<!--> c<!-- - --!> d <!doctype x> e<?php ?> f</ > g", "a b c d e f g"),
        ("<p title='a>b' class=x>t<a href=y/>u</a>", "tu"),
        ("<p>a<script>if (a</b>c) '<p>'</script><style>p{}</style>b", "ab"),
        ("<p>b<noscript><img></noscript>c<template><p>t</template>d", "bcd"),
        ("<p>a<svg><text>x</text><title>y</title></svg>b<select><option>c<option>d</select>e", "abe"),
        ("<p>a<svg>b<div>c</div>", "a\n\nc"),
        ("<p>a<textarea>b", "ab"),
        ("<p>a<noscript>b", "ab"),
    ],
)  # fmt: skip
def test_markup_becomes_text(parsed, html, expected):
    assert whole(parsed, html) == expected


@pytest.mark.parametrize(
    "html, expected",
    [
        ("10<sup>6</sup> m", "10^6 m"),
        ("10<sup>-6</sup> and e<sup>x+1</sup> and 2<sup>n</sup>3", "10^-6 and e^(x+1) and 2^n 3"),
        ("x<sub>1</sub>, H<sub>2</sub>O, x<sub>i</sub><sup>2</sup>", "x_1, H_2O, x_i^2"),
        ("the 1<sup>st</sup>, 19<sup>e</sup> siècle, XX<sup>ème</sup>", "the 1st, 19e siècle, XXème"),
        ("a<sup><a href='#1'>[1]</a></sup> b<a href='#2'><sup>2</sup></a> c<sup><a href='#3'>3</a></sup>.", "a[1] b[2] c[3]."),
        ("<sup>12</sup>In the beginning", "12 In the beginning"),
        ("word <sup>2</sup>x Brand<sup>®</sup> star<sup>*</sup>", "word 2 x Brand® star*"),
        ("a<sup></sup>b<sub> </sub>c", "ab c"),
        ("10<b><sup>6</sup></b>", "10^6"),
    ],
)  # fmt: skip
def test_scripts_do_not_join_what_is_before_them(parsed, html, expected):
    assert whole(parsed, f"<p>{html}</p>") == expected


LONG = "word " * 49 + "word"
TEX = r"\frac{a}{b}"
ANNOTATED = (
    "<math><semantics><mfrac><mi>a</mi><mi>b</mi></mfrac><annotation encoding='application/x-tex'>"
    + TEX
    + "</annotation></semantics></math>"
)
KATEX = (
    f"<span class='katex'><span class='katex-mathml'>{ANNOTATED}</span>"
    "<span class='katex-html' aria-hidden='true'><span>a</span><span>b</span></span></span>"
)


@pytest.mark.parametrize(
    "html, expected",
    [
        (f"<script type='math/tex'>{TEX}</script>", f"${TEX}$"),
        ("<script type='math/tex; mode=display'>% <![CDATA[\na &= b \\\\\n % note\n c %]]></script>", r"$$a &= b \\ c$$"),
        (ANNOTATED, f"${TEX}$"),
        (f"<math display='block' alttext='{TEX}'><mi>a</mi></math>", f"$${TEX}$$"),
        ("<math alttext='x%&#10;y'><mi>x</mi></math>", "$x y$"),
        (KATEX, f"${TEX}$"),
        (f"<span class='katex-display'>{KATEX}</span>", f"$${TEX}$$"),
        ("<span class=katex-html><span>a</span>b</span>", "ab"),
        (
            "<span class='MathJax_Preview'>[x]</span><span class='MathJax' id='M-1'><nobr><span>a</span><span>b</span></nobr>"
            f"</span><script type='math/tex' id='E-1'>{TEX}</script>",
            f"${TEX}$",
        ),
        (
            "<span class='MathJax'><span>x</span><span>2</span><span class='MJX_Assistive_MathML'>"
            "<math><msup><mi>x</mi><mn>2</mn></msup></math></span></span>",
            "x^2",
        ),
        (
            "<mjx-container class='MathJax' jax='SVG'><svg><g><text>q</text></g></svg><mjx-assistive-mml><math><mi>x</mi></math>"
            "</mjx-assistive-mml></mjx-container>",
            "x",
        ),
        (
            "<mjx-container jax='CHTML' class='MathJax'><mjx-math data-latex='y'></mjx-math>"
            f"<math data-latex='{TEX}'><mi>a</mi></math></mjx-container>",
            f"${TEX}$",
        ),
        (
            "<span class='mwe-math-element'><span style='display: none;'>"
            "<math alttext='{\\displaystyle x^{2}}'><mi>x</mi></math></span>"
            "<img class='mwe-math-fallback-image-inline' alt='{\\displaystyle x^{2}}' src='x.svg'></span>",
            "$x^{2}$",
        ),
        ("<img class='latex' src='https://s0.wp.com/latex.php?latex=x' alt='x &lt; 1'>", "$x < 1$"),
        ("<img src='https://latex.codecogs.com/gif.latex?y' alt='$$y$$'>", "$$y$$"),
        ("<img src='photo.jpg' alt='A photo of x = 3'>", ""),
        ("<img class='math' src='icon.png' alt='Maths teachers'>", ""),
        ("<img class='emoji' alt='☺' src='x.png'>", "☺"),
        ("\\(a^2+b^2\\) and $$c^2$$", "\\(a^2+b^2\\) and $$c^2$$"),
        ("<math><mfrac><mrow><mi>a</mi><mo>+</mo><mi>b</mi></mrow><mi>c</mi></mfrac></math>", "(a+b)/c"),
        (
            "<span class='MathJax'><span>x</span><span class='MJX_Assistive_MathML'><math><mi>x</mi></math></span></span>"
            "<script type='math/mml'><math><mi>x</mi></math></script>",
            "x",
        ),
        ("<script type='math/mml'><math><mi>x</mi></math></script>", "x"),
        (
            "<math><mtable><mtr><mtd><mn>1</mn></mtd><mtd><mn>2</mn></mtd></mtr> <mtr><mtd><mn>3</mn></mtd></mtr></mtable>"
            "</math>",
            "1 2; 3",
        ),
        ("<math> <msubsup> <mi>x</mi> <mn>1</mn> <mn>2</mn> </msubsup> </math>", "x_1^2"),
    ],
)  # fmt: skip
def test_a_formula_is_its_tex_once(parsed, html, expected):
    assert whole(parsed, f"<p>We have {html} here.</p>") == f"We have {expected} here.".replace("have  here", "have here")


def test_what_stands_around_tex_is_a_setting(parsed):
    html = f"<p>a {ANNOTATED} b <span class='katex-display'>{KATEX}</span></p>"
    assert whole(parsed, html, "brackets") == f"a \\({TEX}\\) b \\[{TEX}\\]"
    assert whole(parsed, html, "none") == f"a {TEX} b {TEX}"


def test_a_displayed_formula_of_mathjax_2_is_one_block(parsed):
    shown = "<div class='MathJax_Display'><span class='MathJax'>xx</span></div>"
    html = f"<p>a</p>{shown}<script type='math/tex; mode=display'>x</script><p>b"
    assert whole(parsed, html) == "a\n\n$$x$$\n\nb"


def test_two_formulas_side_by_side_stay_two(parsed):
    assert whole(parsed, f"<p>{ANNOTATED}{KATEX}<script type='math/tex'>x</script></p>") == f"${TEX}$ $x$"


@pytest.mark.parametrize(
    "html, expected",
    [
        ("<pre>\n  a\n\n    b &lt; c  \n\n</pre>", "  a\n\n    b < c"),
        ("<pre><code><span>x</span> = 1\r\n\ty</code></pre>z", "x = 1\n\ty\n\nz"),
        ("<p>Use <code>rm -rf  x</code> and <kbd>Ctrl</kbd>", "Use rm -rf  x and Ctrl"),
        ("<div><code>a\n  b</code></div>", "a\n  b"),
        ("<pre><div>a</div><div>  b</div></pre>", "a\n  b"),
        ("<pre><span class='lineno'>1 </span>a\n<span class='lineno'>2 </span>b</pre>", "a\nb"),
        ("<pre>a = 1\n<span class='number'>2</span></pre><p>Of <span class='number'>31</span> people", "a = 1\n\nOf 31 people"),
        (
            "<table class='highlighttable'><tr><td class='linenos'><pre>1\n2\n3</pre></td>"
            "<td class='code'><pre>x\n  y\nz</pre></td></tr></table>",
            "x\n  y\nz",
        ),
        ("<table><tr><td><pre>7\n8</pre></td><td><pre>x\ny</pre></td></tr></table>", "x\ny"),
        (
            "<table><tr><td class='blob-num' data-line-number='1'></td>"
            "<td class='blob-code blob-code-inner'><span>def f():</span></td></tr>"
            "<tr><td class='blob-num'>2</td><td class='blob-code blob-code-inner'>    return 1</td></tr></table>",
            "def f():\n    return 1",
        ),
        ("<table><tr><td class='gutter'><div>1</div><div>2</div></td><td>x</td></tr></table>", "\tx"),
        ("<pre>unclosed<h2>Heading</h2><p>text  of\np", "unclosed\n\nHeading\n\ntext of p"),
    ],
)  # fmt: skip
def test_code_stays_as_it_is_without_line_numbers(parsed, html, expected):
    assert whole(parsed, html).strip("\n") == expected


@pytest.mark.parametrize(
    "html, expected",
    [
        (
            "<table><thead><tr><th>Name<th>Age<th></tr></thead><tr><td>Ann<td>31<td>x<tr><td>Bob<td><td>y<tr><td><td>5</table>t",
            "Name\tAge\nAnn\t31\tx\nBob\t\ty\n\t5\n\nt",
        ),
        ("<table><tr><td>a<br>b</td><td><p>c</p><p>d</p></td></tr></table>", "a\nb\tc d"),
        (f"<table><tr><td><p>{LONG}</p><p>{LONG}</p></td><td>side</td></tr></table>", f"{LONG}\n\n{LONG}\n\nside"),
        ("<ul><li>a<li>b<ol start=3><li>c<li>d</ol><li>e</ul>f", "- a\n- b\n  3. c\n  4. d\n- e\n\nf"),
        ("<ol><li>one<ul><li>in a</li><li>in b</li></ul></li><li>two</li></ol>", "1. one\n  - in a\n  - in b\n2. two"),
        ("<dl><dt>Term<dd>Def<dt>Other</dl>", "Term\nDef\nOther"),
        ("<ul><li><p>a</p><p>b</p></li></ul>", "- a\n  b"),
    ],
)  # fmt: skip
def test_tables_and_lists_keep_their_form(parsed, html, expected):
    assert whole(parsed, html) == expected


@pytest.mark.parametrize("case", json.loads(CASES.read_text()) if CASES.exists() else [], ids=lambda case: case["name"])
def test_shared_cases_hold_in_the_blocks(parsed, case):
    text = whole(parsed, case["html"])
    assert all(wanted in text for wanted in case["must_contain"])
    assert not [unwanted for unwanted in case["must_not_contain"] if unwanted in text and unwanted != "menu"]


@pytest.mark.skipif(not CASES.exists(), reason="needs ../shared/cases")
def test_the_shared_cases_are_there():
    assert len(json.loads(CASES.read_text())) >= 10


HOSTILE = {
    "deep": "<div>" * 400_000 + "x" + "</div>" * 100_000,
    "deep inline": "<b><i><sup>" * 100_000 + "x",
    "unclosed tags": "<p><li><td>x" * 100_000,
    "list in list": "<ul><li>" * 150_000,
    "ends without starts": "<span class=katex>" * 600 + "</p></div></b></i></td>" * 50_000,
    "open attribute": '<a href="' * 200_000,
    "huge attribute": "<p class='" + "a b-c " * 600_000 + "'>x",
    "many attributes": "<p " + "data-a=b " * 400_000 + ">x",
    "comments": "<!-- " + "x" * 3_000_000 + "-->y<!--",
    "comment ends": "<!--" + "--" * 1_000_000,
    "scripts": "<script>" + "</scrip " * 300_000,
    "raw without end": "<title><textarea><noscript>" * 100_000,
    "svg": "<svg>" * 300_000 + "<p>x",
    "references": "&" * 1_000_000 + "&#x" * 300_000 + "&aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 50_000,
    "pre": "<pre>" * 200_000 + "\n" * 1_000_000,
    "math": "<math><msup><mrow>" * 100_000 + "x" + "</mrow>" * 100_000,
    "scripts above": "a<sup>b" * 200_000,
    "rendered": "<span class=MathJax>x" * 100_000 + "<math><mi>y</mi></math>" * 20_000,
    "less": "<" * 2_000_000,
    "table": "<table><tr><td>" * 100_000,
    "zeros": "\0" * 3_000_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pages_end(parsed, name):
    """Each is a few megabytes and takes well below a second; the bound only tells linear from quadratic time."""
    page = HOSTILE[name].encode()[: 4 << 20]
    blocks(parsed, "<p>compiled")
    begun = time.process_time()
    blocks(parsed, page)
    assert time.process_time() - begun < 60
    whole(parsed, page.decode())


def test_a_page_of_too_many_elements_is_refused():
    parsed = Parsed(1 << 16)
    parsed.workspace = L.Workspace.of_size(1 << 16, 1000)
    with pytest.raises(PageTooComplex, match="elements"):
        parsed.parse(b"<p>x" * 2000)
    parsed.parse(b"<p>x" * 900)
    assert parsed.blocks == 900 and MOST_ELEMENTS > 1000


WORDS = """
<p> </p> <div~class=a> </div> <b> </b> <a~href=x> </a> <pre> </pre> <code> </code> <sup> </sup> <sub> <math> </math> <mi> <msup>
</msup> <mrow> </mrow> <annotation~encoding=tex> </annotation> <table> <tr> <td> <td~class=linenos> </table> <ul> <ol> <li> </ul>
<br> <hr> <svg> </svg> <script~type=math/tex> </script> <span~class=katex> <span~class=katex-html> </span> <style> <x-y> </x-y>
<span~class=MathJax> <img~class=tex~alt=x^2> <title> </title> <h1> </h1> <select> </select> <!-- --> < </ <! &amp; &nbsp; &#10;
& 1 x . é $ \\ % [ { } ( <dl> <dt> <noscript> <meta~name=description~content=x> \x00
"""
PIECES = st.sampled_from([*WORDS.split(), "\n", " "])


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(PIECES, st.text(max_size=3)), max_size=60))
def test_any_page_gives_text_within_bounds(parsed, pieces):
    page = "".join(piece.replace("~", " ") for piece in pieces).encode("utf-8", "replace")
    text = whole(parsed, page.decode())
    assert len(text.encode()) <= 3 * len(page) + 100
    w = parsed.workspace
    rows = w.bl[: parsed.blocks]
    assert (rows[:, L.B_START] < rows[:, L.B_STOP]).all()
    assert (rows[1:, L.B_START] >= rows[:-1, L.B_STOP]).all()
    assert (rows[:, L.B_LINK] >= 0).all() and w.s[L.W] <= len(w.out)
    assert (w.el[1 : int(w.s[L.NE]), L.E_PARENT] < range(1, int(w.s[L.NE]))).all()
    assert (w.opens >= 0).all()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200))
def test_any_bytes_end(parsed, page):
    blocks(parsed, page)
    blocks(parsed, b"<p " + page)
    blocks(parsed, b"<script type=math/tex>" + page)
