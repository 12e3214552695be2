"""Runs every kernel on texts that are made to reach the ends of arrays; prints the kernels that nothing here has called.

Started by test_bounds.py in a process of its own with NUMBA_BOUNDSCHECK=1: an access outside an array is an IndexError.
Each text stands alone, between others, and in slices of a batch; the arrays are as long as the texts, to the byte.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pydivsufsort
from dedup_corpus import altered, deduplicate, prose, write_parts
from fasttext_models import KINDS, train
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stages.cache import cache_root
from stages.dedup import bff, sequence
from stages.document import DOCUMENT, text_array
from stages.extract.block_model import default_model
from stages.extract.blocks import Parsed
from stages.filters.c4_quality import C4Quality
from stages.filters.decontaminate import Decontaminate
from stages.filters.fineweb_quality import FineWebQuality
from stages.filters.gopher_quality import GopherQuality
from stages.filters.gopher_quality_datatrove import GopherQualityDatatrove
from stages.filters.limit_newlines import LimitNewlines
from stages.filters.mask_pii import MaskPii
from stages.filters.refinedweb_lines import RefinedWebLines
from stages.filters.remove_urls import RemoveUrls
from stages.filters.repetition import Repetition
from stages.filters.repetition_datatrove import RepetitionDatatrove
from stages.filters.starcoder import StarCoder
from stages.filters.token_repeats import TokenRepeats
from stages.filters.url_filter import UrlFilter
from stages.kernels.block_dense import FEATURES, dense_matrix
from stages.kernels.block_hashes import BITS, MOST, fit_linear, one_block_features
from stages.kernels.bounds import CHECKED
from stages.kernels.token_ngrams import lowest_ngrams
from stages.kernels.unicode_tables import code_points
from stages.kernels.warm import ensure_warm, kernels
from stages.kernels.words import word_ends
from stages.quality.classifier import Quality
from stages.quality.language import Language
from stages.step import Step
from stages.tokens.tokenizer import load_tokenizer

LONG = 20_000


def texts() -> list[bytes]:
    """One word, no words, all separators, as many words and n-grams as bytes allow, cut characters, many items to mask."""
    rng = random.Random(1)
    found = [b"", b"a", b"\n", b" ", b".", "é".encode(), "\U0001f600".encode(), b"\x00"]
    found += [b"x" * LONG, "é".encode() * LONG, "日".encode() * LONG, b"!" * LONG, b"_" * LONG, b"7" * LONG]
    found += [
        separator * LONG for separator in (b"\n", b" ", b"\t", b"\r\n", "\u2028".encode(), "\u3000".encode(), b"\x1c")
    ]
    found += [
        b"a " * LONG,
        b"a\n" * LONG,
        b"a\n\n" * LONG,
        b"a." * LONG,
        b". " * LONG,
        b"-\n" * LONG,
        b"\xe2\x80\xa6\n" * LONG,
    ]
    found += [b" ".join(b"%d" % i for i in range(LONG)), b"\n".join(b"%x" % i for i in range(LONG))]
    found += [b" ".join(bytes([97 + i % 26, 97 + i // 26 % 26, 97 + i // 676 % 26]) for i in range(LONG))]
    found += ["\u0301".encode() * LONG, "a\u200d".encode() * LONG, "\U0001f1e9".encode() * 5001, "각".encode() * 999]
    found += [
        item * 3000
        for item in (b"http://a.b/c ", b"www.x.org\n", b"a@b.cd ", b"1.1.1.1 ", b"555-123-4567 ", b"://", b"@", b"2:", b"(1)")
    ]
    found += [
        item * 3000 for item in (b"[1]", b"{", b"javascript\n", b"lorem ipsum ", b"terms of use\n", b"- a...\n", b"# ")
    ]
    found += [b"x" * 7, b"x" * 8, b"x" * 9, b"x" * 63, b"a b c d e f g h i j k", b"a b c d e f g h i", b"\n\n\nx\n\n"]
    # No UTF-8: Arrow's strings may hold it, where a reader has not checked.
    found += [
        b"\x80" * 999,
        b"\xff" * 999,
        b"\xf0",
        b"a\xf0\x9f\x98",
        b"\xe2\x80",
        b"a" * 31 + b"\xc3",
        b"\xf4\xbf\xbf\xbf" * 99,
    ]
    pieces = [
        b"a",
        b"ab ",
        b"\n",
        b". ",
        b"\xc3\xa9",
        b"\xe6\x97\xa5",
        b"0",
        b"http://",
        b"@",
        b"\r",
        b"\x85",
        b"'",
        b" \xcc\x81",
        b"2001:",
        b"12 34",
        b"(0",
        b".de",
    ]
    found += [b"".join(rng.choices(pieces, k=rng.randrange(200))) for _ in range(150)]
    return found


def batches(values: list[bytes]) -> Iterator[pa.RecordBatch]:
    """Each text alone; all of them; slices, in which offsets do not begin at 0; one with nulls; none."""
    groups = [[value] for value in values] + [values, [], values[3:9] * 30]
    for group in groups:
        yield batch(group)
    whole = batch(values)
    for start in range(0, len(values), 7):
        yield whole.slice(start, 3)
    yield whole.slice(len(values))


def batch(values: list[bytes], nulls: bool = True) -> pa.RecordBatch:
    data = np.frombuffer(b"".join(values), np.uint8)
    column = text_array(data, np.cumsum([0, *map(len, values)]))
    count = len(values)
    sound = [value.decode("utf-8", "replace") for value in values]
    optional = pa.array([None if nulls and i % 3 == 1 else text for i, text in enumerate(sound)], pa.large_string())
    ids = pa.array([f"d{i}" for i in range(count)], pa.large_string())
    numbers = pa.array(np.arange(count))
    columns = [ids, column, optional, ids, numbers, numbers, pa.nulls(count, pa.large_string())]
    return pa.RecordBatch.from_arrays(columns, schema=DOCUMENT)


def tokenizer_file(folder: Path) -> str:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = {"special_tokens": ["<|endoftext|>"], "initial_alphabet": alphabet, "show_progress": False}
    tokenizer.train_from_iterator(["a b c d e"], trainers.BpeTrainer(vocab_size=300, **options))
    tokenizer.save(str(folder / "tokenizer.json"))
    return str(folder / "tokenizer.json")


def steps(folder: Path, values: list[bytes]) -> list[Step]:
    """Every step that has a kernel, with settings that reach all of them."""
    evaluation = folder / "evaluation.jsonl"
    rows = [{"text": value.decode("utf-8", "replace")[:3000]} for value in values]
    evaluation.write_text("".join(json.dumps(row) + "\n" for row in rows))
    lists = {"domains": ("a.b", ".x.org"), "strict": ("aa", "x"), "hard": ("a", "www"), "soft": ("b", "c d", "\u0301")}
    names = ("softmax of two", "tree, characters, more labels than dimensions", "quantized, pruned, norms, output")
    trained = [train(KINDS[name], _folder(folder, name))[0] for name in names]
    return [
        C4Quality(), FineWebQuality(), FineWebQuality(splitter="unicode"), FineWebQuality(splitter="french"),
        FineWebQuality(splitter="spanish"), GopherQuality(), GopherQualityDatatrove(),
        GopherQualityDatatrove(splitter="unicode"), RepetitionDatatrove(splitter="unicode"), LimitNewlines(), MaskPii(),
        MaskPii(patterns="strict"),
        RefinedWebLines(), RemoveUrls(), Repetition(), RepetitionDatatrove(), StarCoder(),
        Language(model=str(trained[2]), label="l0", table_mb=1), UrlFilter(**lists), UrlFilter(hosts="bare", **lists),
        Decontaminate(files=str(evaluation), match="ngrams", fields=("text",), ngram=1),
        Decontaminate(files=str(evaluation), match="ngrams", fields=("text",), ngram=13),
        Decontaminate(files=str(evaluation), fields=("text",), answer_fields=("text",)),
        Decontaminate(files=str(evaluation), fields=("text",), remove="spans"),
        Quality(model=str(trained[0]), positive="l0", table_mb=1),
        *(Quality(model=str(path), positive="l0", negative="l1", table_mb=1) for path in trained[1:]),
        *(Quality(model=str(path), labels="all", table_mb=1) for path in trained),
    ]  # fmt: skip


def _folder(base: Path, name: str) -> Path:
    made = base / name
    made.mkdir()
    return made


def dedups(folder: Path) -> None:
    """Every method of dedup, on short and long texts, copies and near copies."""
    rng = random.Random(2)
    base = [prose(rng, words) for words in (1, 2, 13, 14, 40, 200)]
    some = [value.decode("utf-8", "replace")[:4000] for value in texts()]
    documents = [*base, *base, *(altered(rng, base[-1], 3) for _ in range(5)), *some, *some[:60], "\n".join(base)]
    rows = [{"text": text, "url": text[:40] if i % 3 else None, "score": 0.5} for i, text in enumerate(documents)]
    specs = [
        {"method": "exact"},
        {"method": "url"},
        {"method": "minhash", "ngram": 1},
        {"method": "minhash", "verify": 0.5},
        *({"method": "bff", "mode": mode, "ngram": n} for mode in ("document", "old-both") for n in (1, 13)),
        {"method": "paragraphs"},
        {"method": "paragraphs", "exact": True, "min_chars": 3},
        *({"method": "substring", "unit": unit, "length": length, "keep": keep, "min_left": 1}
          for unit, length in (("words", 2), ("bytes", 3)) for keep in ("first", "none")),
    ]  # fmt: skip
    for number, spec in enumerate(specs):
        parts = write_parts(folder / f"parts{number}", rows, 50)
        deduplicate(folder / f"dedup{number}", spec, parts)
        if spec["method"] == "bff":
            spans, kept = (str(folder / f"{what}{number}") for what in ("spans", "filter"))
            bff.deduplicate({**spec}, 0, 1 << 20, parts, [0], spans, kept, threads=2)  # type: ignore[arg-type]
            bff.deduplicate({**spec}, 0, 1 << 20, parts, [0], spans, old_paths=[kept])  # type: ignore[arg-type]


def wide_substrings(folder: Path) -> None:
    """Substring dedup as it goes from 2 GiB on, with int64."""
    narrow = pydivsufsort.divsufsort
    pydivsufsort.divsufsort = lambda *args: narrow(*args, force64=True)
    sequence.pydivsufsort = pydivsufsort
    parts = write_parts(folder / "wide", [{"text": "a b c d e f"}, {"text": "x a b c d e"}, {"text": ""}], 2)
    for number, keep in enumerate(("first", "none")):
        spec = {"method": "substring", "unit": "words", "length": 3, "keep": keep, "min_left": 1}
        deduplicate(folder / f"wide{number}", spec, parts)


def tokens(folder: Path, values: list[bytes]) -> None:
    """Both widths of tokens, documents with and without text, runs of one token; of UTF-8 alone."""
    tokenizer = load_tokenizer(tokenizer_file(folder))
    some = [value[: LONG // 8].decode("utf-8", "replace").encode() for value in values]
    sound = [batch(some), batch([]), batch([b"", b" "]), batch(some).slice(5, 9)]
    for period in (1, 13, 1000):
        step = TokenRepeats(tokenizer=tokenizer.path, max_period=period)
        for one in sound:
            step.measure(one)
    for dtype in (np.uint16, np.uint32):
        tokenizer.dtype = np.dtype(dtype)
        for one in sound:
            tokenizer.encode(one.column("text"))


PIECES = """
<p> </p> <div~class="a~b-c1"> </div> <b> <a~href=x> </a> <pre> </pre> <code> </code> <sup> </sup> <sub> <math>
</math> <mi> <msup> </msup> <mrow> </mrow> <annotation~encoding=tex> </annotation> <table> <tr> <td~class=linenos>
</table> <ul> <ol~start=3> <li> </ul> <br> <hr> <svg> </svg> <script~type=math/tex> </script> <span~class=katex>
<span~class=katex-html> </span> <style> <span~class=MathJax> <title> <img~class=tex~alt=x^2> </title> <h1> </h1>
<select> <!-- --> < </ <! &amp; &nbsp; &#10; & 1 x . \u00e9 $ % [ { } ( \u00a0 <x-y> </x-y> <dl> <dt> <noscript>
<meta~name=description~content=x> <blockquote> <h2> \n \x00 10 2 &nGt; &nLt; \u65e5 <a~b=" "> <p~class= =
"""


def pages(values: list[bytes]) -> None:
    """The engine `blocks`, and what its training calls, on pages of markup in any order, in arrays of their size."""
    rng = random.Random(2)
    pieces = [piece.replace("~", " ").encode() for piece in PIECES.split()]
    found = [value[: LONG // 4] for value in values]
    found += [b"".join(rng.choices(pieces, k=rng.randrange(80))) for _ in range(1500)]
    found += [piece * 3000 for piece in pieces]
    model = default_model()
    for page in found:
        parsed = Parsed(len(page))
        parsed.parse(page)
        parsed.decide(parsed.score(model), model.limit, model.share, True)
        parsed.text()
        parsed.metadata()
        w = parsed.workspace
        if 0 < parsed.blocks < 2000:
            out = np.empty((parsed.blocks, FEATURES), np.float32)
            dense_matrix(w.s, w.el, w.bl, parsed.stats, parsed.sums, parsed.first, out)
            buffer = np.empty(MOST, np.int32)
            starts = [0]
            rows = []
            for b in range(parsed.blocks):
                n = one_block_features(w.out, w.s, w.el, w.bl, w.tok, parsed.stats, b, buffer)
                rows.append(buffer[:n].copy())
                starts.append(starts[-1] + n)
            ones = np.ones(parsed.blocks, np.float32)
            weights, squares = np.zeros((1 << BITS) + 1, np.float32), np.ones((1 << BITS) + 1, np.float32)
            order = np.arange(parsed.blocks)
            fit_linear(np.concatenate(rows), np.array(starts), ones, ones, order, 0.1, 0.0, weights, squares)


def token_ngrams() -> None:
    """Documents of tokens: none, of one token, as long as an n-gram or just not, and all of one token."""
    rng = np.random.default_rng(0)
    for lengths in ([], [0], [1], [12], [13], [0, 13, 0], [5000, 0, 1], rng.integers(0, 40, 300).tolist()):
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
        for tokens in (rng.integers(0, 2**32, offsets[-1], np.uint32), np.full(offsets[-1], 2**32 - 1, np.uint32)):
            for limit in (0, 1 << 62, 2**64 - 1):
                out, ends = np.empty(offsets[-1], np.uint64), np.empty(len(offsets), np.int64)
                assert lowest_ngrams(tokens, offsets, 13, np.uint64(limit), out, ends) == ends[-1] <= len(out)


def main() -> int:
    """Run everything; returns the number of what went wrong."""
    wrong = 0
    values = texts()

    def attempt(name: str, run, *args) -> None:
        nonlocal wrong
        try:
            run(*args)
        except Exception:
            wrong += 1
            print(f"{name}:\n{traceback.format_exc(limit=-4)}", flush=True)

    os.environ.setdefault("HEADRACE_KERNEL_CACHE", str(cache_root() / "kernels"))
    ensure_warm()  # on all cores
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HEADRACE_CACHE"] = str(folder / "cache")  # what is kept there would be loaded and not made again
        for step in steps(_folder(folder, "steps"), values):
            for position, docs in enumerate(batches(values)):
                if wrong > 20:
                    return wrong
                attempt(f"{step.step}, batch {position}", step.edit, docs)
        attempt("dedup", dedups, _folder(folder, "dedup"))
        attempt("wide substrings", wide_substrings, _folder(folder, "wide"))
        attempt("tokens", tokens, _folder(folder, "tokens"), values)
        attempt("pages", pages, values)
        attempt("token n-grams", token_ngrams)
        text = np.frombuffer(b"a \xc3\xa9 b", np.uint8)
        attempt("word_ends", word_ends, text, 0, len(text), code_points(), np.empty(len(text), np.int64))
    untouched = [kernel.__name__ for kernel in kernels() if kernel.compiled is None]
    print(f"checked: {CHECKED}; not called: {', '.join(untouched) or 'none'}; wrong: {wrong}")
    return wrong + len(untouched)


if __name__ == "__main__":
    sys.exit(min(main(), 100))
