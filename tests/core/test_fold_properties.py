"""The rows are a function of the set of events: order, doubling, chunks and what is remembered decide nothing."""

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.events import Click, Conversion
from stream.core.fold import fold
from stream.core.folding import Folded, Place
from stream.core.keys import JourneyKey, partition_of
from stream.core.second_look import found_at_second_look, second_look_needs
from stream.core.state import KeyState
from tests.support.memory_facts import MemoryFacts
from tests.support.oracle import expected
from tests.support.strategies import LOOKBACK, Event, as_record, chunked, crowded_event_sets, event_sets

Chunks = Sequence[Sequence[Event]]


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


@st.composite
def chunked_sets(draw: st.DrawFn) -> tuple[list[Event], Chunks]:
    events = draw(event_sets() | crowded_event_sets())
    return events, draw(chunked(events))


@given(chunked_sets(), st.integers(1, 3))
@settings(max_examples=300, deadline=None)
def test_any_order_and_any_chunks_give_the_rows_of_the_set(drawn: tuple[list[Event], Chunks], partitions: int) -> None:
    events, chunks = drawn
    cluster = Cluster(partitions)
    for chunk in chunks:
        cluster.deliver(chunk)
    cluster.check(events)


@given(chunked_sets(), st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_states_may_be_lost_key_by_key_at_any_moment(
    drawn: tuple[list[Event], Chunks], partitions: int, chance: random.Random
) -> None:
    events, chunks = drawn
    cluster = Cluster(partitions)
    for chunk in chunks:
        for states in cluster.states:
            for key in [key for key in states if chance.random() < 0.5]:
                del states[key]
        cluster.deliver(chunk)
    cluster.check(events)


@given(chunked_sets())
@settings(max_examples=150, deadline=None)
def test_a_chunk_delivered_twice_repeats_its_effects_and_changes_nothing(drawn: tuple[list[Event], Chunks]) -> None:
    events, chunks = drawn
    cluster = Cluster(1)
    for chunk in chunks:
        if not chunk:
            continue
        first = cluster.fold(0, chunk)
        stored = dict(cluster.facts.journeys)
        again = cluster.fold(0, chunk)
        assert cluster.facts.journeys == stored
        conversions = {event.conv_id for event in chunk if isinstance(event, Conversion)}
        assert conversions <= {journey.conversion.conv_id for journey in again.journeys}
        assert set(first.states) - first.unsettled <= set(again.states)
    cluster.check(events)


@given(event_sets(conflicts=True), st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_also_contents_in_conflict_end_the_same_in_every_order(events: list[Event], chance: random.Random) -> None:
    one, other = Cluster(1), Cluster(1)
    one.deliver(events)
    shuffled = list(events)
    chance.shuffle(shuffled)
    for event in shuffled:
        other.deliver([event])
    unversioned = [
        {conv_id: journey._replace(version=0) for conv_id, journey in cluster.facts.journeys.items()}
        for cluster in (one, other)
    ]
    assert unversioned[0] == unversioned[1]
    assert one.facts.clicks == other.facts.clicks
