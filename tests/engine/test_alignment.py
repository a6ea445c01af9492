"""Records of a partition's topics come out in the order of their times, each once, and nobody waits for ever."""

from collections.abc import Sequence
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from stream.engine.alignment import HELD_AT_MOST_SECONDS, PartitionIntake
from stream.engine.chunk import Arrival, Chunk
from tests.engine.arrivals import A, B, arrival, places

BOTH_AT_END = {A: True, B: True}


def intake(*, is_aligned: bool = True, starts: dict[str, int] | None = None) -> PartitionIntake:
    return PartitionIntake(3, 7, starts or {A: 0, B: 0}, is_aligned=is_aligned)


def filled(a: Sequence[int], b: Sequence[int], *, is_aligned: bool = True) -> PartitionIntake:
    """Both topics from offset 0, with records of these times."""
    made = intake(is_aligned=is_aligned)
    made.add(A, [arrival(A, offset, at) for offset, at in enumerate(a)], len(a))
    made.add(B, [arrival(B, offset, at) for offset, at in enumerate(b)], len(b))
    return made


def taken(made: PartitionIntake, limit: int = 100, now: float = 0) -> Chunk:
    found = made.next_chunk(limit, now)
    assert found is not None
    return found


# By example


def test_two_topics_are_merged_by_time() -> None:
    made = filled([10, 30, 50], [20, 40])
    made.mark_ends(BOTH_AT_END)
    assert places(taken(made).arrivals) == [(A, 0), (B, 0), (A, 1), (B, 1), (A, 2)]


def test_the_first_topic_goes_first_between_equal_times() -> None:
    made = filled([10, 10], [10, 10])
    made.mark_ends(BOTH_AT_END)
    assert places(taken(made).arrivals) == [(A, 0), (A, 1), (B, 0), (B, 1)]


def test_a_topic_keeps_its_own_order_although_its_times_go_back() -> None:
    made = filled([50, 10, 60], [20])
    made.mark_ends(BOTH_AT_END)
    assert places(taken(made).arrivals) == [(B, 0), (A, 0), (A, 1), (A, 2)]


def test_nothing_is_released_while_another_topic_may_still_give_an_earlier_record() -> None:
    made = filled([10, 20], [])
    assert made.next_chunk(100, now=0) is None
    assert made.waiting(A) == 2


def test_the_later_records_wait_once_the_other_buffer_is_empty() -> None:
    made = filled([10, 30, 40], [20])
    assert places(taken(made).arrivals) == [(A, 0), (B, 0)]
    assert made.next_chunk(100, now=0) is None


def test_a_topic_at_its_end_holds_nobody_back() -> None:
    made = filled([10, 20], [])
    made.mark_ends({A: False, B: True})
    assert places(taken(made).arrivals) == [(A, 0), (A, 1)]


def test_a_topic_that_is_no_longer_at_its_end_holds_back_again() -> None:
    made = filled([10], [])
    made.mark_ends(BOTH_AT_END)
    made.mark_ends({})
    assert made.next_chunk(100, now=0) is None


def test_records_are_held_for_a_minute_at_most() -> None:
    made = filled([10, 20], [])
    assert made.next_chunk(100, now=1_000) is None
    assert made.next_chunk(100, now=1_000 + HELD_AT_MOST_SECONDS - 0.1) is None
    assert places(taken(made, now=1_000 + HELD_AT_MOST_SECONDS).arrivals) == [(A, 0), (A, 1)]
    assert HELD_AT_MOST_SECONDS == 60


def test_the_minute_begins_anew_after_each_release() -> None:
    made = filled([10, 30], [])
    assert made.next_chunk(100, now=0) is None
    made.add(B, [arrival(B, 0, 20)], 1)
    assert places(taken(made, now=50).arrivals) == [(A, 0), (B, 0)]
    assert made.next_chunk(100, now=109) is None
    assert places(taken(made, now=110).arrivals) == [(A, 1)]
    made.add(A, [arrival(A, 2, 40)], 3)
    assert made.next_chunk(100, now=111) is None
    assert made.next_chunk(100, now=170) is None
    assert places(taken(made, now=171).arrivals) == [(A, 2)]


def test_without_alignment_nothing_waits() -> None:
    made = filled([30, 40], [10], is_aligned=False)
    assert sorted(places(taken(made).arrivals)) == [(A, 0), (A, 1), (B, 0)]


