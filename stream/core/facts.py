"""What SQL holds and is asked for: stored journeys, the needs of a fold, and the answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from stream.core.events import Click, Conversion
from stream.core.keys import JourneyKey
from stream.core.money import Units


class Moment(NamedTuple):
    """A place in the order of clicks: time first, and the id decides between equal times."""

    click_time: int
    click_id: int


class Touch(NamedTuple):
    """A click as it stands in a journey, with the scopes that share in its credit. Tuple order is journey order."""

    click_time: int
    click_id: int
    ppc_account_id: int
    ppc_network_id: int
    landing_page_id: int
    text_ad_id: int

    @property
    def moment(self) -> Moment:
        return Moment(self.click_time, self.click_id)


def touch_of(click: Click) -> Touch:
    return Touch(
        click.click_time,
        click.click_id,
        click.ppc_account_id,
        click.ppc_network_id,
        click.landing_page_id,
        click.text_ad_id,
    )


class Outcome(StrEnum):
    """What a conversion came to. Only a counted one has touchpoints and earns."""

    COUNTED = "counted"
    DELETED = "deleted"
    DUPLICATE = "duplicate"  # another conversion of the same click and transaction counts


class Journey(NamedTuple):
    """One row of 202_stream_journeys: the conversion as it stands, and what was made of it."""

    conversion: Conversion
    visitor_id: str  # of the journey key; '' for the campaign identity
    outcome: Outcome
    click_unknown: bool  # the converting click has not been seen: its touch rests on the conversion's word
    incomplete: bool  # history that could have given touches is missing
    click_cpc: Units  # cost: the conversion's own, else its click's, else 0
    ppc_account_id: int  # of the converting click
    aff_network_id: int  # the conversion's own, else its click's
    touches: tuple[Touch, ...]  # position is the index; empty unless counted
    version: int  # 1 when first stored, one more for each change; never the same again, see docs/decisions/0014
    purged: bool = False  # removed by hand: its converting click alone is left, and no touchpoint is shown

    @property
    def key(self) -> JourneyKey:
        return JourneyKey(self.conversion.user_id, self.conversion.campaign_id, self.visitor_id)

    @property
    def date_hour(self) -> int:
        """First second of the hour, UTC, that the conversion counts in."""
        return self.conversion.conv_time - self.conversion.conv_time % 3600


class HistoryNeed(NamedTuple):
    """The newest `limit` clicks of a key at or before `until`, bots left out where the key names a visitor."""

    key: JourneyKey
    until: Moment
    limit: int


class EnteredNeed(NamedTuple):
    """The stored conversions of a journey key with conv_time in [since, until]."""

    key: JourneyKey
    since: int
    until: int


@dataclass(frozen=True, slots=True)
class Needs:
    """Which facts SQL must give; one statement each for a whole chunk."""

    conversions: frozenset[int] = frozenset()  # by conv_id
    conversions_of_clicks: frozenset[int] = frozenset()  # every conversion that names one of these click ids
    clicks: frozenset[int] = frozenset()  # by click_id
    entered: Sequence[EnteredNeed] = ()
    histories: Sequence[HistoryNeed] = ()
    with_credited: bool = False  # also what is left of those of `conversions` that have no journey


@dataclass(frozen=True, slots=True)
class Facts:
    """The answers: only what was found."""

    journeys: Mapping[int, Journey] = field(default_factory=dict)  # by conv_id, from all three ways of asking
    clicks: Mapping[int, Click] = field(default_factory=dict)
    histories: Mapping[HistoryNeed, Sequence[Touch]] = field(default_factory=dict)  # newest first
    # Versions that hours hold credits of, by conversions without a journey: somebody deleted it by hand.
    credited: Mapping[int, int] = field(default_factory=dict)
