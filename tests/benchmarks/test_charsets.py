"""The experiment with one byte: what is removed is one byte of one character, and a garbled page is seen."""

import random

from benchmarks.charsets import WAYS, Page, damage, garble

HTML = ('<html lang="de"><p>' + "Größere Mühlräder drehen sich gemächlich, sagt man über Flüsse – und lächelt. " * 9).encode()


def test_one_byte_of_one_character_goes():
    for seed in range(30):
        damaged = damage(HTML, random.Random(seed))
        assert damaged is not None
        assert len(damaged.html) == len(HTML) - 1
        whole = HTML.decode()
        lost = whole[len(damaged.before) : len(whole) - len(damaged.after)]
        assert len(lost) == 1
        assert not lost.isascii()
        assert not damaged.garbled(damaged.before + "?" + damaged.after)
        assert damaged.garbled(damaged.before.replace("ö", "Ã¶") + "?" + damaged.after)
    assert damage(b"<p>plain", random.Random(0)) is None
    assert damage("<p>Mühle".encode("latin-1"), random.Random(0)) is None


def test_pages_are_counted_by_language_and_way():
    counts = garble([Page(HTML, "utf-8"), Page(b"<p>plain", None)], 4)
    assert {name: counts[name, ""] for name, way in counts if not way} == {"all": 4, "de": 4, "(header says utf-8)": 4}
    assert counts["all", "declared"] == 0
    assert counts["de", "as_dclm"] == counts["all", "as_dclm"] > 0
    assert set(WAYS) == {"as_dclm", "declared"}
