"""What must stand in SQL for a given log? One plain batch computation over all records.

It is written from the design alone and shares no code with the product, so that one mistake cannot hide in both.
Plain and obvious on purpose: every journey is computed from all clicks of its key, once, at the end.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Generic, Literal, NamedTuple, TypeVar

from tests.support.oracle_events import Click, Conversion, Unusable, read_click, read_conversion

LOOKBACK = 30 * 86400
MOST_TOUCHES = 25

Outcome = Literal["counted", "deleted", "duplicate"]


class Touchpoint(NamedTuple):
    """A row of 202_conversion_touchpoints."""

    conv_id: int
    position: int
    click_id: int
    click_time: int


class ConversionLog(NamedTuple):
    """A row of 202_conversion_logs, in the columns that the events decide alone."""

    conv_id: int
    click_id: int
    transaction_id: str | None
    campaign_id: int
    click_payout: Decimal
    user_id: int
    conv_time: int


class JourneyRow(NamedTuple):
    """A row of 202_stream_journeys, as far as it says what the conversion came to."""

    conv_id: int
    outcome: Outcome
    click_unknown: bool


class DeadLetter(NamedTuple):
    """Which of the given records could not be taken, and a word on why (not the product's reason)."""

    at: int  # counted from 0
    why: str


@dataclass(frozen=True, slots=True)
class ExpectedRows:
    """All sorted by their first fields."""

    touchpoints: Sequence[Touchpoint]
    conversion_logs: Sequence[ConversionLog]
    journeys: Sequence[JourneyRow]
    clicks: Mapping[int, Click]
    conversions: Mapping[int, Conversion]
    dead_letters: Sequence[DeadLetter]
    # ("click" or "conversion", id) whose winner only the digest of the fields can tell: there the oracle may be wrong.
    conflicts: frozenset[tuple[str, int]]


_Event = TypeVar("_Event", Click, Conversion)


def expected(records: Iterable[tuple[str, bytes | None, int]]) -> ExpectedRows:
    """What the log comes to. The order of records decides nothing, except which of two rekeyed ones is stored."""
    clicks: _Merge[Click] = _Merge("click")
    conversions: _Merge[Conversion] = _Merge("conversion")
    dead_letters: list[DeadLetter] = []
    for index, (topic, value, append_time) in enumerate(records):
        try:
            if topic.endswith("clicks"):
                click = read_click(value, append_time)
                clicks.add(click.click_id, click)
            else:
                conversion = read_conversion(value, append_time)
                conversions.add(conversion.conv_id, conversion)
        except Unusable as error:
            dead_letters.append(DeadLetter(index, str(error)))
    journeys = _journeys(clicks.standing, conversions.standing)
    counted = [conversions.standing[row.conv_id] for row in journeys if row.outcome == "counted"]
    return ExpectedRows(
        touchpoints=_touchpoints(clicks.standing, counted),
        conversion_logs=[_conversion_log(conversion) for conversion in counted],
        journeys=journeys,
        clicks=clicks.standing,
        conversions=conversions.standing,
        dead_letters=dead_letters,
        conflicts=clicks.conflicts() | conversions.conflicts(),
    )


# Which report of an id stands?


@dataclass(slots=True)
class _Merge(Generic[_Event]):
    """The same id again: the greatest rank wins. Who would move the id elsewhere is refused."""

    kind: str
    standing: dict[int, _Event] = field(default_factory=dict)
    _contents: dict[int, set[_Event]] = field(default_factory=lambda: defaultdict(set))

    def add(self, identity: int, event: _Event) -> None:
        standing = self.standing.get(identity)
        if standing is not None and standing.is_rekeyed(event):
            raise Unusable("rekeyed")
        self._contents[identity].add(event)
        # Of equal ranks the greatest content: a choice as good as any, and the same in every order of arrival.
        if standing is None or (standing.rank(), repr(standing)) < (event.rank(), repr(event)):
            self.standing[identity] = event

    def conflicts(self) -> frozenset[tuple[str, int]]:
        return frozenset(
            (self.kind, identity)
            for identity, contents in self._contents.items()
            if sum(event.rank() == self.standing[identity].rank() for event in contents) > 1
        )


# What does a conversion come to?


def _journeys(clicks: Mapping[int, Click], conversions: Mapping[int, Conversion]) -> list[JourneyRow]:
    rivals: dict[tuple[int, str], list[Conversion]] = defaultdict(list)
    for conversion in conversions.values():
        if conversion.transaction_id and not conversion.deleted:
            rivals[conversion.click_id, conversion.transaction_id].append(conversion)
    found = []
    for conversion in sorted(conversions.values()):
        outcome: Outcome = "counted"
        if conversion.deleted:
            outcome = "deleted"
        elif conversion.transaction_id:
            same = rivals[conversion.click_id, conversion.transaction_id]
            winner = min(same, key=lambda rival: (rival.conv_time, rival.conv_id))
            outcome = "counted" if winner is conversion else "duplicate"
        found.append(JourneyRow(conversion.conv_id, outcome, conversion.click_id not in clicks))
    return found


def _conversion_log(conversion: Conversion) -> ConversionLog:
    return ConversionLog(
        conv_id=conversion.conv_id,
        click_id=conversion.click_id,
        transaction_id=conversion.transaction_id or None,
        campaign_id=conversion.campaign_id,
        click_payout=conversion.click_payout,
        user_id=conversion.user_id,
        conv_time=conversion.conv_time,
    )


class _Place(NamedTuple):
    """Where a click stands among others."""

    click_time: int
    click_id: int


def _touchpoints(clicks: Mapping[int, Click], counted: Sequence[Conversion]) -> list[Touchpoint]:
    places_by_key = _places_by_key(clicks)
    found = []
    for conversion in counted:
        converting = clicks.get(conversion.click_id)
        visitor = (converting.visitor_id if converting else "") or conversion.visitor_id
        candidates = _within(
            places_by_key[conversion.user_id, conversion.campaign_id, visitor],
            conversion.conv_time - LOOKBACK,
            conversion.conv_time,
        )
        # The click's own time where it is known; else all that is known of it is what the conversion says.
        own = _Place(converting.click_time if converting else conversion.click_time, conversion.click_id)
        places = _visitor_places(candidates, own) if visitor else _campaign_places(candidates, own)
        found += [
            Touchpoint(conversion.conv_id, position, place.click_id, place.click_time)
            for position, place in enumerate(places)
        ]
    return found


def _places_by_key(clicks: Mapping[int, Click]) -> Mapping[tuple[int, int, str], list[_Place]]:
    """In order. Where the key names a visitor, bots are left out."""
    found: dict[tuple[int, int, str], list[_Place]] = defaultdict(list)
    for click in clicks.values():
        if not (click.visitor_id and click.click_bot):
            key = click.user_id, click.campaign_id, click.visitor_id
            found[key].append(_Place(click.click_time, click.click_id))
    for places in found.values():
        places.sort()
    return found


def _within(places: Sequence[_Place], first: int, last: int) -> Sequence[_Place]:
    """Both ends are inside."""
    start = bisect_left(places, first, key=lambda place: place.click_time)
    end = bisect_right(places, last, key=lambda place: place.click_time)
    return places[start:end]


def _campaign_places(candidates: Sequence[_Place], own: _Place) -> Sequence[_Place]:
    """The newest 25, and the converting click even so: up to 26. Bots are in, and so is what came after it."""
    return sorted({*candidates[-MOST_TOUCHES:], own})


def _visitor_places(candidates: Sequence[_Place], own: _Place) -> Sequence[_Place]:
    """The newest 25 that are not later than the converting click, which is always one of the 25."""
    before = candidates[: bisect_left(candidates, own)]
    return [*before[-(MOST_TOUCHES - 1) :], own]
