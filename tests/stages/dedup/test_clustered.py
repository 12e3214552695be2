"""Exact, URL and near-copy dedup against brute force, on generated and on real documents."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from dedup_corpus import altered, deduplicate, new_word, prose, shared_texts, write_parts

from stages.dedup.scatter import signatures
from stages.dedup.spec import read_spec
from stages.errors import InputError, UserError


def corpus(rng: random.Random, extra: list[str] = ()) -> list[dict[str, Any]]:  # type: ignore[assignment]
    """Documents with exact copies, copies in other white space, near copies, a chain A ~ B ~ C, and short ones."""
    base = [prose(rng, rng.randrange(60, 200)) for _ in range(60)] + list(extra)
    texts = list(base)
    texts += [rng.choice(base) for _ in range(40)]
    texts += [rng.choice(base).replace(" ", "  ") + "\n" for _ in range(10)]
    texts += [altered(rng, rng.choice(base), rng.randrange(1, 5)) for _ in range(60)]
    chain = prose(rng, 300)
    for _ in range(6):
        texts.append(chain)
        chain = altered(rng, chain, 6)
    texts += ["", " ", "one two three", "one two three", "one two three four five", "One, two, three: four five!"] * 2
    rng.shuffle(texts)
    hosts = ["http://a.org/", "https://www.a.org", "a.org/x", "http://A.org:80/x#top", None]
    return [{"text": t, "url": rng.choice(hosts), "score": rng.choice([0.1, 0.5, 0.9, None])} for t in texts]


def clusters(documents: list[dict[str, Any]], spec: dict[str, Any]) -> list[list[int]]:
    """The clusters of copies, by comparing every document with every other."""
    settings = read_spec(spec)
    texts = [d["text"] for d in documents]
    if spec["method"] == "exact":
        values = [" ".join(t.split()) for t in texts]
        alike = [[v] if v else [] for v in values]
    elif spec["method"] == "url":
        values = {"http://a.org/": "a", "https://www.a.org": "a", "a.org/x": "x", "http://A.org:80/x#top": "x"}
        alike = [[values[d["url"]]] if d["url"] else [] for d in documents]
    else:
        found, counts = signatures(pa.array(texts, pa.large_string()), settings)
        bands = found.reshape(len(texts), settings.bands, settings.rows)
        keys = [[(b, band.tobytes()) for b, band in enumerate(bands[i])] for i in range(len(texts))]
        alike = [own if count else [] for own, count in zip(keys, counts, strict=True)]
    parent = list(range(len(texts)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    for i in range(len(texts)):
        for j in range(i):
            if set(alike[i]) & set(alike[j]):
                parent[max(root(i), root(j))] = min(root(i), root(j))
    groups: dict[int, list[int]] = {}
    for i in range(len(texts)):
        groups.setdefault(root(i), []).append(i)
    return [g for g in groups.values() if len(g) > 1]


def expected(documents: list[dict[str, Any]], spec: dict[str, Any]) -> dict[int, str]:
    """Removed document -> id of the one kept for it."""
    result = {}
    for members in clusters(documents, spec):
        keep = spec.get("keep", "first")
        if keep == "longest":
            members = sorted(members, key=lambda i: -len(documents[i]["text"].encode()))
        elif keep == "best":
            scores = {i: documents[i]["score"] for i in members}
            members = sorted(members, key=lambda i: -(scores[i] if scores[i] is not None else -np.inf))
        if spec.get("verify") is None:
            result |= dict.fromkeys(members[1:], f"d{members[0]}")
            continue
        heads: list[int] = []
        for i in members:
            sets = {j: ngram_set(documents[j]["text"]) for j in [*heads, i]}
            close = [h for h in heads if len(sets[h] & sets[i]) / len(sets[h] | sets[i]) >= spec["verify"]]
            if close:
                result[i] = f"d{close[0]}"
            else:
                heads.append(i)
    return result


def ngram_set(text: str) -> set[tuple[str, ...]]:
    words = "".join(c if c.isalnum() else " " for c in text.lower()).split()
    words = ["0" if w.isdigit() else w for w in words]
    return {tuple(words[i : i + 5]) for i in range(len(words) - 4)}


SPECS = [
    {"method": "exact"},
    {"method": "exact", "keep": "longest"},
    {"method": "exact", "keep": "best", "best": "score"},
    {"method": "url"},
    {"method": "minhash"},
    {"method": "minhash", "keep": "longest"},
    {"method": "minhash", "bands": 30, "rows": 4, "seed": 5, "keep": "best", "best": "score"},
]


@pytest.mark.parametrize("spec", SPECS, ids=lambda s: "-".join(str(v) for v in s.values()))
def test_equals_brute_force_however_the_work_is_cut(tmp_path, spec) -> None:
    documents = corpus(random.Random(11))
    wanted = expected(documents, spec)
    assert len(wanted) > 30
    seen = []
    cuts = ((13, 1, 3, 1 << 20), (13, 1 << 30, 1, 1 << 28), (1000, 1, 5, 1 << 20))
    for rows, group_bytes, partitions, memory in cuts:
        folder = tmp_path / f"{rows}-{group_bytes}"
        parts = write_parts(folder / "in", documents, rows, ("a", "b"))
        cut = {"partitions": partitions, "memory": memory}
        summary, removed = deduplicate(folder / "out", spec | cut, parts, group_bytes)
        assert removed == wanted
        assert summary["removed"] == len(wanted) == sum(summary["removed_of_part"].values())
        assert sum(count for *_, count in summary["lost"]) == len(wanted)
        assert sum((size - 1) * count for size, count in summary["sizes"]) == len(wanted)
        seen.append((summary["sizes"], [(c["size"], c["id"]) for c in summary["largest"]]))
    assert seen[0] == seen[1] == seen[2]
    assert seen[0][1][0][0] == max(size for size, _ in seen[0][0])


def test_verified_dedup_keeps_what_is_not_alike(tmp_path) -> None:
    documents = corpus(random.Random(12))
    # Chains: the ends of each are less alike than their neighbours, and are found through them.
    plain = {"method": "minhash", "bands": 40, "rows": 4}
    verified = plain | {"verify": 0.8}
    wanted = expected(documents, verified)
    assert 0 < len(wanted) < len(expected(documents, plain))
    for rows in (20, 500):
        parts = write_parts(tmp_path / f"in{rows}", documents, rows)
        assert deduplicate(tmp_path / f"out{rows}", verified, parts)[1] == wanted


def test_long_chains_settle_in_few_rounds(tmp_path) -> None:
    # Each document is alike to the ones beside it, and shares nothing with those ten places away.
    rng = random.Random(5)
    words = [new_word(rng) for _ in range(3000)]
    documents = [{"text": " ".join(words[i : i + 200])} for i in range(0, 2000, 20)]
    spec = {"method": "minhash", "bands": 60, "rows": 2, "ngram": 1, "partitions": 4}
    order = list(range(len(documents)))
    rng.shuffle(order)
    documents = [documents[i] for i in order]
    parts = write_parts(tmp_path / "in", documents, 9)
    summary, removed = deduplicate(tmp_path / "out", spec, parts)
    assert removed == dict.fromkeys(range(1, len(documents)), "d0")
    assert 1 <= summary["rounds"] <= 8


def test_a_key_shared_by_many_costs_one_record_a_file(tmp_path) -> None:
    documents = [{"text": "the same words again and again in all of them"} for _ in range(5000)]
    parts = write_parts(tmp_path / "in", documents, 1000)
    summary, removed = deduplicate(tmp_path / "out", {"method": "minhash", "partitions": 2}, parts)
    assert summary["removed"] == 4999 and set(removed.values()) == {"d0"}
    assert summary["largest_bucket"] == 5  # a record from each of five files
    assert summary["sizes"] == [[5000, 1]]


def test_near_copies_are_found_as_often_as_theory_says(tmp_path) -> None:
    """Pairs of known Jaccard similarity s are found with probability 1 - (1 - s^rows)^bands (MMDS, section 3.4)."""
    rng = np.random.default_rng(8)
    pairs, spread = 400, 4
    for bands, rows in ((14, 8), (20, 4)):
        spec = {"method": "minhash", "ngram": 1, "bands": bands, "rows": rows, "seed": bands}
        documents, kinds = [], []
        for common, own in ((30, 30), (60, 20), (60, 12), (60, 6)):  # words of both, and of each alone
            for _ in range(pairs):
                words = ["".join(w) for w in rng.choice(list("abcdefghijklmnopqrstuvwxyz"), (common + 2 * own, 12))]
                documents += [{"text": " ".join(words[: common + own])}, {"text": " ".join(words[own:])}]
                kinds.append(common / (common + 2 * own))
        parts = write_parts(tmp_path / f"in{bands}", documents, 1000)
        removed = deduplicate(tmp_path / f"out{bands}", spec, parts)[1]
        assert all(number % 2 and kept == f"d{number - 1}" for number, kept in removed.items())
        for s in set(kinds):
            found = sum(kinds[number // 2] == s for number in removed)
            wanted = 1 - (1 - s**rows) ** bands
            assert abs(found - pairs * wanted) <= spread * (pairs * wanted * (1 - wanted)) ** 0.5 + 1, (bands, s)


def test_very_many_copies_take_no_more_memory_than_a_few(tmp_path) -> None:
    """One text, so the same key in every band: a task holds what its settings say, and no list of all copies."""
    peaks = [_peak_of_copies(tmp_path / str(count), count) for count in (50_000, 600_000)]
    assert peaks[1] < peaks[0] + (100 << 20)  # at the end: the addresses of all members, sorted


def _peak_of_copies(folder: Path, count: int) -> int:
    folder.mkdir()
    program = [sys.executable, "-c", COPIES, str(folder), str(count)]
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run(program, cwd=root, capture_output=True, text=True, timeout=120, check=True)
    removed, largest, peak = map(int, done.stdout.split())
    assert removed == count - 1
    assert largest <= 8  # a record from each file, at most
    return peak


COPIES = """
import resource, sys
from pathlib import Path
import numpy as np, pyarrow as pa
from stages.dedup.phases import group_parts, phases, run_inline
from stages.document import DOCUMENT
from stages.parts import PartWriter
folder, count = Path(sys.argv[1]), int(sys.argv[2])
parts, rows = [], count // 8
for i in range(8):
    same = {"text": "one line that a million pages have", "file": "f", "id": "d", "record": 1}
    columns = [pa.repeat(pa.scalar(same[f.name], f.type), rows) if f.name in same else pa.nulls(rows, f.type) for f in DOCUMENT]
    path = folder / f"{i}.parquet"
    with PartWriter(path, DOCUMENT) as writer:
        writer.write(pa.record_batch(columns, DOCUMENT))
    parts.append({"ordinal": i, "path": str(path), "source": "a", "documents": rows, "bytes": 34 * rows})
