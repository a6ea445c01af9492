"""Attribution models: which kinds there are, and which settings each of them takes.

Names, parameters and rules are those of Prosper202, which has no `first_touch` and `linear`: its newer API accepts both
and cannot compute them (D29).
"""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

HALF_LIFE = "half_life_hours"
FIRST_WEIGHT = "first_touch_weight"
LAST_WEIGHT = "last_touch_weight"


class ModelType(StrEnum):
    """Values of 202_attribution_models.model_type."""

    LAST_TOUCH = "last_touch"
    FIRST_TOUCH = "first_touch"
    LINEAR = "linear"
    TIME_DECAY = "time_decay"
    POSITION_BASED = "position_based"
    ASSISTED = "assisted"
    ALGORITHMIC = "algorithmic"  # has no calculation of its own, there or here: credits as last_touch does


_WITHOUT_CONFIG = frozenset({ModelType.LAST_TOUCH, ModelType.FIRST_TOUCH, ModelType.LINEAR, ModelType.ASSISTED})


class InvalidModel(ValueError):
    """The type or its settings cannot be used; the text says why, for the person who wrote them."""


class Weighting(NamedTuple):
    """How credit is shared: a type with its parameters, those of other types being 0."""

    type: ModelType
    half_life_hours: int = 0
    first_touch_weight: float = 0.0
    last_touch_weight: float = 0.0


class Model(NamedTuple):
    """A model that can be computed."""

    model_id: int
    weighting: Weighting


def weighting_of(type_name: str, config: object) -> Weighting:
    """`config` as read from JSON; None is an empty one. Raises InvalidModel."""
    kind = model_type_of(type_name)
    if config is None or config == []:  # PHP writes an empty object as a list
        config = {}
    if not isinstance(config, Mapping):
        raise InvalidModel("the weighting config is not a JSON object")
    if kind in _WITHOUT_CONFIG:
        if config:
            raise InvalidModel(f"{kind} does not accept weighting config")
        return Weighting(kind)
    if not config:
        raise InvalidModel(f"{kind} needs a weighting config")
    if kind is ModelType.TIME_DECAY:
        return Weighting(kind, half_life_hours=_half_life(config))
    if kind is ModelType.POSITION_BASED:
        first, last = _weights(config)
        return Weighting(kind, first_touch_weight=first, last_touch_weight=last)
    return Weighting(kind)


def model_type_of(name: str) -> ModelType:
    """In any case of letters. Raises InvalidModel."""
    try:
        return ModelType(name.strip().lower())
    except ValueError:
        known = ", ".join(ModelType)
        raise InvalidModel(f'model type "{name:.50}" is none of {known}') from None


def _half_life(config: Mapping[str, object]) -> int:
    """Whole hours: fractions are cut off, so that 0.5 is none. Numbers may be text, as in "1e1"."""
    hours = _number(config, HALF_LIFE)
    if not 1 <= hours < 2**31:
        raise InvalidModel(f"{HALF_LIFE} must be a whole number above 0")
    return int(hours)


def _weights(config: Mapping[str, object]) -> tuple[float, float]:
    first, last = _number(config, FIRST_WEIGHT), _number(config, LAST_WEIGHT)
    if not (0 <= first <= 1 and 0 <= last <= 1):
        raise InvalidModel(f"{FIRST_WEIGHT} and {LAST_WEIGHT} must lie between 0 and 1")
    if first + last > 1:
        raise InvalidModel("the sum of first and last touch weights must not be above 1")
    return first, last


def _number(config: Mapping[str, object], name: str) -> float:
    value = config.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise InvalidModel(f"{name} is missing or not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number):
        raise InvalidModel(f"{name} is not a number")
    return number
