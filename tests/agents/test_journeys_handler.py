"""What the journeys agent does with a chunk: facts, states and progress."""

from dataclasses import replace

import msgspec
import pytest

from stream.core.errors import Fenced, Unavailable
from stream.core.keys import JourneyKey, partition_of
from stream.engine.barrier import Stored
from stream.engine.chunk import Chunk
from tables.state.journeys import encode_key
from tests.agents.journeys_desk import CLICK, CONVERSION, DAY, HOME, KEY, NAMES, NOW, Agent, touches
from tests.agents.watched_store import WatchedStore


async def test_a_journey_is_stored_published_and_deleted_from_the_cache(agent: Agent, store: WatchedStore) -> None:
    stored = await agent.work(agent.chunk(CLICK, CONVERSION))
    assert touches(store, 9) == [5]
    (record,) = stored.outputs
    journey = msgspec.json.decode(record.value or b"")
    assert (record.topic, record.key, journey["conv_id"], journey["version"]) == ("t-journeys", b"1", 9, 1)
    assert [touch["click_id"] for touch in journey["touches"]] == [5]
    assert record.partition in range(NAMES.journeys_partitions)
    assert stored.cached == [9]
    await agent.handler.delete_cached(stored)
    assert agent.cache.deleted == [9]
    assert agent.metric("cache_failures_total") == 1


async def test_the_state_of_a_key_serves_the_next_chunk_without_sql(agent: Agent, store: WatchedStore) -> None:
    # The click is told to SQL and to the state; a second conversion finds it in the state.
    await agent.work(agent.chunk(CLICK, CONVERSION))
    assert KEY in agent.kept.states[HOME]
    before = agent.metric("sql_lookups_total", reason="unknown_keys")
    await agent.work(agent.chunk(CONVERSION._replace(conv_id=10, conv_time=NOW - 40)))
    assert touches(store, 10) == [5]
    assert agent.metric("sql_lookups_total", reason="unknown_keys") == before


async def test_a_chunk_moves_offsets_watermark_and_newest_conversion_and_never_back(
    agent: Agent, store: WatchedStore
) -> None:
    await agent.work(agent.chunk(CLICK, CONVERSION))
    await agent.work(agent.chunk(CLICK._replace(click_id=6, click_time=NOW - 5_000)))
    await agent.work(agent.chunk())
    row = store.rows[HOME]
    assert row.next_offsets == {NAMES.clicks: 3, NAMES.conversions: 3}
    assert (row.watermark, row.newest_conversion) == (CONVERSION.conv_time, CONVERSION.conv_time)


def at_the_end(chunk: Chunk) -> Chunk:
    return replace(chunk, is_last=True)


async def test_a_chunk_with_nothing_behind_it_tells_when_that_was(agent: Agent, store: WatchedStore) -> None:
    await agent.work(agent.chunk(CLICK))
    assert store.rows[HOME].drained_at == 0
    await agent.work(at_the_end(agent.chunk(CONVERSION)))
    assert store.rows[HOME].drained_at == NOW
    agent.now += 60
    await agent.work(agent.chunk(CLICK))
    assert store.rows[HOME].drained_at == NOW
    # How long the first try took nobody knows: much may lie behind the chunk by now.
    await agent.work(at_the_end(agent.chunk()), is_repeated=True)
    assert store.rows[HOME].drained_at == NOW


async def test_a_tick_tells_the_time_and_changes_nothing_else(agent: Agent, store: WatchedStore) -> None:
    await agent.work(agent.chunk(CLICK, CONVERSION))
    before, states = store.rows[HOME], dict(agent.kept.states[HOME])
    agent.now += 20
    stored = await agent.work(at_the_end(agent.chunk()))
    assert stored == Stored()
    assert store.rows[HOME] == replace(before, drained_at=NOW + 20, unsettled_keys=())
    assert agent.kept.states[HOME] == states
    await agent.handler.note_sent(stored)


async def test_a_tick_of_a_lost_partition_is_fenced(agent: Agent, store: WatchedStore) -> None:
    await store.as_other("worker-2").take_over(HOME, owner="worker-2", topic_ids={}, partition_count=1, history_from=0)
    with pytest.raises(Fenced):
        await agent.work(at_the_end(agent.chunk()))


async def test_a_chunk_that_was_not_stored_has_moved_nothing(agent: Agent, store: WatchedStore) -> None:
    chunk = agent.chunk(CLICK, CONVERSION)
    store.failures = [Unavailable("gone")]
    with pytest.raises(Unavailable):
        await agent.work(chunk)
    assert (store.facts.clicks, store.facts.journeys, store.rows[HOME].next_offsets) == ({}, {}, {})
    await agent.work(chunk, is_repeated=True)
    assert touches(store, 9) == [5]


async def test_a_chunk_delivered_twice_leaves_the_same_and_tells_it_again(agent: Agent, store: WatchedStore) -> None:
    chunk = agent.chunk(CLICK, CONVERSION)
    first = await agent.work(chunk)
    facts = store.facts.copy()
    second = await agent.work(chunk)
    assert (store.facts.clicks, store.facts.journeys) == (facts.clicks, facts.journeys)
    assert (second.outputs, second.states, second.cached) == (first.outputs, first.states, first.cached)


async def test_keys_that_no_conversion_can_need_are_forgotten(agent: Agent) -> None:
    old = CLICK._replace(click_time=NOW - 40 * DAY)
    await agent.work(agent.chunk(old))
    assert KEY in agent.kept.states[HOME]
    campaign = next(each for each in range(12, 99) if partition_of(1, each, NAMES.partitions) == HOME)
    stored = await agent.work(agent.chunk(CLICK._replace(click_id=6, campaign_id=campaign)))
    assert stored.states[KEY] is None
    assert list(agent.kept.states[HOME]) == [encode_key(JourneyKey(1, campaign, ""))]


async def test_an_idle_key_that_the_chunk_itself_touches_stays(agent: Agent) -> None:
    await agent.work(agent.chunk(CLICK._replace(click_time=NOW - 40 * DAY)))
    stored = await agent.work(agent.chunk(CLICK._replace(click_id=6)))
    assert stored.states[KEY] is not None
