"""Hours at work: the counted conversions of one account and hour, and their totals by model and scope.

Totals follow the conversions one by one, exactly: what a conversion added is taken away again to the last unit.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from stream.core.attribution import TouchCredit, credit_touches
from stream.core.configuration import Configuration
from stream.core.facts import Touch
from stream.core.models import Model
from stream.core.money import Units
from stream.core.totals import NOTHING, Earner, ScopeKey, Total, scope_totals

HOUR_SECONDS = 3600

# An earner in memory: 60 bytes and 28 for each touch, where tuples of numbers would take ten times that.
_HEAD = struct.Struct("<IIQIIIIqq")
_TOUCH = struct.Struct("<IQIIII")

_MOST_CLICKS = 2**32 - 1
_MOST_STEPS = 10**12  # of 0.0001: the first number that does not fit DECIMAL(12,4)
_UNITS_A_STEP = 10


class HourKey(NamedTuple):
    """A window: an account, and the first second of an hour in UTC."""

    user_id: int
    date_hour: int


class CreditRow(NamedTuple):
    """A row of 202_attribution_touchpoints, by model instead of snapshot."""

    model_id: int
    conv_id: int
    click_id: int
    position: int
    credit: int  # 1 = 0.00001


class CreditedAs(NamedTuple):
    """What credits and totals took of a conversion, for readers: its journey may have changed since."""

    version: int
    payout: Units
    cost: Units
    conv_time: int


class Hour:
    """In memory, as it stood at a revision of its row in SQL."""

    def __init__(self, configuration: Configuration, *, with_extra_scopes: bool) -> None:
        self.revision = 0
        self.configuration = configuration
        self.totals: dict[ScopeKey, Total] = {}
        self.changed: set[ScopeKey] = set()  # since `settle` was called last
        self._with_extra_scopes = with_extra_scopes
        self._earners: dict[int, bytes] = {}

    def __len__(self) -> int:
        return len(self._earners)

    def __contains__(self, conv_id: int) -> bool:
        return conv_id in self._earners

    def conv_ids(self) -> Iterable[int]:
        return self._earners.keys()

    def version(self, conv_id: int) -> int | None:
        """Of the journey that is counted in."""
        packed = self._earners.get(conv_id)
        return None if packed is None else int(_HEAD.unpack_from(packed)[1])

    def credited_as(self, conv_id: int) -> CreditedAs | None:
        """None where it is not counted in."""
        packed = self._earners.get(conv_id)
        if packed is None:
            return None
        _, version, _, conv_time, _, _, _, payout, cost = _HEAD.unpack_from(packed)
        return CreditedAs(version, payout, cost, conv_time)

    def put(self, earner: Earner) -> None:
        self.remove(earner.conv_id)
        self._earners[earner.conv_id] = _pack(earner)
        self._count(earner, 1)

    def remove(self, conv_id: int) -> None:
        packed = self._earners.pop(conv_id, None)
        if packed is not None:
            self._count(_unpack(packed), -1)

    def credits_of(self, conv_id: int, models: Sequence[Model]) -> Iterator[CreditRow]:
        """By model, then position."""
        earner = _unpack(self._earners[conv_id])
        for model in models:
            for place, position, credit in _credits(earner, model):
                yield CreditRow(model.model_id, conv_id, earner.touches[place].click_id, position, credit)

    def settle(self) -> None:
        """Totals as they are now have been written."""
        self.changed.clear()

    def too_great(self) -> dict[int, str]:
        """Models with a total that the columns cannot hold, with the reason."""
        problems: dict[int, str] = {}
        for key, total in self.totals.items():
            steps = max(abs(steps_of(total.revenue)), abs(steps_of(total.cost)))
            if total.clicks > _MOST_CLICKS or steps >= _MOST_STEPS:
                problems[key.model_id] = f"a total of scope {key.scope} is too great for its column"
        return problems

    def _count(self, earner: Earner, sign: int) -> None:
        totals, changed = self.totals, self.changed
        for model in self.configuration.models:
            credits = _credits(earner, model)
            for scope, scope_id, part in scope_totals(earner, credits, with_extra_scopes=self._with_extra_scopes):
                key = ScopeKey(model.model_id, scope, scope_id)
                total = totals.get(key, NOTHING).plus(part, sign)
                changed.add(key)
                if total.conversions:
                    totals[key] = total
                else:
                    assert total == NOTHING, "what was counted in is taken out exactly"
                    totals.pop(key, None)


def _credits(earner: Earner, model: Model) -> Sequence[TouchCredit]:
    return credit_touches(
        model.weighting,
        conv_time=earner.conv_time,
        converting=earner.converting,
        click_times=[touch[0] for touch in earner.touches],
    )


def steps_of(units: Units) -> int:
    """Steps of 0.0001, in which totals are stored: rounded once, half away from zero, as DECIMAL is in MySQL."""
    steps = (abs(units) + _UNITS_A_STEP // 2) // _UNITS_A_STEP
    return -steps if units < 0 else steps


def final_before(watermark: int, allowed_lateness: int) -> int:
    """Hours that begin earlier than this are final. `watermark` is the least of all partitions of the sources."""
    return watermark - allowed_lateness - HOUR_SECONDS + 1


def snapshot_key(hour: HourKey, key: ScopeKey) -> str:
    """Of a record of the attribution-snapshots topic."""
    return f"{hour.user_id}:{key.model_id}:{hour.date_hour}:{key.scope}:{key.scope_id}"


def credit_key(hour: HourKey, model_id: int, conv_id: int, position: int) -> str:
    """Of a record of the attribution-credits topic."""
    return f"{hour.user_id}:{model_id}:{hour.date_hour}:{conv_id}:{position}"


def _pack(earner: Earner) -> bytes:
    head = _HEAD.pack(*earner[:9])
    return head + b"".join([_TOUCH.pack(*touch) for touch in earner.touches])


def _unpack(packed: bytes) -> Earner:
    touches = [Touch._make(each) for each in _TOUCH.iter_unpack(packed[_HEAD.size :])]
    return Earner._make((*_HEAD.unpack_from(packed), touches))
