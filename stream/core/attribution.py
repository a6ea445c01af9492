"""How does a model share a conversion among its touches? Pure arithmetic on journeys in their order."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from stream.core.credit import WHOLE_CREDIT, Credit, apportion
from stream.core.models import ModelType, Weighting

_HOUR_SECONDS = 3600


class TouchCredit(NamedTuple):
    """One row of 202_attribution_touchpoints."""

    place: int  # index of the touch in its journey
    position: int  # as it is stored
    credit: Credit


def credit_touches(
    weighting: Weighting, *, conv_time: int, converting: int, click_times: Sequence[int]
) -> Sequence[TouchCredit]:
    """The touches of weight above 0, in order; their credits sum to the whole, and one may have rounded to nothing.

    `converting` is the index of the converting click. Credit always belongs to touches, never to what is left over.
    """
    count = len(click_times)
    if weighting.type is not ModelType.TIME_DECAY:
        return _credit_by_place(weighting, count, converting)
    if count == 1:
        return _WHOLE
    return _credited(_decayed(weighting.half_life_hours, conv_time, click_times))


@lru_cache(maxsize=4096)
def _credit_by_place(weighting: Weighting, count: int, converting: int) -> Sequence[TouchCredit]:
    """Of all types for which only the number and order of touches count."""
    kind = weighting.type
    if kind in (ModelType.LAST_TOUCH, ModelType.ALGORITHMIC):
        # Position 0 wherever the click stands in its journey: old readers know these rows so (D15).
        return (TouchCredit(converting, 0, WHOLE_CREDIT),)
    if count == 1 or kind is ModelType.FIRST_TOUCH:
        return _WHOLE
    if kind is ModelType.LINEAR:
        return _credited([1.0] * count)
    if kind is ModelType.ASSISTED:
        return _credited([1.0] * (count - 1) + [0.0])
    return _credited(_weights_by_position(weighting.first_touch_weight, weighting.last_touch_weight, count))


_WHOLE: Sequence[TouchCredit] = (TouchCredit(0, 0, WHOLE_CREDIT),)


def _credited(weights: Sequence[float]) -> Sequence[TouchCredit]:
    if not any(weights):
        weights = [1.0] * len(weights)
    credits = apportion(weights)
    return tuple(
        TouchCredit(index, index, credit)
        for index, (weight, credit) in enumerate(zip(weights, credits, strict=True))
        if weight > 0
    )


def _weights_by_position(first: float, last: float, count: int) -> Sequence[float]:
    if count == 2:
        return (first, last)
    # Added first: 1.0 - 0.7 - 0.3 would leave dust, and touches of no weight would have rows and be counted.
    middle = (1.0 - (first + last)) / (count - 2)
    return (first, *[middle] * (count - 2), last)


def _decayed(half_life_hours: int, conv_time: int, click_times: Sequence[int]) -> Sequence[float]:
    """Half the weight for each half-life of age; a touch after the conversion is as old as one at it."""
    per_second = -math.log(2) / (half_life_hours * _HOUR_SECONDS)
    return [math.exp(per_second * max(0, conv_time - click_time)) for click_time in click_times]
