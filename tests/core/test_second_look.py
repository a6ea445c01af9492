"""Two partitions at work at the same moment: each reads before the other has committed, and none misses the other."""

from collections.abc import Generator, Sequence

from stream.core.events import Click, Conversion
from stream.core.facts import Outcome
from stream.core.fold import FoldAnswer, FoldStep, fold
from stream.core.folding import Folded, Place
from stream.core.keys import partition_of
from stream.core.money import Units
from stream.core.second_look import SentOn, found_at_second_look, second_look_needs
from tests.support.builders import click, conversion
from tests.support.memory_facts import MemoryFacts

LOOKBACK = 1000
# A campaign of user 1 in each of two partitions; click 1 lies in the first.
HERE, ELSEWHERE = (next(each for each in range(1, 99) if partition_of(1, each, 2) == place) for place in (0, 1))


def begun(partition: int, *events: Click | Conversion) -> Generator[FoldStep, FoldAnswer, Folded]:
    place = Place(partition, 2, LOOKBACK, newest_conversion=0)
    clicks = [event for event in events if isinstance(event, Click)]
    return fold(place, lambda _: None, clicks, [event for event in events if isinstance(event, Conversion)])


def finished(facts: MemoryFacts, partition: int, folding: Generator[FoldStep, FoldAnswer, Folded]) -> Sequence[SentOn]:
    return looked_again(facts, partition, facts.run(folding))


def looked_again(facts: MemoryFacts, partition: int, folded: Folded) -> Sequence[SentOn]:
    facts.write(folded.journeys)
    place = Place(partition, 2, LOOKBACK, newest_conversion=0)
    needs = second_look_needs(place, folded)
    return found_at_second_look(place, folded, facts.read(needs)) if needs else ()


def after_first_read(facts: MemoryFacts, folding: Generator[FoldStep, FoldAnswer, Folded]) -> FoldAnswer:
    return facts.perform(folding.send(None))


def rest(facts: MemoryFacts, folding: Generator[FoldStep, FoldAnswer, Folded], answer: FoldAnswer) -> Folded:
    try:
        while True:
            answer = facts.perform(folding.send(answer))
    except StopIteration as stop:
        folded: Folded = stop.value
        return folded


def test_a_converting_click_that_is_revised_elsewhere_meanwhile_is_found() -> None:
    facts = MemoryFacts()
    finished(facts, 0, begun(0, click(1, campaign_id=HERE, visitor_id="v")))
    sale = conversion(1, click_id=1, campaign_id=ELSEWHERE)
    folding = begun(1, sale)
    answer = after_first_read(facts, folding)
    revised = click(1, campaign_id=HERE, visitor_id="w", click_cpc=Units(7), revised_at=1)
    assert not finished(facts, 0, begun(0, revised))  # the conversion is not committed yet
    assert looked_again(facts, 1, rest(facts, folding, answer)) == [SentOn(sale, "click")]
    assert not finished(facts, 1, begun(1, sale))
    assert facts.journeys[1].visitor_id == "w"


def test_a_converting_click_that_gets_its_campaign_elsewhere_meanwhile_is_found() -> None:
    facts = MemoryFacts()
    first = partition_of(1, 0, 2)
    campaign_of_other = (HERE, ELSEWHERE)[1 - first]
    campaign_of_first = (HERE, ELSEWHERE)[first]
    finished(facts, first, begun(first, click(1, campaign_id=0)))
    sale = conversion(1, click_id=1, campaign_id=campaign_of_first)
    folding = begun(first, sale)
    answer = after_first_read(facts, folding)
    named = click(1, campaign_id=campaign_of_other, click_cpc=Units(7), revised_at=1)
    assert not finished(facts, 1 - first, begun(1 - first, named))
    assert looked_again(facts, first, rest(facts, folding, answer)) == [SentOn(sale, "click")]


def test_a_conversion_displaced_by_what_was_read_and_counting_by_what_stands_is_sent_on() -> None:
    """Its log row was removed in favour of ours, while its own partition made it count again."""
    facts = MemoryFacts()
    rival = conversion(2, click_id=1, campaign_id=ELSEWHERE, transaction_id="t", conv_time=300)
    finished(facts, 1, begun(1, rival))
    folding = begun(0, conversion(1, click_id=1, campaign_id=HERE, transaction_id="t", conv_time=200))
    answer = after_first_read(facts, folding)
    moved = rival._replace(transaction_id="u", revised_at=1)
    assert not finished(facts, 1, begun(1, moved))
    folded = rest(facts, folding, answer)
    assert folded.displaced == {2}
    assert looked_again(facts, 0, folded) == [SentOn(moved, "transaction")]


def test_a_conversion_displaced_elsewhere_is_computed_again_if_the_chunk_may_have_been_lost() -> None:
    """The chunk may come again in one with a deletion: then nothing else says that a log row is missing."""
    facts = MemoryFacts()
    finished(facts, 1, begun(1, conversion(2, click_id=1, campaign_id=ELSEWHERE, transaction_id="t", conv_time=300)))
    winner = conversion(1, click_id=1, campaign_id=HERE, transaction_id="t", conv_time=200)
    folded = facts.run(begun(0, winner))
    facts.write(folded.journeys)
    assert folded.displaced == folded.restated == {2}
    merged = facts.run(begun(0, winner, winner._replace(deleted=1)))
    assert not looked_again(facts, 0, merged)
    assert facts.journeys[2].outcome is Outcome.COUNTED