def test_a_chunk_has_no_more_records_than_the_limit_and_ends_behind_them() -> None:
    made = filled([10, 30, 50], [20, 40])
    made.mark_ends(BOTH_AT_END)
    first = taken(made, limit=3)
    assert places(first.arrivals) == [(A, 0), (B, 0), (A, 1)]
    assert first.next_offsets == {A: 2, B: 1}
    assert taken(made, limit=3).next_offsets == {A: 3, B: 2}
    assert (first.partition, first.generation) == (3, 7)


def test_offsets_without_records_are_passed_over() -> None:
    made = intake()
    made.mark_ends(BOTH_AT_END)
    made.add(A, [arrival(A, 2, 10), arrival(A, 5, 20)], 9)
    first = taken(made, limit=1)
    assert first.next_offsets == {A: 5, B: 0}
    assert taken(made, limit=1).next_offsets == {A: 9, B: 0}


def test_a_fetch_of_markers_alone_gives_a_chunk_without_records() -> None:
    made = intake()
    made.add(B, [], 4)
    only_markers = taken(made)
    assert (list(only_markers.arrivals), only_markers.next_offsets) == ([], {A: 0, B: 4})
    assert made.next_chunk(100, now=0) is None


def test_it_knows_what_it_expects_and_what_it_has_released() -> None:
    made = intake(starts={A: 5, B: 8})
    made.add(A, [arrival(A, 5, 10), arrival(A, 6, 20)], 7)
    made.mark_ends(BOTH_AT_END)
    assert (made.expected(A), made.released(A), made.expected(B)) == (7, 5, 8)
    assert made.oldest_waiting() == 10
    assert not made.is_empty()
    taken(made, limit=1)
    assert (made.expected(A), made.released(A), made.oldest_waiting()) == (7, 6, 20)
    taken(made)
    assert made.is_empty()
    assert made.oldest_waiting() is None


# Gathering, ticks, and what is last


def paced(gather_seconds: float = 0.0, tick_seconds: float = 0.0) -> PartitionIntake:
    made = PartitionIntake(
        3, 7, {A: 0, B: 0}, is_aligned=False, gather_seconds=gather_seconds, tick_seconds=tick_seconds
    )
    made.mark_ends(BOTH_AT_END)
    return made


def test_a_chunk_that_is_not_full_waits_until_the_time_since_the_last_one_is_over() -> None:
    made = paced(gather_seconds=5)
    made.add(A, [arrival(A, 0)], 1)
    assert places(taken(made, now=1_000).arrivals) == [(A, 0)]
    made.add(A, [arrival(A, 1)], 2)
    assert made.next_chunk(100, now=1_004.9) is None
    assert made.gathers_for(100, 1_004) == 1
    made.add(B, [arrival(B, 0)], 1)
    assert places(taken(made, now=1_005).arrivals) == [(A, 1), (B, 0)]
    assert made.next_chunk(100, now=2_000) is None


def test_a_full_chunk_does_not_wait_and_its_rest_does() -> None:
    made = paced(gather_seconds=5)
    made.add(A, [arrival(A, 0)], 1)
    taken(made, now=1_000)
    made.add(A, [arrival(A, offset) for offset in range(1, 4)], 4)
    made.add(B, [arrival(B, 0)], 1)
    assert made.gathers_for(3, 1_001) == 0
    assert len(taken(made, limit=3, now=1_001).arrivals) == 3
    assert made.next_chunk(3, now=1_005.9) is None
    assert len(taken(made, limit=3, now=1_006).arrivals) == 1


def test_offsets_without_records_are_gathered_too() -> None:
    made = paced(gather_seconds=5)
    taken_first = made.next_chunk(100, now=1_000)
    assert taken_first is None
    made.add(A, [], 4)
    assert taken(made, now=1_000).next_offsets == {A: 4, B: 0}
    made.add(A, [], 6)
    assert made.next_chunk(100, now=1_001) is None
    assert taken(made, now=1_005).next_offsets == {A: 6, B: 0}


def test_a_partition_without_a_chunk_for_long_gets_one_without_records() -> None:
    made = paced(tick_seconds=20)
    made.add(A, [arrival(A, 0)], 1)
    taken(made, now=1_000)
    assert made.next_chunk(100, now=1_019.9) is None
    tick = taken(made, now=1_020)
    assert (list(tick.arrivals), tick.next_offsets, tick.is_last) == ([], {A: 1, B: 0}, True)
    made.add(A, [arrival(A, 1)], 2)
    assert places(taken(made, now=1_021).arrivals) == [(A, 1)]
    assert made.next_chunk(100, now=1_040) is None
    assert taken(made, now=1_041).arrivals == []


