"""What a recipe may say of dedup."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from stages.dedup.spec import Bff, MinHash, read_spec
from stages.errors import UserError
from stages.marks import in_key


def test_the_method_decides_which_keys_there_are() -> None:
    assert read_spec({"method": "minhash", "bands": 93, "rows": 15}).rows == 15
    assert isinstance(read_spec({"method": "bff"}), Bff)
    for wrong in (
        {"method": "exact", "bands": 14},
        {"method": "bff", "keep": "first"},
        {"method": "minhash", "fp_rate": 0.1},
        {"method": "simhash"},
        {"ngram": 5},
        {"method": "minhash", "verify": 1.5},
        {"method": "minhash", "normalize": "none"},
        {"method": "bff", "threshold": -0.1},
        {"method": "bff", "fp_rate": 0},
    ):
        with pytest.raises(ValidationError):
            read_spec(wrong)


def test_best_goes_with_its_measure() -> None:
    assert read_spec({"method": "exact", "keep": "best", "best": "quality.score"}).best == "quality.score"
    for wrong in ({"keep": "best"}, {"keep": "longest", "best": "quality.score"}):
        with pytest.raises(ValidationError, match="go together"):
            read_spec({"method": "exact", **wrong})


def test_defaults_are_those_of_the_sources() -> None:
    minhash, bff = MinHash(method="minhash"), Bff(method="bff")
    assert (minhash.ngram, minhash.bands, minhash.rows, minhash.normalize) == (5, 14, 8, "simple")
    assert (bff.ngram, bff.threshold, bff.fp_rate, bff.mode) == (13, 0.8, 0.01, "old-both")


def test_keys_hold_what_changes_results_and_nothing_else() -> None:
    same = [{"partitions": 5}, {"memory": 1 << 30}, {"partition_bytes": 1 << 24}, {"expected_removal": [0, 0.5]}]
    plain = in_key(read_spec({"method": "minhash"}))
    assert all(in_key(read_spec({"method": "minhash", **change})) == plain for change in same)
    assert in_key(read_spec({"method": "minhash", "seed": 2})) != plain


def test_partitions_follow_from_documents_and_bytes() -> None:
    assert read_spec({"method": "minhash"}).partition_count(1000) == 1
    assert read_spec({"method": "minhash", "partition_bytes": 1 << 20}).partition_count(100_000) == 22
    assert read_spec({"method": "minhash", "partitions": 3}).partition_count(10**9) == 3


def test_removal_far_from_expectation_is_an_error() -> None:
    spec = read_spec({"method": "exact", "expected_removal": [0.1, 0.3]})
    spec.check_removal(10, 100)
    spec.check_removal(30, 100)
    spec.check_removal(0, 0)
    for removed in (9, 31):
        with pytest.raises(UserError, match="expected_removal"):
            spec.check_removal(removed, 100)
    with pytest.raises(ValidationError, match="above"):
        read_spec({"method": "exact", "expected_removal": [0.5, 0.1]})
