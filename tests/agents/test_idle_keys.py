"""Keys idle longer than the lookback are forgotten, here and in the changelog, and no journey is wrong for it."""

import pytest

from stream.core.keys import partition_of
from tests.agents.journeys_desk import CLICK, CONVERSION, DAY, HOME, KEY, NAMES, NOW, Agent, touches
from tests.agents.watched_store import WatchedStore

OTHER = next(each for each in range(12, 99) if partition_of(1, each, NAMES.partitions) == HOME)


@pytest.mark.parametrize(("idle_for", "is_forgotten"), [(30 * DAY, False), (30 * DAY + 1, True)])
async def test_the_lookback_is_the_bound(agent: Agent, idle_for: int, is_forgotten: bool) -> None:  # noqa: FBT001
    await agent.work(agent.chunk(CLICK._replace(click_time=NOW - idle_for)))
    stored = await agent.work(agent.chunk(CLICK._replace(click_id=6, campaign_id=OTHER, click_time=NOW)))
    assert (stored.states.get(KEY, b"kept") is None, KEY in agent.kept.states[HOME]) == (is_forgotten, not is_forgotten)


async def test_a_key_with_a_newer_conversion_is_not_idle(agent: Agent) -> None:
    await agent.work(agent.chunk(CLICK._replace(click_time=NOW - 40 * DAY), CONVERSION._replace(conv_time=NOW - DAY)))
    stored = await agent.work(agent.chunk(CLICK._replace(click_id=6, campaign_id=OTHER)))
    assert KEY not in stored.states


async def test_a_late_conversion_of_a_forgotten_key_finds_its_clicks_in_sql(agent: Agent, store: WatchedStore) -> None:
    await agent.work(agent.chunk(CLICK._replace(click_time=NOW - 40 * DAY)))
    await agent.work(agent.chunk(CLICK._replace(click_id=6, campaign_id=OTHER)))
    assert KEY not in agent.kept.states[HOME]
    late = CONVERSION._replace(click_id=8, click_time=NOW - 39 * DAY, conv_time=NOW - 39 * DAY)
    await agent.work(agent.chunk(late))
    assert touches(store, 9) == [5, 8]
    assert agent.metric("sql_lookups_total", reason="unknown_keys") >= 1
