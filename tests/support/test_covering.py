"""The covering array covers."""

from typing import Any

from tests.support import covering

FACTORS: dict[str, list[Any]] = {
    "set": ["dense", "sparse"],
    "partitions": [1, 3, 8],
    "order": ["a", "b", "c", "d"],
    "align": [0, 1],
}


def test_pairwise_cases_hold_every_pair_of_values() -> None:
    cases = covering.pairwise(FACTORS)
    assert covering.missing_pairs(FACTORS, cases) == set()
    assert len(cases) < len(covering.product(FACTORS)) / 2


def test_a_pair_that_is_missing_is_named() -> None:
    cases = [case for case in covering.product(FACTORS) if (case["set"], case["partitions"]) != ("dense", 8)]
    assert covering.missing_pairs(FACTORS, cases) == {("set", "dense", "partitions", 8)}


def test_product_holds_every_combination_once() -> None:
    cases = covering.product(FACTORS)
    assert len({covering.label(case) for case in cases}) == len(cases) == 2 * 3 * 4 * 2
