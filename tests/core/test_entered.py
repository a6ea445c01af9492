"""A late click enters every stored conversion that it belongs to, at the very edges too, with states remembered."""

from stream.core.events import Click, Conversion
from stream.core.fold import fold
from stream.core.folding import Place
from stream.core.keys import JourneyKey
from stream.core.state import KeyState
from tests.support.builders import click, conversion
from tests.support.memory_facts import MemoryFacts

LOOKBACK = 1000


class Worker:
    """Of a single partition, with its states and its facts."""

    def __init__(self) -> None:
        self.facts = MemoryFacts()
        self.states: dict[JourneyKey, KeyState] = {}
        self.newest = 0

    def fold(self, *events: Click | Conversion) -> None:
        clicks = [event for event in events if isinstance(event, Click)]
        conversions = [event for event in events if isinstance(event, Conversion)]
        place = Place(0, 1, LOOKBACK, self.newest)
        folded = self.facts.run(fold(place, self.states.get, clicks, conversions))
        self.facts.write(folded.journeys)
        self.states.update(folded.states)
        self.newest = max(self.newest, folded.newest_conversion)

    def touched(self) -> list[int]:
        return [touch.click_id for touch in self.facts.journeys[1].touches]


def test_a_click_at_the_beginning_of_the_lookback_and_one_at_the_moment_of_the_conversion() -> None:
    worker = Worker()
    worker.fold(click(1, click_time=1500), conversion(1, conv_time=2000))
    worker.fold(click(2, click_time=1000))
    assert worker.touched() == [2, 1]  # at once: whatever comes next would mend it
    worker.fold(click(3, click_time=999))
    worker.fold(click(4, click_time=2000))
    worker.fold(click(5, click_time=2001))
    assert worker.touched() == [2, 1, 4]


def test_a_visitors_journey_that_ends_long_before_its_conversion() -> None:
    """Clicks after the converting one hide nothing, however many they are."""
    worker = Worker()
    visits = [click(number, click_time=1500 + number, visitor_id="v") for number in range(1, 31)]
    worker.fold(*visits, conversion(1, click_id=1, conv_time=2000))
    worker.fold(click(99, click_time=1400, visitor_id="v"))
    assert worker.touched() == [99, 1]


def test_a_click_that_25_newer_ones_leave_just_enough_room_for() -> None:
    worker = Worker()
    worker.fold(*(click(number, click_time=1500 + number) for number in range(1, 25)), conversion(1, conv_time=2000))
    worker.fold(click(99, click_time=1400))
    assert worker.touched()[0] == 99
    worker.fold(click(50, click_time=1450))
    assert worker.touched()[0] == 50
    assert len(worker.touched()) == 25
