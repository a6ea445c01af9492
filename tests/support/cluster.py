"""Partitions that fold chunks over one set of facts in memory, second looks included; no time, no faults."""

from collections.abc import Sequence

from stream.core.events import Click, Conversion
from stream.core.fold import fold
from stream.core.folding import Folded, Place
from stream.core.keys import JourneyKey, partition_of
from stream.core.second_look import found_at_second_look, second_look_needs
from stream.core.state import KeyState
from tests.support.memory_facts import MemoryFacts
from tests.support.oracle import expected
from tests.support.strategies import LOOKBACK, Event, as_record


class Cluster:
    """Partitions of remembered states over one set of facts."""

    def __init__(self, partitions: int) -> None:
        self.facts = MemoryFacts()
        self.partitions = partitions
        self.states: list[dict[JourneyKey, KeyState]] = [{} for _ in range(partitions)]
        self.newest = [0] * partitions

    def fold(self, partition: int, events: Sequence[Event]) -> Folded:
        place = Place(partition, self.partitions, LOOKBACK, self.newest[partition])
        clicks = [event for event in events if isinstance(event, Click)]
        conversions = [event for event in events if isinstance(event, Conversion)]
        folded = self.facts.run(fold(place, self.states[partition].get, clicks, conversions))
        self.facts.write(folded.journeys)
        self.states[partition].update(folded.states)
        self.newest[partition] = max(self.newest[partition], folded.newest_conversion)
        needs = second_look_needs(place, folded)
        if needs is not None:
            for found in found_at_second_look(place, folded, self.facts.read(needs)):
                self.deliver([found.conversion])
        return folded

    def deliver(self, events: Sequence[Event]) -> None:
        for partition in range(self.partitions):
            mine = [e for e in events if partition_of(e.user_id, e.campaign_id, self.partitions) == partition]
            if mine:
                self.fold(partition, mine)

    def check(self, events: Sequence[Event]) -> None:
        wanted = expected([as_record(event) for event in events])
        assert self.facts.touchpoints() == [
            (row.conv_id, row.position, row.click_id, row.click_time) for row in wanted.touchpoints
        ]
        assert [
            (conv_id, journey.outcome.value, journey.click_unknown)
            for conv_id, journey in sorted(self.facts.journeys.items())
        ] == [tuple(row) for row in wanted.journeys]
