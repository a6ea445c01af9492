"""A few cases in which every value of each factor meets every value of each other one."""

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

from allpairspy import AllPairs  # type: ignore[import-untyped]

Case = dict[str, Any]


def pairwise(factors: Mapping[str, Sequence[Any]]) -> list[Case]:
    """Cases (factor: value) that hold all pairs of values of any two factors; always the same for the same factors."""
    names = list(factors)
    return [dict(zip(names, values, strict=True)) for values in AllPairs([list(factors[name]) for name in names])]


def product(factors: Mapping[str, Sequence[Any]], *, seed: int = 0) -> list[Case]:
    """Every combination, in an order without regularity, so that a run cut short has still seen all values."""
    names = list(factors)
    cases = [dict(zip(names, values, strict=True)) for values in itertools.product(*factors.values())]
    return random.Random(seed).sample(cases, len(cases))


def missing_pairs(factors: Mapping[str, Sequence[Any]], cases: Sequence[Case]) -> set[tuple[str, Any, str, Any]]:
    """The pairs of values that no case holds."""
    wanted = {
        (one, value, other, other_value)
        for one, other in itertools.combinations(factors, 2)
        for value, other_value in itertools.product(factors[one], factors[other])
    }
    found = {
        (one, case[one], other, case[other]) for case in cases for one, other in itertools.combinations(factors, 2)
    }
    return wanted - found


def label(case: Case) -> str:
    """A test id a person can read and type."""
    return "-".join(f"{name}:{value}" for name, value in case.items()).replace(" ", "_")
