"""One interface to tokenizers: Arrow text in, flat token buffers out.

`tokenizers` (Hugging Face) is the reference: its answer is what a tokenizer.json means. Its Python objects cost more
than its work, so a faster engine does the encoding: fastokens (Rust, BPE), which gives the same ids. It was
chosen over gigatoken 0.10 by measurement: both gave the reference's tokens on 17,000 documents, and are alike in
speed, but on random words (each new to the engine's cache) gigatoken had grown to 2.7 GB after 300 MB of text, where
fastokens 0.3.5 stays below 0.2 GB over 2 GB of it.

Trust is checked: when a tokenizer is loaded the engine is compared with the reference on strings that are easy to get
wrong (`tricky_texts`), and a task compares a document of its own (`Tokenizer.verify`). A difference is an error. A
tokenizer that the fast engine cannot load is encoded by the reference; `Tokenizer.fallback` says why.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tokenizers

from stages.document import text_buffers
from stages.errors import UserError
from stages.kernels.tokens import finish
from stages.step import Settings
from stages.tokens.shard_format import token_dtype

EngineName = Literal["auto", "fastokens", "tokenizers"]
END_TOKENS = ("<|endoftext|>", "</s>", "<|end_of_text|>", "<eos>", "<EOS>")  # tried in order where none is named
PAD_TOKENS = ("<|padding|>", "<pad>", "<PAD>", "[PAD]", "<|pad|>")
# Text given to an engine in one call: bounds the Python strings (and, for the reference, the id lists) alive at once.
CHUNK_BYTES = {"fastokens": 4 << 20, "tokenizers": 256 << 10}
VERIFY_BYTES = 64 << 10  # of one document, at the reference's 2.5 MB/s
# What str.strip() takes away; Arrow's own idea of white space differs from Python's in four control characters.
WHITE_SPACE = (
    "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)


class TokenizerError(UserError):
    """A tokenizer that cannot be loaded or used; the text names the file, the cause and the fix."""


class TokenizerMismatch(TokenizerError):
    """The fast engine and the reference gave different tokens for the same text."""


class EncodeRules(Settings):
    """What is done to a document's text before and after encoding. The defaults are OLMo's."""

    strip: bool = True
    """Remove white space at both ends, as str.strip() does."""
    skip_empty: bool = True
    """Give a document without text (after `strip`) no tokens at all."""
    append_eos: bool = True
    """End each document in the end token, where it is not the last one already."""
    special_tokens_in_text: Literal["match", "split"] = "match"
    """`<|endoftext|>` written in a text becomes that token (`match`), or is text as any other (`split`)."""


class Engine(Protocol):
    """What encodes: texts in, flat uint32 tokens and n + 1 int64 offsets out, no tokens added."""

    name: str

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]: ...


class ReferenceEngine:
    """Hugging Face `tokenizers`. Slow (about 2.5 MB/s a core), and right by definition."""

    name = "tokenizers"

    def __init__(self, tokenizer: tokenizers.Tokenizer, split_special: bool) -> None:
        self.tokenizer = tokenizer
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = split_special

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        parts = [np.array(one.ids, np.uint32) for one in encoded]
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return (np.concatenate(parts) if parts else np.zeros(0, np.uint32)), offsets


class FastokensEngine:
    """fastokens: a Rust BPE that returns the ids of a batch as two buffers, so no Python object a token."""

    name = "fastokens"

    def __init__(self, json: str, split_special: bool, threads: int) -> None:
        # Read by the library once a process. A task is given one core; the library would take all of them.
        os.environ.setdefault("FASTOKENS_BPE_THREADS", str(threads))
        import fastokens

        self.tokenizer = fastokens.Tokenizer.from_json_str(json)
        self.tokenizer.no_truncation()
        self.split_special = split_special

    def encode(self, texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        ids, offsets = self.tokenizer.encode_batch_flat(texts, split_special_tokens=self.split_special)
        return np.frombuffer(ids, "<u4"), np.frombuffer(offsets, "<u8").astype(np.int64)


@dataclass
class Tokenizer:
    """A loaded tokenizer. `encode` is the work; `fallback` says why the reference does it, where it does."""

    path: str
    sha256: str
    vocab_size: int  # highest id + 1
    eos_id: int
    pad_id: int
    engine: Engine
    reference: ReferenceEngine
    rules: EncodeRules
    fallback: str | None = None
    dtype: np.dtype = field(init=False)

    def __post_init__(self) -> None:
        self.dtype = token_dtype(self.vocab_size)

    def encode(self, column: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of a `large_string` column: a flat buffer of `self.dtype`, and int64 offsets, one more than rows.

        The rules (strip, skip-empty, end token) are applied; a skipped document has no tokens.
        """
        return self.finish(self.prepare(column))

    def prepare(self, column: pa.Array) -> pa.Array:
        """The text that is encoded: stripped where the rules say so."""
        if isinstance(column, pa.ChunkedArray):
            column = column.combine_chunks()
        return pc.utf8_trim(column, characters=WHITE_SPACE) if self.rules.strip else column

    def finish(self, prepared: pa.Array) -> tuple[np.ndarray, np.ndarray]:
        """`encode` for text that went through `prepare` already."""
        tokens, ends, total = [], [np.zeros(1, np.int64)], 0
        for chunk in _chunks(prepared, CHUNK_BYTES[self.engine.name]):
            raw, offsets = self.engine.encode(chunk.to_pylist())
            if len(raw) and int(raw.max()) >= self.vocab_size:
                raise TokenizerError(
                    f"{self.path}: {self.engine.name} gave id {raw.max()}, beyond {self.vocab_size} entries"
                )
            bounds = text_buffers(chunk)[1]
            keep = np.diff(bounds) > 0 if self.rules.skip_empty else np.ones(len(chunk), bool)
            done, offsets = finish(raw, offsets, keep, self.rules.append_eos, self.eos_id, self.dtype)
            tokens.append(done)
            ends.append(offsets[1:] + total)
            total += len(done)
        return (np.concatenate(tokens) if tokens else np.zeros(0, self.dtype)), np.concatenate(ends)

    def verify(self, texts: list[str], names: list[str] | None = None) -> None:
        """Compare the engine with the reference on these texts, at most their first 64 KiB each.

        Raises TokenizerMismatch, which names the first text that differs (by `names`) and where.
        """
        if self.engine is self.reference:
            return
        texts = [text.encode()[:VERIFY_BYTES].decode(errors="ignore") for text in texts]
        got, got_offsets = self.engine.encode(texts)
        want, want_offsets = self.reference.encode(texts)
        if np.array_equal(got, want) and np.array_equal(got_offsets, want_offsets):
            return
        for i, text in enumerate(texts):
            ours = got[got_offsets[i] : got_offsets[i + 1]]
            right = want[want_offsets[i] : want_offsets[i + 1]]
            if not np.array_equal(ours, right):
                common = min(len(ours), len(right))
                differ = np.flatnonzero(ours[:common] != right[:common])
                at = int(differ[0]) if len(differ) else common
                raise TokenizerMismatch(
                    f"{names[i] if names else repr(text[:60])}: {self.engine.name} and tokenizers differ "
                    f"on {self.path} from token {at}: {ours[at : at + 4].tolist()}, expected "
                    f"{right[at : at + 4].tolist()}; set the tokenizer's engine to 'tokenizers'"
                )

    def holding_end_token(self, column: pa.Array) -> int:
        """How many texts of a `large_string` column have the end token written in them."""
        written = self.reference.tokenizer.id_to_token(self.eos_id)
        return int(pc.sum(pc.match_substring(column, written), min_count=0).as_py())

    def decode(self, tokens: np.ndarray) -> str:
        """The text of some tokens, special tokens included."""
        return self.reference.tokenizer.decode(tokens.tolist(), skip_special_tokens=False)


