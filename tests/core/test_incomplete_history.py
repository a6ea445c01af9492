"""Clicks from before the beginning of log and SQL: what was stored of them stands in, and the journey says so."""

from stream.core.events import Click, Conversion
from stream.core.fold import fold
from stream.core.folding import Place
from stream.core.money import Units
from tests.support.builders import click, conversion
from tests.support.memory_facts import MemoryFacts

LOOKBACK = 1000
KNOWN_FROM = 500


def folded(facts: MemoryFacts, *events: Click | Conversion, history_from: int) -> None:
    place = Place(0, 1, LOOKBACK, newest_conversion=10_000, history_from=history_from)
    clicks = [event for event in events if isinstance(event, Click)]
    conversions = [event for event in events if isinstance(event, Conversion)]
    facts.write(facts.run(fold(place, lambda _: None, clicks, conversions)).journeys)


def test_touches_that_are_gone_from_sql_stay_in_a_journey_that_is_computed_again() -> None:
    facts = MemoryFacts()
    sale = conversion(1, click_id=3, conv_time=1200)
    folded(facts, click(1, click_time=300), click(3, click_time=1100), sale, history_from=0)
    assert not facts.journeys[1].incomplete
    del facts.clicks[1]
    folded(facts, click(2, click_time=600), sale, history_from=KNOWN_FROM)
    journey = facts.journeys[1]
    assert [touch.click_id for touch in journey.touches] == [1, 2, 3]
    assert journey.incomplete


def test_a_window_that_begins_where_history_is_known_is_complete() -> None:
    facts = MemoryFacts()
    folded(facts, click(1, click_time=1600), conversion(1, conv_time=1700), history_from=KNOWN_FROM)
    assert not facts.journeys[1].incomplete


def test_a_journey_of_25_clicks_lacks_nothing_however_early_its_window_begins() -> None:
    facts = MemoryFacts()
    clicks = [click(number, click_time=600 + number) for number in range(1, 26)]
    folded(facts, *clicks, conversion(1, click_id=25, conv_time=700), history_from=KNOWN_FROM)
    assert len(facts.journeys[1].touches) == 25
    assert not facts.journeys[1].incomplete


def test_a_click_that_was_revised_stands_once_and_as_it_is_now() -> None:
    facts = MemoryFacts()
    sale = conversion(1, click_id=3, conv_time=1200)
    early = click(1, click_time=300)
    folded(facts, early, click(3, click_time=1100), sale, history_from=KNOWN_FROM)
    folded(facts, early._replace(ppc_account_id=9, revised_at=1), history_from=KNOWN_FROM)
    assert [(touch.click_id, touch.ppc_account_id) for touch in facts.journeys[1].touches] == [(1, 9), (3, 0)]
    folded(facts, early._replace(click_time=310, revised_at=2), history_from=KNOWN_FROM)
    assert [(touch.click_id, touch.click_time) for touch in facts.journeys[1].touches] == [(1, 310), (3, 1100)]
    folded(facts, early._replace(visitor_id="v", revised_at=3), history_from=KNOWN_FROM)
    assert [touch.click_id for touch in facts.journeys[1].touches] == [3]


def test_the_word_on_an_unknown_converting_click_stands_once_after_it_changed() -> None:
    facts = MemoryFacts()
    sale = conversion(1, click_id=3, click_time=300, conv_time=1200)
    folded(facts, sale, history_from=KNOWN_FROM)
    folded(facts, sale._replace(click_time=310, revised_at=1), history_from=KNOWN_FROM)
    assert [(touch.click_id, touch.click_time) for touch in facts.journeys[1].touches] == [(3, 310)]


def test_25_clicks_of_which_some_lie_where_history_is_gone_may_lack_newer_ones_from_there() -> None:
    facts = MemoryFacts()
    named = [click(number, click_time=300 + number) for number in range(1, 7)]
    gone = click(50, click_time=400)
    late = [click(number, click_time=600 + number) for number in range(7, 26)]
    sale = conversion(1, click_id=25, conv_time=700)
    folded(facts, *named, gone, *late, sale, history_from=0)
    del facts.clicks[50]  # the retention leaves those that conversions name
    folded(facts, sale._replace(click_payout=Units(7), revised_at=1), history_from=KNOWN_FROM)
    journey = facts.journeys[1]
    assert journey.incomplete
    assert [touch.click_id for touch in journey.touches] == [*range(2, 7), 50, *range(7, 26)][-25:]
    folded(facts, sale._replace(conv_id=2), history_from=KNOWN_FROM)
    assert facts.journeys[2].incomplete


def test_touches_of_another_key_do_not_stand_in() -> None:
    facts = MemoryFacts()
    own = click(3, click_time=1100)
    folded(facts, click(1, click_time=300), own, conversion(1, click_id=3, conv_time=1200), history_from=0)
    del facts.clicks[1]
    folded(facts, own._replace(visitor_id="v", revised_at=1), history_from=KNOWN_FROM)
    assert [touch.click_id for touch in facts.journeys[1].touches] == [3]
