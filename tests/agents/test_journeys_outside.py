"""What another hand changes in SQL: the owner of the partition, which remembers otherwise, hears of it and forgets."""

import asyncio
import json
from dataclasses import replace

import pytest

from stream.core.errors import Unavailable
from stream.core.events import Click, Conversion
from stream.core.money import Units
from stream.engine.barrier import Stored
from stream.engine.chunk import Chunk
from stream.replay.storing import Scope, store_chunk
from tests.agents.journeys_desk import (
    CLICK,
    CONVERSION,
    DAY,
    ELSEWHERE,
    ELSEWHERE_CAMPAIGN,
    HOME,
    NAMES,
    NOW,
    Agent,
    touches,
    unsettled,
)  # fmt: skip
from tests.agents.watched_store import WatchedStore

KEY = b"1:11:v"
OLDEST = CLICK._replace(click_id=4, click_time=NOW - 300, visitor_id="v")
ITS_CONVERSION = CONVERSION._replace(conv_id=8, click_id=4, conv_time=NOW - 250)
FIRST = CLICK._replace(click_id=6, click_time=NOW - 200, visitor_id="v")
SECOND = CLICK._replace(visitor_id="v")
GONE = FIRST._replace(visitor_id="w", revised_at=1)


async def replayed(agent: Agent, *contents: Click | Conversion) -> Chunk:
    """Another hand stores events of the log that the worker has not come to."""
    chunk = agent.chunk(*contents)
    await store_chunk(agent.store.as_other("replay"), Scope(NAMES, 30 * DAY), chunk, is_repeated=False, place={})
    return chunk


async def outdated(agent: Agent) -> Chunk:
    """The agent remembers all clicks of a visitor, and one of them has gone to another one behind its back."""
    await agent.work(agent.chunk(OLDEST, ITS_CONVERSION, FIRST, SECOND))
    chunk = await replayed(agent, GONE)
    assert KEY in agent.kept.states[HOME]
    assert unsettled(agent.store) == ["key 1:11:v"]
    return chunk


def tick(agent: Agent) -> Chunk:
    return replace(agent.chunk(), is_last=True)


async def test_a_chunk_of_the_key_is_computed_from_sql(agent: Agent, store: WatchedStore) -> None:
    await outdated(agent)
    before = agent.kept.states[HOME][KEY]
    await agent.work(agent.chunk(CONVERSION))
    assert touches(store, 9) == [4, 5]
    assert agent.kept.states[HOME][KEY] != before
    await agent.work(agent.chunk(CONVERSION._replace(conv_id=10, conv_time=NOW - 40)))
    assert touches(store, 10) == [4, 5]


async def test_a_journey_that_is_gone_comes_back_behind_what_its_hour_has_credited(
    agent: Agent, store: WatchedStore
) -> None:
    await agent.work(agent.chunk(CLICK, CONVERSION))
    store.facts.credited_versions = lambda: {9: 1}
    del store.facts.journeys[9]
    stored = await agent.work(agent.chunk(CONVERSION._replace(click_payout=Units(2), revised_at=1)))
    assert store.facts.journeys[9].version == 2
    assert [json.loads(record.value or b"")["version"] for record in stored.outputs] == [2]


async def test_a_chunk_without_the_key_forgets_it(agent: Agent, store: WatchedStore) -> None:
    await outdated(agent)
    stored = await agent.work(agent.chunk(CLICK._replace(click_id=7)))
    assert stored.states[KEY] is None
    assert KEY not in agent.kept.states[HOME]
    # Until the changelog has it, a next owner must hear of it too.
    assert unsettled(store) == ["key 1:11:v"]
    await agent.work(agent.chunk(CONVERSION))
    assert touches(store, 9) == [4, 5]
    assert unsettled(store) == []


async def test_a_tick_forgets_it_and_the_next_one_has_nothing_to_do(agent: Agent, store: WatchedStore) -> None:
    await outdated(agent)
    stored = await agent.work(tick(agent))
    assert (dict(stored.states), list(stored.outputs)) == ({KEY: None}, [])
    assert KEY not in agent.kept.states[HOME]
    assert unsettled(store) == ["key 1:11:v"]
    assert await agent.work(tick(agent)) == Stored()
    assert unsettled(store) == []
    await agent.work(agent.chunk(CONVERSION))
    assert touches(store, 9) == [4, 5]