def load_tokenizer(
    path: str | Path,
    engine: EngineName = "auto",
    rules: EncodeRules | None = None,
    eos_token: str | None = None,
    pad_token: str | None = None,
    threads: int = 1,
) -> Tokenizer:
    """Load a tokenizer.json and verify the engine on `tricky_texts`.

    `eos_token` and `pad_token` are looked up in the vocabulary; left out, the first of the usual names that exists is
    taken (no padding token: the end token). "auto" is fastokens, or tokenizers where fastokens cannot load the file.
    `threads` holds for the first load of a process. Raises TokenizerError.
    """
    path, rules = Path(path), rules or EncodeRules()
    data, base = _read(path)
    json = data.decode()
    split = rules.special_tokens_in_text == "split"
    reference = ReferenceEngine(base, split)
    chosen: Engine = reference
    fallback = None
    if engine in ("auto", "fastokens"):
        try:
            chosen = FastokensEngine(json, split, threads)
        except Exception as error:  # ImportError, or the library's refusal of a tokenizer
            if engine == "fastokens":
                raise TokenizerError(f"{path}: fastokens cannot load this tokenizer ({error})") from None
            fallback = f"fastokens cannot load {path.name} ({error}); tokenizers encodes instead, about 30 times slower"
    elif engine != "tokenizers":
        raise TokenizerError(f"no tokenizer engine {engine!r}: 'auto', 'fastokens' and 'tokenizers' are there")
    eos_id = _special(base, eos_token, END_TOKENS, "eos_token", path)
    pad_id = _special(base, pad_token, PAD_TOKENS, "pad_token", path, default=eos_id)
    loaded = Tokenizer(
        path=str(path),
        sha256=hashlib.sha256(data).hexdigest(),
        vocab_size=max(base.get_vocab(with_added_tokens=True).values()) + 1,
        eos_id=eos_id,
        pad_id=pad_id,
        engine=chosen,
        reference=reference,
        rules=rules,
        fallback=fallback,
    )
    loaded.verify(tricky_texts(base))
    return loaded


_CHECKED: list[tuple[bytes, tokenizers.Tokenizer]] = []  # at most one: read by `check_tokenizer`, for `load_tokenizer`


