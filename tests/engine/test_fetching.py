"""The consumer thread: who fetches nothing for a while stays in the group all the same."""

import asyncio
from types import SimpleNamespace
from typing import Any

from aiokafka.consumer.subscription_state import SubscriptionState

from stream.engine.consumer import ChunkConsumer
from stream.engine.fetching import ChunkThread


async def test_who_rests_counts_as_polling() -> None:
    subscriptions = SubscriptionState()
    subscriptions._last_fetch_ended -= 1_000
    before = subscriptions.fetcher_idle_time
    consumer: Any = SimpleNamespace(_fetcher=SimpleNamespace(_subscriptions=subscriptions))
    resting = asyncio.ensure_future(ChunkThread._rest(consumer, 0.01))
    await asyncio.sleep(0)
    while_resting = subscriptions.fetcher_idle_time
    await resting
    assert (before > 999, while_resting, subscriptions.fetcher_idle_time < 1) == (True, 0, True)


async def test_a_worker_with_nothing_to_fetch_rests_in_the_consumer_thread() -> None:
    rested: list[float] = []

    async def rest(seconds: float) -> None:
        rested.append(seconds)

    worker: Any = SimpleNamespace(_get_active_partitions=set, _full=set, _thread=SimpleNamespace(rest=rest))
    assert await ChunkConsumer._fetch(worker, 0.5) is None
    assert rested == [0.5]
