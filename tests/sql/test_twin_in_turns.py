"""Two workers at one row, in memory and on MariaDB: who waits, who sees what, and who gives up."""

import asyncio
from collections.abc import Awaitable

import pytest

from stream.agents.ports import FactStore
from stream.core.errors import Fenced, Unavailable
from stream.core.facts import Needs
from stream.core.progress import Advance
from stream.replay.ports import ReplayStore
from tables.sql.database import Database
from tables.sql.facts import SqlFactStore, Writing
from tables.sql.replays import SqlReplayStore
from tests.support.memory_store import MemoryDatabase, MemoryStore
from tests.support.sql_examples import click, conversion, journey

WAITS_S = 0.3


class Pair:
    """Two workers, and a hand beside them, on one database."""

    def __init__(self, first: FactStore, second: FactStore, hand: ReplayStore) -> None:
        self.first = first
        self.second = second
        self.hand = hand


@pytest.fixture(params=["memory", "mariadb"])
def pair(request: pytest.FixtureRequest) -> Pair:
    if request.param == "memory":
        memory = MemoryDatabase()
        return Pair(MemoryStore(memory, "first"), MemoryStore(memory, "second"), MemoryStore(memory, "hand"))
    database: Database = request.getfixturevalue("mariadb")

    def writing(owner: str) -> Writing:
        return Writing(owner=owner, writes_conversion_logs=True, clock=lambda: 1)

    return Pair(
        SqlFactStore(database, writing("first")),
        SqlFactStore(database, writing("second")),
        SqlReplayStore(database, writing("hand"), run_id=0),
    )


async def take(store: FactStore, owner: str, partition: int = 0) -> int:
    row = await store.take_over(partition, owner=owner, topic_ids={}, partition_count=2, history_from=0)
    return row.epoch


def advance(epoch: int, partition: int = 0) -> Advance:
    return Advance(partition, epoch, {"clicks": 1}, 1, 1)


async def waits(work: Awaitable[object]) -> "asyncio.Future[object]":
    """Begun, and not done while somebody is in its way."""
    task = asyncio.ensure_future(work)
    done, _ = await asyncio.wait({task}, timeout=WAITS_S)
    assert not done, "it should wait"
    return task


async def test_nobody_sees_what_is_not_committed(pair: Pair) -> None:
    async with pair.hand.transaction() as transaction:
        await transaction.lock_partition(0)
        await transaction.claim_clicks([click(1)])
        assert (await transaction.read(Needs(clicks=frozenset([1])))).clicks == {1: click(1)}
        assert (await pair.first.read(Needs(clicks=frozenset([1])))).clicks == {}
    assert (await pair.first.read(Needs(clicks=frozenset([1])))).clicks == {1: click(1)}


async def test_a_transaction_sees_what_others_commit_meanwhile(pair: Pair) -> None:
    async with pair.hand.transaction() as transaction:
        assert (await transaction.read(Needs(clicks=frozenset([1])))).clicks == {}
        async with pair.first.transaction() as other:
            await other.claim_clicks([click(1)])
        assert (await transaction.read(Needs(clicks=frozenset([1])))).clicks == {1: click(1)}


async def test_a_new_owner_waits_for_the_transaction_of_the_old_one(pair: Pair) -> None:
    epoch = await take(pair.first, "first")
    async with pair.first.transaction() as transaction:
        await transaction.pass_fence(advance(epoch), after_failure=False)
        taking = await waits(take(pair.second, "second"))
    assert await taking == epoch + 1
    with pytest.raises(Fenced):
        async with pair.first.transaction() as transaction:
            await transaction.pass_fence(advance(epoch), after_failure=True)


async def test_writers_of_a_partition_follow_one_another(pair: Pair) -> None:
    epoch = await take(pair.first, "first")

    async def beside() -> object:
        async with pair.hand.transaction() as hand:
            await hand.lock_partition(0)
            return (await hand.read(Needs(clicks=frozenset([1])))).clicks

    async with pair.first.transaction() as transaction:
        await transaction.pass_fence(advance(epoch), after_failure=False)
        await transaction.claim_clicks([click(1)])
        reading = await waits(beside())
    assert await reading == {1: click(1)}


async def test_of_two_that_wait_for_each_other_one_gives_up(pair: Pair) -> None:
    has_first, has_second = asyncio.Event(), asyncio.Event()

    async def work(store: FactStore, ids: tuple[int, int], mine: asyncio.Event, others: asyncio.Event) -> str:
        try:
            async with store.transaction() as transaction:
                await transaction.claim_clicks([click(ids[0])])
                mine.set()
                await others.wait()
                await transaction.claim_clicks([click(ids[1])])
        except Unavailable:
            return "gave up"
        return "committed"

    outcomes = await asyncio.gather(
        work(pair.first, (1, 2), has_first, has_second), work(pair.second, (2, 1), has_second, has_first)
    )
    assert sorted(outcomes) == ["committed", "gave up"]
    assert (await pair.first.read(Needs(clicks=frozenset([1, 2])))).clicks.keys() == {1, 2}


async def test_of_two_counting_conversions_of_one_payment_the_second_gives_up(pair: Pair) -> None:
    async def write(store: FactStore, conv_id: int) -> None:
        async with store.transaction() as transaction:
            counted = journey(conversion(conv_id, click_id=5, transaction_id="T"))
            await transaction.write_journeys([counted], displaced=())

    await write(pair.first, 1)
    with pytest.raises(Unavailable):
        await write(pair.second, 2)
