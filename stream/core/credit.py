"""Credit: what share of a conversion each touch earned, in whole parts that sum to the whole.

Weights are floats and end here. Both ways of sharing give every part to somebody, by largest remainder, the earlier
touch first between equals; nothing is rounded away and nothing repaired afterwards.
"""

import math
from collections.abc import Sequence
from typing import NewType

from stream.core.money import Units

Credit = NewType("Credit", int)  # 1 = 0.00001, the finest step of DECIMAL(10,5)

WHOLE_CREDIT = Credit(100_000)


def apportion(weights: Sequence[float]) -> tuple[Credit, ...]:
    """Share WHOLE_CREDIT by weight. Raises ValueError for a weight below 0 or not finite, or if none is above 0."""
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"weights must be finite and not below 0: {list(weights)}")
    ratios = [weight.as_integer_ratio() for weight in map(float, weights)]
    # Denominators are powers of two: brought to the greatest one, weights are exact whole numbers.
    common = max((denominator for _, denominator in ratios), default=1)
    wholes = [numerator * (common // denominator) for numerator, denominator in ratios]
    if not sum(wholes):
        raise ValueError("no weight is above 0")
    return tuple(Credit(part) for part in _shares(WHOLE_CREDIT, wholes))


def split(amount: Units, credits: Sequence[Credit]) -> tuple[Units, ...]:
    """Share an amount, also a negative one, by credits that sum to WHOLE_CREDIT."""
    assert sum(credits) == WHOLE_CREDIT, "credits of one conversion sum to the whole"
    sign = -1 if amount < 0 else 1
    return tuple(Units(sign * part) for part in _shares(abs(amount), credits))


def _shares(total: int, weights: Sequence[int]) -> list[int]:
    whole = sum(weights)
    shares = [total * weight // whole for weight in weights]
    remainders = [total * weight % whole for weight in weights]
    left = total - sum(shares)
    # sorted() keeps the order of equals: the earlier touch comes first.
    for index in sorted(range(len(weights)), key=lambda index: -remainders[index])[:left]:
        shares[index] += 1
    return shares
