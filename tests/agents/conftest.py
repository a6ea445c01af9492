"""A journeys handler that owns all partitions."""

import pytest

from tests.agents.journeys_desk import NAMES, Agent
from tests.agents.watched_store import WatchedStore


@pytest.fixture
def store() -> WatchedStore:
    return WatchedStore("worker-1")


@pytest.fixture
async def agent(store: WatchedStore) -> Agent:
    made = Agent(store)
    for partition in range(NAMES.partitions):
        await made.handler.take(partition, {NAMES.clicks: None, NAMES.conversions: None})
    return made