def _read(path: Path) -> tuple[bytes, tokenizers.Tokenizer]:
    """The bytes of a tokenizer.json, and what the reference makes of them. Raises TokenizerError."""
    try:
        data = path.read_bytes()
        if _CHECKED and (checked := _CHECKED.pop())[0] == data:
            return checked
        base = tokenizers.Tokenizer.from_str(data.decode())
    except OSError as error:
        raise TokenizerError(f"{path}: the tokenizer cannot be read ({error.strerror})") from None
    except Exception as error:  # the library raises plain Exception for a bad file
        raise TokenizerError(f"{path}: is no tokenizer.json that `tokenizers` can load ({error})") from None
    if dropout := getattr(base.model, "dropout", None):
        raise TokenizerError(
            f"{path}: its model has a dropout of {dropout:g}, by which the same text gets other tokens every time; set "
            "`dropout` to null under `model` in a copy of the file, and name that"
        )
    return data, base


def check_tokenizer(
    path: str | Path, eos_token: str | None = None, pad_token: str | None = None, *, keep: bool = False
) -> None:
    """Raise TokenizerError where `load_tokenizer` would for this file and these names, without loading an engine.

    With `keep`, what was read stays for the next `load_tokenizer` of this process: for one that will load the same file.
    """
    path = Path(path)
    data, base = _read(path)
    _special(base, eos_token, END_TOKENS, "eos_token", path)
    _special(base, pad_token, PAD_TOKENS, "pad_token", path, default=0)
    if keep:
        _CHECKED[:] = [(data, base)]


def _special(
    tokenizer: tokenizers.Tokenizer,
    named: str | None,
    usual: tuple[str, ...],
    key: str,
    path: Path,
    default: int | None = None,
) -> int:
    """The id of the token that `key` of the recipe's `tokenizer` names, or of the first usual one that exists."""
    for name in usual if named is None else (named,):
        if (found := tokenizer.token_to_id(name)) is not None:
            return found
    if named is not None:
        raise TokenizerError(f"{path}: has no token {named!r}, which `{key}` names")
    if default is None:
        raise TokenizerError(f"{path}: has none of {', '.join(usual)}; name the one that it has by the key `{key}`")
    return default


def _chunks(column: pa.Array, max_bytes: int) -> Iterator[pa.Array]:
    """The column in slices of at most `max_bytes` of text, or one document."""
    offsets = text_buffers(column)[1]
    start = 0
    while start < len(column):
        stop = int(np.searchsorted(offsets, offsets[start] + max_bytes, side="right")) - 1
        stop = min(max(stop, start + 1), len(column))
        yield column.slice(start, stop - start)
        start = stop


def tricky_texts(tokenizer: tokenizers.Tokenizer) -> list[str]:
    """Texts on which engines come to differ: white space, scripts, normal forms, added tokens, long runs."""
    added = [token.content for token in tokenizer.get_added_tokens_decoder().values()]
    texts = [
        "",
        " ",
        "\n",
        "a",
        "Hello, world! It's what they'd've said: we'll, you're, I'M, O'BRIEN'S, don’t.",
        "  leading, trailing  \t\n\n\n  and   runs    of     white \r\n\r\n\u00a0\u2003\u3000\u200b \x0b\x0c\x1c\x85",
        "def f(x):\n        return {'a': [1, 2, 3]}  # comment\n\tif x != 0x1F and y >= 1e-9:\n            pass\n",
        "3.14159 1,000,000 1st 2nd 12345678901234567890 ٣٤٥ ④ ½ x² H₂O Ⅷ",
        "Zażółć gęślą jaźń. Größe, naïve, façade, Ångström, smørrebrød, İstanbul ıI.",
        "e\u0301 vs \u00e9, \u1100\u1161\u11a8 vs \uac01, \u212b, \ufb01, \u0344, \u0958 \U0001d15e",
        "日本語のテキストと中文文本，混在。한국어 텍스트 ไทยไม่มีช่องว่าง العربية עברית हिन्दी",
        "👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 👍🏽 ☃️ \U000e0067\U000e007f \ufeff\ufffd\U0010ffff\ue000",
        "\x00\x01\x02\x7f\x80\x9f control \x1b[31m",
        'http://www.example.com/a/b?c=d&e=%20f#g user@example.org C:\\path\\file.txt <div class="x">&amp;&#39;</div>',
        "$\\frac{\\partial u}{\\partial t} = \\nabla^2 u$ \\begin{align*} & x_{i,j}^{(k)} \\\\ \\end{align*}",
        "a" * 3000 + " " + "ab" * 1500 + " " + "xyzzy" * 500,
        " " * 700 + "x" + "\n" * 300 + "\t" * 90 + "-" * 500 + "=" * 77,
        "é" * 400 + "\u0301" * 200 + "中" * 300,
    ]
    texts += [f"x{token}y {token} {token}{token}" for token in added]
    texts += [" ".join(added), "".join(added)]
    return texts