@pytest.mark.parametrize("has_heard", [False, True])
async def test_the_next_owner_forgets_what_its_last_one_may_not_have_written_down(
    agent: Agent, store: WatchedStore, *, has_heard: bool
) -> None:
    await outdated(agent)
    if has_heard:  # and died between SQL and the changelog
        await agent.handler.store(tick(agent), is_repeated=False)
    other = Agent(store.as_other("worker-2"))
    other.kept.put(HOME, agent.kept.states[HOME])
    taken = await other.handler.take(HOME, {NAMES.clicks: None, NAMES.conversions: None})
    assert list(taken.forget) == [KEY]
    other.kept.put(HOME, dict.fromkeys(taken.forget))
    await other.work(other.chunk(CONVERSION))
    assert touches(store, 9) == [4, 5]
    assert unsettled(store) == []


async def test_after_a_lost_reply_the_repeated_chunk_forgets_it_too(agent: Agent, store: WatchedStore) -> None:
    await outdated(agent)
    chunk = agent.chunk(CLICK._replace(click_id=7))
    store.database.loses_replies = 1
    with pytest.raises(Unavailable):
        await agent.work(chunk)
    stored = await agent.work(chunk, is_repeated=True)
    assert stored.states[KEY] is None


async def test_a_failed_chunk_leaves_it_to_the_next_try(agent: Agent, store: WatchedStore) -> None:
    await outdated(agent)
    chunk = agent.chunk(CONVERSION)
    store.failures = [Unavailable("gone")]
    with pytest.raises(Unavailable):
        await agent.work(chunk)
    await agent.work(chunk, is_repeated=True)
    assert touches(store, 9) == [4, 5]


async def test_a_conversion_that_another_hand_has_stored_is_entered_by_a_late_click(
    agent: Agent, store: WatchedStore
) -> None:
    """Of its key the agent remembers nothing: only the row says that such a new conversion is there."""
    await agent.work(agent.chunk(CLICK._replace(click_id=8, click_time=NOW - 5_000)))
    await replayed(agent, SECOND, CONVERSION)
    assert touches(store, 9) == [5]
    await agent.work(agent.chunk(FIRST))
    assert touches(store, 9) == [6, 5]
    assert store.rows[HOME].newest_conversion == CONVERSION.conv_time


async def test_where_history_begins_now_is_met_by_the_next_conversion(agent: Agent, store: WatchedStore) -> None:
    await agent.work(agent.chunk(SECOND))
    row = store.rows[HOME]
    changed = replace(row, history_from=NOW - DAY, outside_changes=row.outside_changes + 1)
    store.database.note_outside_change(changed)
    assert await agent.work(tick(agent)) == Stored()  # nothing is to be forgotten
    await agent.work(agent.chunk(CONVERSION))
    assert store.facts.journeys[9].incomplete
    await agent.work(agent.chunk(CONVERSION._replace(conv_id=10, conv_time=NOW - 40)))
    assert store.facts.journeys[10].incomplete


async def test_the_worker_comes_to_what_was_stored_before_it_and_changes_nothing(
    agent: Agent, store: WatchedStore
) -> None:
    chunk = await outdated(agent)
    also = await replayed(agent, CONVERSION)
    journeys = {each: journey._replace(version=0) for each, journey in store.facts.journeys.items()}
    assert touches(store, 9) == [4, 5]
    await agent.work(chunk)
    await agent.work(also)
    assert {each: journey._replace(version=0) for each, journey in store.facts.journeys.items()} == journeys
    await agent.work(agent.chunk(CONVERSION._replace(conv_id=10, conv_time=NOW - 40)))
    assert touches(store, 10) == [4, 5]


@pytest.mark.parametrize("credited", [{}, {9: 3}])  # a new one, and one that was deleted by hand
async def test_of_two_partitions_that_store_one_id_at_once_the_second_gives_way_and_then_refuses_it(
    agent: Agent, store: WatchedStore, credited: dict[int, int]
) -> None:
    store.facts.credited_versions = lambda: credited
    chunks = [
        agent.chunk(CONVERSION),
        agent.chunk(CONVERSION._replace(campaign_id=ELSEWHERE_CAMPAIGN), partition=ELSEWHERE),
    ]
    both = asyncio.Barrier(2)

    async def together(step: str) -> None:
        if step == "write_journeys":
            await both.wait()

    store.database.before_step = together
    outcomes = await asyncio.gather(*map(agent.work, chunks), return_exceptions=True)
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["Stored", "Unavailable"]
    first = store.facts.journeys[9]
    (late,) = [chunk for chunk, outcome in zip(chunks, outcomes, strict=True) if isinstance(outcome, Unavailable)]
    repeated = await agent.work(late, is_repeated=True)
    assert store.facts.journeys[9] == first
    assert b"rekeyed" in [value for record in repeated.outputs for _, value in record.headers]
