"""What a chunk leaves to be told again, should it be stored and lost: its second coming shows no change any more."""

from stream.core.events import Click, Conversion
from stream.core.fold import fold
from stream.core.folding import Folded, Place
from tests.support.builders import click, conversion
from tests.support.memory_facts import MemoryFacts

LOOKBACK = 1000


def folded(facts: MemoryFacts, *events: Click | Conversion) -> Folded:
    clicks = [event for event in events if isinstance(event, Click)]
    conversions = [event for event in events if isinstance(event, Conversion)]
    place = Place(0, 1, LOOKBACK, newest_conversion=10_000)
    result = facts.run(fold(place, lambda _: None, clicks, conversions))
    facts.write(result.journeys)
    return result


def test_the_sibling_that_counts_since_a_conversion_left_its_transaction() -> None:
    facts = MemoryFacts()
    first, second = (conversion(number, transaction_id="t", conv_time=2000 + number) for number in (1, 2))
    assert folded(facts, first, second).restated == frozenset()
    assert folded(facts, first._replace(transaction_id="u", revised_at=1)).restated == {2}
    assert folded(facts, first._replace(transaction_id="u", revised_at=1)).restated == frozenset()


def test_the_conversion_of_a_revised_click_also_where_the_click_is_in_no_window() -> None:
    facts = MemoryFacts()
    old = click(1, click_time=10)
    folded(facts, old, conversion(1, conv_time=5000))
    assert folded(facts, old._replace(ppc_account_id=9, revised_at=1)).restated == {1}


def test_the_conversions_that_a_revised_click_has_left() -> None:
    facts = MemoryFacts()
    touched = click(2, click_time=1500)
    folded(facts, click(1), touched, conversion(1, conv_time=2000))
    assert folded(facts, touched._replace(visitor_id="v", revised_at=1)).restated == {1}
    assert [touch.click_id for touch in facts.journeys[1].touches] == [1]


def test_none_where_only_new_clicks_came() -> None:
    facts = MemoryFacts()
    folded(facts, click(1), conversion(1, conv_time=2000))
    assert folded(facts, click(2, click_time=1500)).restated == frozenset()