def test_the_first_tick_comes_at_once_and_without_ticks_none_comes() -> None:
    assert taken(paced(tick_seconds=20), now=0).arrivals == []
    assert paced().next_chunk(100, now=1_000_000) is None


def test_a_tick_does_not_wait_for_what_is_gathered_and_does_not_delay_it() -> None:
    made = paced(gather_seconds=5, tick_seconds=2)
    made.add(A, [arrival(A, 0)], 1)
    taken(made, now=1_000)
    assert made.next_chunk(100, now=1_001.9) is None
    assert taken(made, now=1_002).arrivals == []
    made.add(A, [arrival(A, 1)], 2)
    assert made.next_chunk(100, now=1_004.9) is None
    assert places(taken(made, now=1_005).arrivals) == [(A, 1)]


def test_a_chunk_that_is_hastened_waits_for_nothing() -> None:
    made = paced(gather_seconds=5, tick_seconds=2)
    made.add(A, [arrival(A, 0)], 1)
    taken(made, now=1_000)
    made.hasten()
    assert taken(made, now=1_000).arrivals == []
    made.hasten()
    made.add(A, [arrival(A, 1)], 2)
    assert places(taken(made, now=1_000).arrivals) == [(A, 1)]
    assert made.next_chunk(100, now=1_001.9) is None


def test_a_tick_tells_that_records_are_held() -> None:
    made = PartitionIntake(3, 7, {A: 0, B: 0}, is_aligned=True, tick_seconds=20)
    made.add(A, [arrival(A, 0)], 1)
    tick = taken(made, now=1_000)
    assert (list(tick.arrivals), tick.next_offsets, tick.is_last) == ([], {A: 0, B: 0}, False)


def test_a_chunk_is_last_where_nothing_is_left_and_all_topics_are_at_their_ends() -> None:
    made = paced()
    made.add(A, [arrival(A, 0), arrival(A, 1)], 2)
    assert [taken(made, limit=1).is_last for _ in range(2)] == [False, True]
    made.add(A, [arrival(A, 2)], 3)
    made.mark_ends({A: True, B: False})
    assert not taken(made).is_last


def test_only_the_second_half_may_be_last_and_what_is_read_as_something_else_stays_it() -> None:
    made = filled([10, 20], [])
    made.mark_ends(BOTH_AT_END)
    whole = taken(made)
    assert whole.is_last
    assert [half.is_last for half in whole.halves()] == [False, True]
    assert whole.halves()[1].with_content("refused").is_last
    made.add(A, [arrival(A, 2), arrival(A, 3), arrival(A, 4)], 5)
    assert [half.is_last for half in taken(made, limit=2).halves()] == [False, False]


# By property


@dataclass(frozen=True)
class Fetch:
    topic: str
    arrivals: tuple[Arrival, ...]
    next_offset: int


@dataclass(frozen=True)
class Ask:
    limit: int
    after: float


@dataclass(frozen=True)
class End:
    a: bool
    b: bool


@st.composite
def fetches(draw: st.DrawFn, topic: str) -> list[Fetch]:
    """A log with holes, cut into fetches."""
    steps = draw(st.lists(st.tuples(st.integers(1, 3), st.integers(0, 20)), max_size=12))
    offset = -1
    log = []
    for gap, at in steps:
        offset += gap
        log.append(arrival(topic, offset, at))
    found = []
    while log:
        size = draw(st.integers(1, len(log)))
        part, log = log[:size], log[size:]
        hole = draw(st.integers(0, log[0].record.offset - part[-1].record.offset - 1 if log else 2))
        found.append(Fetch(topic, tuple(part), part[-1].record.offset + 1 + hole))
    return found


@st.composite
def histories(draw: st.DrawFn) -> list[Fetch | Ask | End]:
    """Both topics' fetches in their own orders, mixed with asking and with news of ends."""
    left = [draw(fetches(A)), draw(fetches(B))]
    asks = st.builds(Ask, st.integers(1, 5), st.sampled_from([0.0, 1.0, 61.0]))
    ends = st.builds(End, st.booleans(), st.booleans())
    steps: list[Fetch | Ask | End] = []
    while any(left):
        steps += draw(st.lists(asks | ends, max_size=2))
        steps.append(draw(st.sampled_from([one for one in left if one])).pop(0))
    return [*steps, *draw(st.lists(asks, max_size=3))]


