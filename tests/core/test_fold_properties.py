"""The rows are a function of the set of events: order, doubling, chunks and what is remembered decide nothing."""

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.core.events import Conversion
from tests.support.cluster import Cluster
from tests.support.strategies import Event, chunked, crowded_event_sets, event_sets

Chunks = Sequence[Sequence[Event]]


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
        # What is restated because a sibling left its transaction has its state from before; nobody names it again.
        restated = {journey.key for journey in first.journeys if journey.conversion.conv_id in first.restated}
        assert set(first.states) - first.unsettled - restated <= set(again.states)
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