spec = {"method": "minhash", "bands": 4, "rows": 2, "memory": 1 << 20, "partitions": 4}
summary = run_inline(phases(spec, group_parts(parts, 1), str(folder)))
assert summary["sizes"] == [[count, 1]]
print(summary["removed"], summary["largest_bucket"], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def test_documents_that_an_earlier_dedup_removed_are_passed_over(tmp_path) -> None:
    documents = [{"text": t} for t in ("a b c", "a  b c", "d e", "a b c", "d e")]
    parts = write_parts(tmp_path / "in", documents, 2)
    first, removed = deduplicate(tmp_path / "one", {"method": "exact", "normalize": "none"}, parts)
    assert removed == {3: "d0", 4: "d2"}
    for part in parts:
        part["removals"] = [first["removals"][str(part["ordinal"])]]
    second, removed = deduplicate(tmp_path / "two", {"method": "exact"}, parts)
    assert removed == {1: "d0"} and second["documents"] == 3


def test_sources_lost_to_each_other_are_counted(tmp_path) -> None:
    documents = [{"text": t} for t in ("x y", "x y", "x y", "z")]
    parts = write_parts(tmp_path / "in", documents, 1, ("web", "books"))
    summary, _ = deduplicate(tmp_path / "out", {"method": "exact"}, parts)
    assert summary["lost"] == [["books", "web", 1], ["web", "web", 1]]


def test_unexpected_removal_stops_the_run(tmp_path) -> None:
    parts = write_parts(tmp_path / "in", [{"text": "x y"}] * 4, 2)
    with pytest.raises(UserError, match=r"removed 75\.00% of 4 documents"):
        deduplicate(tmp_path / "out", {"method": "exact", "expected_removal": [0, 0.5]}, parts)


def test_missing_measure_and_broken_part_are_named(tmp_path) -> None:
    parts = write_parts(tmp_path / "in", [{"text": "x y"}] * 4, 2)
    with pytest.raises(InputError, match=r"00000\.parquet: the part has no column 'quality\.score'"):
        deduplicate(tmp_path / "a", {"method": "exact", "keep": "best", "best": "quality.score"}, parts)
    (tmp_path / "in" / "00001.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(InputError, match=r"00001\.parquet: not a readable Parquet part"):
        deduplicate(tmp_path / "b", {"method": "exact"}, parts)


def test_real_documents(tmp_path, shared_data) -> None:
    extra = [t for name in ("c4", "wiki-fr", "code") for t in shared_texts(shared_data, name, 60_000)][:200]
    documents = corpus(random.Random(13), extra)
    for spec in ({"method": "exact"}, {"method": "minhash"}):
        parts = write_parts(tmp_path / spec["method"], documents, 50)
        assert deduplicate(tmp_path / f"{spec['method']}-out", spec, parts)[1] == expected(documents, spec)
