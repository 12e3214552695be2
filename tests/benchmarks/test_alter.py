"""Altered copies: other words, the same markup, and nothing that dedup would take for a copy."""

import re

from benchmarks.alter import alter, vocabulary

WORDS = [
    f"{a}{b}{c}"
    for a in ("stone", "river", "cloud", "light")
    for b in ("fall", "side", "mark")
    for c in ("er", "ing", "s")
]
TEXT = " ".join(WORDS[(7 * n * n + n) % len(WORDS)] for n in range(400))
PAGE = (
    "<html><head><style>p.stonefalls { color: red }</style><script>var rivermarks = 'stonefalls';</script></head>"
    f"<body class='cloudsides'><!-- lightfalls --><p>That stonefaller &nbsp;&amp; {TEXT}</p>"
    "<p>naïveté stonefaller</p></body></html>"
).encode()


def shingles(text: bytes) -> set[tuple[bytes, ...]]:
    words = text.split()
    return {tuple(words[n : n + 5]) for n in range(len(words) - 4)}


def test_markup_scripts_entities_and_stop_words_stay():
    changed = alter(PAGE, vocabulary([PAGE]), "1")
    outside = re.compile(rb"(?s)<script.*?</script>|<style.*?</style>|<!--.*?-->|<[^>]*>|&[a-z]+;")
    assert outside.findall(changed) == outside.findall(PAGE)
    assert b"That " in changed
    assert "naïveté".encode() in changed
    assert len(changed) == len(PAGE)


def test_the_same_seed_gives_the_same_copy_and_another_seed_another():
    words = vocabulary([PAGE])
    assert alter(PAGE, words, "1") == alter(PAGE, words, "1")
    assert alter(PAGE, words, "1") != alter(PAGE, words, "2")


def test_equal_words_become_equal_words():
    changed = alter(b"<p>" + b"waterfalls lighthouse " * 50 + b"</p>", {10: [b"abcdefghij", b"qrstuvwxyz"]}, "3")
    assert len(set(changed[3:-4].split())) <= 2


def test_a_copy_is_no_near_copy():
    one, two = shingles(TEXT.encode()), shingles(alter(TEXT.encode(), vocabulary([TEXT.encode()]), "4"))
    assert len(one & two) < 0.3 * len(one | two)
