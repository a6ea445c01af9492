"""Small sets of events for hypothesis, in which ties, window edges, revisions and duplicates are the rule.

Two users, few campaigns, visitors and click ids, and times on a coarse grid around the edges of the lookback window.
The events are those of `stream.core`; `as_record` writes one as JSON for the oracle, by plain formatting.
"""

import itertools
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from stream.core.events import Click, Conversion
from stream.core.money import Units
from tests.support.oracle_events import Record

Event = Click | Conversion

DAY = 86400
LOOKBACK = 30 * DAY
BASE = 1_700_000_000
# Both sides of the lookback's end, ties, and neighbours by one second, seen from a conversion at BASE + LOOKBACK.
GRID = (0, 1, 2, DAY, LOOKBACK - 1, LOOKBACK, LOOKBACK + 1, LOOKBACK + 2, LOOKBACK + DAY)

CLICK_IDS = range(1, 9)
CONV_IDS = range(1, 5)
VISITORS = ("", "", "v", "V")
TRANSACTIONS = ("", "", "t", "T")
CAMPAIGNS = (11, 11, 11, 12)
USERS = (1, 1, 1, 2)

times = st.sampled_from([BASE + step for step in GRID])
revisions = st.sampled_from([0, 0, 1, 2])
flags = st.sampled_from([0, 0, 0, 1])
scopes = st.sampled_from([0, 1, 2])
amounts = st.sampled_from([0, 1, 100_000, 3_333_333, -1_250_000]).map(Units)
costs = st.sampled_from([0, 61_565, 100_000]).map(Units)


def clicks() -> SearchStrategy[Click]:
    """Any click; two of one id may contradict each other in every field."""
    return st.builds(
        Click,
        click_id=st.sampled_from(CLICK_IDS),
        user_id=st.sampled_from(USERS),
        campaign_id=st.sampled_from([*CAMPAIGNS, 0]),
        click_time=times,
        click_cpc=costs,
        visitor_id=st.sampled_from(VISITORS),
        ppc_account_id=scopes,
        ppc_network_id=st.just(0),
        landing_page_id=scopes,
        text_ad_id=st.just(0),
        aff_network_id=st.just(0),
        click_bot=flags,
        click_filtered=flags,
        revised_at=revisions,
    )


def conversions() -> SearchStrategy[Conversion]:
    """Any conversion; click 99 is one that never comes."""
    return st.builds(
        Conversion,
        conv_id=st.sampled_from(CONV_IDS),
        click_id=st.sampled_from([*CLICK_IDS, 99]),
        user_id=st.sampled_from(USERS),
        campaign_id=st.sampled_from(CAMPAIGNS),
        click_time=times,
        conv_time=times,
        click_payout=amounts,
        click_cpc=st.none() | costs,
        visitor_id=st.sampled_from(VISITORS),
        transaction_id=st.sampled_from(TRANSACTIONS),
        aff_network_id=st.just(0),
        deleted=flags,
        revised_at=revisions,
    )


@st.composite
def event_sets(draw: st.DrawFn, *, most: int = 30, conflicts: bool = False) -> list[Event]:
    """Events in order of arrival, some more than once. No id is rekeyed: the order must decide nothing.

    Without `conflicts` no two contents of one id have equal ranks, so that the oracle knows which one stands.
    """
    found = draw(st.lists(clicks() | conversions(), max_size=most))
    settled = _without_moves(found)
    if not conflicts:
        settled = list({_rank(event): event for event in settled}.values())
    again = draw(st.lists(st.sampled_from(settled), max_size=5)) if settled else []
    return draw(st.permutations([*settled, *again]))


@st.composite
def crowded_event_sets(draw: st.DrawFn, *, most: int = 60) -> list[Event]:
    """Many clicks of one key and a few conversions of it, so that the cap of 25 touches bites."""
    visitor_id = draw(st.sampled_from(["", "v"]))
    count = draw(st.integers(min_value=20, max_value=most))
    drawn = draw(st.lists(clicks(), min_size=count, max_size=count))
    crowd: list[Event] = [
        click._replace(click_id=click_id, user_id=1, campaign_id=11, visitor_id=visitor_id)
        for click_id, click in enumerate(drawn, start=100)
    ]
    converted = draw(st.lists(st.integers(min_value=100, max_value=100 + count), min_size=1, max_size=4))
    for conv_id, click_id in enumerate(converted, start=1):
        conversion = draw(conversions())
        crowd.append(conversion._replace(conv_id=conv_id, user_id=1, campaign_id=11, click_id=click_id))
    return draw(st.permutations(crowd))


def chunked(events: list[Event]) -> SearchStrategy[list[list[Event]]]:
    """The same events in the same order, cut into chunks at any places."""
    cuts = st.lists(st.integers(min_value=0, max_value=len(events)), max_size=6).map(sorted)
    return cuts.map(lambda places: _cut(events, places))


def as_record(event: Event) -> Record:
    """The event as a record of the log, appended at a time at which no event is too far ahead."""
    topic = "clicks" if isinstance(event, Click) else "conversions"
    # Amounts are written as text by plain arithmetic; the oracle reads them as decimals.
    fields: dict[str, Any] = {
        name: f"{Decimal(value).scaleb(-5):f}" if name in ("click_cpc", "click_payout") else value
        for name, value in event._asdict().items()
        if value is not None
    }
    return Record(topic, json.dumps(fields).encode(), BASE + LOOKBACK + DAY)


def _cut(events: list[Event], places: list[int]) -> list[list[Event]]:
    edges = [0, *places, len(events)]
    return [events[start:end] for start, end in itertools.pairwise(edges)]


def _identity(event: Event) -> tuple[str, int]:
    return ("click", event.click_id) if isinstance(event, Click) else ("conversion", event.conv_id)


def _without_moves(events: list[Event]) -> list[Event]:
    """Give all reports of one id the place that the first one names; campaign 0 may stay, it is no move."""
    places: dict[tuple[str, int], Mapping[str, int]] = {}
    settled: list[Event] = []
    for event in events:
        if isinstance(event, Click):
            own = {"user_id": event.user_id, "campaign_id": event.campaign_id or CAMPAIGNS[0]}
            place = places.setdefault(_identity(event), own)
            campaign_id = place["campaign_id"] if event.campaign_id else 0
            settled.append(event._replace(user_id=place["user_id"], campaign_id=campaign_id))
        else:
            own = {"user_id": event.user_id, "campaign_id": event.campaign_id, "click_id": event.click_id}
            place = places.setdefault(_identity(event), own)
            user_id, campaign_id, click_id = place["user_id"], place["campaign_id"], place["click_id"]
            settled.append(event._replace(user_id=user_id, campaign_id=campaign_id, click_id=click_id))
    return settled


def _rank(event: Event) -> tuple[Any, ...]:
    if isinstance(event, Click):
        return *_identity(event), event.campaign_id > 0, event.revised_at
    return *_identity(event), event.revised_at, event.deleted
