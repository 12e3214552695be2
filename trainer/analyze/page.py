"""An analysis on one static page: pictures inside it, no script, nothing fetched."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path
from typing import Any

from trainer.analyze.run import Analysis
from trainer.analyze.tables import KINDS, vocabulary

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.5rem; border-top: 1px solid #ddd; padding-top: 1rem; }
img { max-width: 100%; height: auto; } p { max-width: 46rem; } table { border-collapse: collapse; margin: 1rem 0; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #eee; vertical-align: top; }
td.n, th.n { text-align: right; } code { background: #f4f4f4; padding: 0 .25rem; white-space: pre; }
.picture { overflow-x: auto; } @media (max-width: 40rem) { img { max-width: none; width: 40rem; } }
"""
EXPLAINED = {
    "Router saturation": "Of the experts that a layer chooses for a token at a checkpoint, the share that it chooses at the "
    "last one. Dotted: what chance would give.",
    "Load per expert": "Tokens that are routed to each expert, over all sources; 1 is balanced.",
    "Domain specialisation": "Of each source's tokens, the share that is routed to an expert among its choices.",
    "Expert co-activation": "Of the tokens that activate one expert, the share that activates the other too; the experts of "
    "the pairs that do so most.",
    "Vocabulary specialisation": "Of each token id, the largest share of its occurrences that has one expert as its first "
    "choice, mean over ids; by the token that is read and by the one that is predicted.",
}
LISTED = 8  # experts in the page's table of tokens; vocabulary.csv has all


def write_page(found: Analysis, pictures: dict[str, Path], tokenizer: Any, out: Path) -> Path:
    """Write index.html into `out`."""
    counts = found.counts
    parts = [
        f"<h1>Inside the experts of {escape(found.names[-1])}</h1>",
        f"<p>{counts.layers} layers of {counts.experts} experts, {found.top_k} for each token; "
        f"{int(counts.tokens_S.sum()):,} held-out tokens. Definitions: OLMoE, arXiv 2409.02060, section 5.</p>",
        _table(
            ["source", "tokens"], [[s, f"{n:,}"] for s, n in zip(found.sources, counts.tokens_S.tolist(), strict=True)]
        ),
    ]
    for title, path in pictures.items():
        data = base64.b64encode(path.read_bytes()).decode()
        parts += [f"<h2>{escape(title)}</h2>", f"<p>{escape(EXPLAINED[title])}</p>"]
        parts.append(f'<div class="picture"><img alt="{escape(title)}" src="data:image/png;base64,{data}"></div>')
    parts += [
        "<h2>Tokens of experts</h2>",
        f"<p>In the last layer, the {LISTED} experts with the most specialised tokens.</p>",
    ]
    parts += [_words(found, tokenizer, kind) for kind in KINDS]
    body = "\n".join(parts)
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>Inside the experts</title><style>{STYLE}</style>"
    page = f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{body}\n</body></html>\n'
    path = out / "index.html"
    path.write_text(page, encoding="utf-8")
    return path


def _words(found: Analysis, tokenizer: Any, kind: str) -> str:
    last = found.counts.layers - 1
    own = [one for one in vocabulary(found, tokenizer) if one["by"] == kind and one["layer"] == last and one["tokens"]]
    own.sort(key=lambda one: -sum(token[2] for token in one["tokens"]) / len(one["tokens"]))
    rows = [
        [
            str(one["expert"]),
            " ".join(f"<code>{escape(visible(text))}</code> {share:.0%}" for _, text, share, _ in one["tokens"]),
        ]
        for one in own[:LISTED]
    ]
    name = "by input token" if kind == "input" else "by predicted token"
    if not rows:
        return f"<p>{name}: no token was seen often enough.</p>"
    return _table(["expert", name], rows, raw=True)


def visible(text: str) -> str:
    """A token's text on one line: what does not print as it is written in Python."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _table(headings: list[str], rows: list[list[str]], raw: bool = False) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    lines = ["".join(f"<td>{cell if raw else escape(cell)}</td>" for cell in row) for row in rows]
    return f"<table><tr>{head}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
