"""The event sets hold what they promise; the oracle's own answer to them does not hang on their order."""

from collections import Counter

from hypothesis import Phase, find, given, settings

from stream.core.events import Click, Conversion
from tests.support.oracle import expected
from tests.support.strategies import Event, as_record, chunked, crowded_event_sets, event_sets


@given(event_sets())
def test_event_sets_are_readable_free_of_conflicts_and_of_rekeyed_ids(events: list[Event]) -> None:
    rows = expected(as_record(event) for event in events)
    assert rows.dead_letters == []
    assert rows.conflicts == frozenset()


@given(event_sets())
def test_order_does_not_matter_to_the_oracle(events: list[Event]) -> None:
    forwards = expected(as_record(event) for event in events)
    backwards = expected(as_record(event) for event in reversed(events))
    assert (forwards.touchpoints, forwards.journeys) == (backwards.touchpoints, backwards.journeys)


@given(event_sets())
def test_the_oracle_reads_back_the_very_events(events: list[Event]) -> None:
    for event in events:
        rows = expected([as_record(event)])
        standing = rows.clicks if isinstance(event, Click) else rows.conversions
        (found,) = standing.values()
        for name, value in event._asdict().items():
            amount = name in ("click_cpc", "click_payout") and value is not None
            assert getattr(found, name) == value or amount
            assert not amount or getattr(found, name) * 100_000 == value


def test_crowded_sets_reach_the_cap() -> None:
    def is_full(events: list[Event]) -> bool:
        rows = expected(as_record(event) for event in events)
        return max(Counter(row.conv_id for row in rows.touchpoints).values(), default=0) >= 25

    find(crowded_event_sets(), is_full, settings=settings(max_examples=500, database=None, phases=[Phase.generate]))


@given(event_sets().flatmap(chunked))
def test_chunks_hold_whole_events(chunks: list[list[Event]]) -> None:
    assert all(isinstance(event, Click | Conversion) for chunk in chunks for event in chunk)


@given(event_sets(conflicts=True))
def test_sets_with_conflicts_hold_no_rekeyed_ids(events: list[Event]) -> None:
    assert expected(as_record(event) for event in events).dead_letters == []