def run(history: Sequence[Fetch | Ask | End], *, is_aligned: bool) -> list[Chunk]:
    """All chunks, the last ones asked for after every topic has come to its end."""
    made = intake(is_aligned=is_aligned)
    now = 0.0
    chunks = []
    for step in history:
        match step:
            case Fetch(topic, arrivals, next_offset):
                made.add(topic, arrivals, next_offset)
            case End(a, b):
                made.mark_ends({A: a, B: b})
            case Ask(limit, after):
                now += after
                found = made.next_chunk(limit, now)
                if found is not None:
                    assert len(found.arrivals) <= limit
                    chunks.append(found)
    made.mark_ends(BOTH_AT_END)
    while (found := made.next_chunk(4, now)) is not None:
        chunks.append(found)
    assert made.is_empty()
    return chunks


@given(histories(), st.booleans())
def test_nothing_is_lost_doubled_or_out_of_its_topics_order(
    history: list[Fetch | Ask | End],
    is_aligned: bool,  # noqa: FBT001
) -> None:
    chunks = run(history, is_aligned=is_aligned)
    released = [place for one in chunks for place in places(one.arrivals)]
    for topic in (A, B):
        arrived = [place for step in history if isinstance(step, Fetch) for place in places(step.arrivals)]
        assert [each for each in released if each[0] == topic] == [each for each in arrived if each[0] == topic]
    ends = {A: 0, B: 0} | {step.topic: step.next_offset for step in history if isinstance(step, Fetch)}
    assert (chunks[-1].next_offsets if chunks else {A: 0, B: 0}) == ends


@given(histories(), st.booleans())
def test_each_chunk_ends_behind_its_records_and_before_those_that_follow(
    history: list[Fetch | Ask | End],
    is_aligned: bool,  # noqa: FBT001
) -> None:
    standing = {A: 0, B: 0}
    for one in run(history, is_aligned=is_aligned):
        for topic, offset in places(one.arrivals):
            assert standing[topic] <= offset < one.next_offsets[topic]
        assert all(one.next_offsets[topic] >= standing[topic] for topic in (A, B))
        assert one.next_offsets != standing
        standing = dict(one.next_offsets)


@given(st.lists(st.integers(0, 20), max_size=15).map(sorted), st.lists(st.integers(0, 20), max_size=15).map(sorted))
def test_topics_in_the_order_of_time_come_out_in_the_order_of_time(a: list[int], b: list[int]) -> None:
    made = filled(a, b)
    released: list[Arrival] = []
    while (found := made.next_chunk(2, now=0)) is not None:
        released += found.arrivals
    made.mark_ends(BOTH_AT_END)
    while (found := made.next_chunk(2, now=0)) is not None:
        released += found.arrivals
    assert [each.ordered_at for each in released] == sorted(a + b)
    assert len(released) == len(a) + len(b)


@given(histories())
def test_no_record_is_released_before_one_that_another_topic_could_still_have_given(
    history: list[Fetch | Ask | End],
) -> None:
    # Without the sixty seconds and with no topic at its end, each record released has one waiting in the other topic.
    made = intake()
    for step in history:
        if isinstance(step, Fetch):
            made.add(step.topic, step.arrivals, step.next_offset)
        if isinstance(step, Ask):
            before = {topic: made.waiting(topic) for topic in (A, B)}
            found = made.next_chunk(step.limit, 0)
            if found is not None and found.arrivals:
                assert all(before.values())
                last = found.arrivals[-1]
                other = B if last.record.topic == A else A
                assert made.waiting(other) or places(found.arrivals)[-1][0] == last.record.topic
            if not all(before.values()):
                assert found is None or not found.arrivals


@given(histories(), st.booleans())
def test_halves_in_turn_give_the_same_as_the_chunk(
    history: list[Fetch | Ask | End],
    is_aligned: bool,  # noqa: FBT001
) -> None:
    standing = {A: 0, B: 0}
    for one in run(history, is_aligned=is_aligned):
        if len(one.arrivals) < 2:
            standing = dict(one.next_offsets)
            continue
        first, second = one.halves()
        assert [*first.arrivals, *second.arrivals] == list(one.arrivals)
        assert len(first.arrivals) == len(one.arrivals) // 2
        assert second.next_offsets == one.next_offsets
        for topic in (A, B):
            # A crash between the halves reads all of the second again, and none of the first.
            assert standing[topic] <= first.next_offsets[topic] <= one.next_offsets[topic]
        assert all(offset < first.next_offsets[topic] for topic, offset in places(first.arrivals))
        assert all(offset >= first.next_offsets[topic] for topic, offset in places(second.arrivals))
        standing = dict(one.next_offsets)
