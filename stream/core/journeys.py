"""Which touches a conversion has: the reference's rules without a visitor, stricter ones with."""

from collections.abc import Sequence
from typing import NamedTuple

from stream.core.events import Click, Conversion
from stream.core.facts import Moment, Touch, touch_of
from stream.core.keys import JourneyKey

JOURNEY_LIMIT = 25

_ANY_ID = 2**63 - 1


class Window(NamedTuple):
    """Where candidates lie: `since` is a time and included, and so is the moment `until`."""

    since: int
    until: Moment


def converting_touch(conversion: Conversion, click: Click | None) -> Touch:
    """The touch of the converting click; of an unknown one, what the conversion says of it."""
    if click is not None:
        return touch_of(click)
    return Touch(conversion.click_time, conversion.click_id, 0, 0, 0, 0)


def window_of(conversion: Conversion, key: JourneyKey, converting: Touch, lookback: int) -> Window:
    """Both ends of the lookback count. A visitor's journey also ends with the click that converted."""
    until = Moment(conversion.conv_time, _ANY_ID)
    if key.names_visitor:
        until = min(until, converting.moment)
    return Window(max(0, conversion.conv_time - lookback), until)


def assemble(key: JourneyKey, newest: Sequence[Touch], converting: Touch) -> tuple[Touch, ...]:
    """The journey of a conversion, from the newest 25 candidates of its window in ascending order.

    The converting click belongs to it wherever and whenever it was. The reference adds it as a twenty-sixth touch; a
    visitor's journey keeps the limit and gives up its oldest touch instead.
    """
    if converting.click_id in [touch.click_id for touch in newest]:
        return tuple(newest)
    room = JOURNEY_LIMIT - 1 if key.names_visitor else JOURNEY_LIMIT
    return tuple(sorted([*newest[-room:], converting]))
