"""Journeys that somebody deletes by hand, on both databases and their twin: none comes back with a version it had."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from stream.agents.driving import drive
from stream.agents.firing import HoursAtWork, Order, fire
from stream.agents.outputs import TopicNames
from stream.agents.ports import FactStore
from stream.agents.reading import EventReader
from stream.core.errors import StreamError
from stream.core.facts import Facts, Journey, Needs
from stream.core.fold import fold
from stream.core.folding import Place
from stream.core.keys import JourneyKey, partition_of
from stream.core.progress import Advance
from stream.core.state import KeyState
from stream.engine.chunk import Chunk
from stream.replay.ports import ReplayStore
from stream.replay.storing import Scope, store_chunk
from tables.sql.database import Database, open_database
from tables.sql.facts import SqlFactStore, Writing, reset_progress
from tables.sql.hour_store import SqlHourStore
from tables.sql.purge_ranges import meant_by_ids
from tables.sql.purges import look_to_purge, purge_batch
from tables.sql.replays import SqlReplayStore
from tests.faults.events import USER, click, conversion
from tests.sql.conftest import NOW
from tests.support import sql_examples as rows
from tests.support.memory_store import MemoryDatabase, MemoryStore
from tests.support.model_rows import empty, fetch, run
from tests.support.traffic import Sent

AT = 1_700_000_000
OWNER = "worker-1"
LOOKBACK = 30 * 86_400
NAMES = TopicNames("clicks", "conversions", "journeys", 1, 1)
READ = EventReader(clicks="clicks", conversions="conversions", partitions=1)
LOG = [
    click(1, AT),
    conversion(1, 1, AT + 9),
    conversion(1, 1, AT + 9, deleted=1, revised_at=AT + 20),
    conversion(2, 1, AT + 10),
    conversion(3, 1, AT + 11),
]


@dataclass(frozen=True)
class Kept:
    """A database, whatever it is."""

    store: FactStore
    replays: ReplayStore
    delete: Callable[[int], Awaitable[object]]  # a journey, by hand
    credit: Callable[[int, int], Awaitable[object]]  # a conversion, in a version
    reset: Callable[[], Awaitable[object]]

    async def journeys(self) -> dict[int, Journey]:
        return dict((await self.store.read(Needs(conversions=frozenset(range(9))))).journeys)

    async def versions(self) -> dict[int, int]:
        return {conv_id: journey.version for conv_id, journey in sorted((await self.journeys()).items())}

    async def greatest(self) -> list[int]:
        return [row.greatest_version for row in await self.store.progress()]

    async def take(self, partition: int = 0) -> int:
        taken = await self.store.take_over(partition, owner=OWNER, topic_ids={}, partition_count=1, history_from=0)
        return taken.epoch

    async def work(self, sent: Sequence[Sent], *, offset: int = 0) -> None:
        """As a worker that begins with these records: one chunk each."""
        epoch = await self.take()
        for number, each in enumerate(sent, offset):
            content = chunk([each], number).arrivals[0].content
            events: Any = ([content], []) if each.topic == "clicks" else ([], [content])
            async with self.store.transaction() as transaction:
                offsets = dict.fromkeys(("clicks", "conversions"), number + 1)
                await transaction.pass_fence(Advance(0, epoch, offsets, 0, 0), after_failure=False)
                folded = await drive(fold(Place(0, 1, LOOKBACK, AT + 99), _nothing, *events), transaction)
                await transaction.write_journeys(folded.journeys, displaced=folded.displaced, new=folded.new)

    async def replay(self, sent: Sequence[Sent]) -> None:
        scope = Scope(NAMES, LOOKBACK)
        await store_chunk(self.replays, scope, chunk(sent, 0), is_repeated=False, place={})


def _nothing(_: JourneyKey) -> KeyState | None:
    return None


def chunk(sent: Sequence[Sent], offset: int) -> Chunk:
    arrivals = []
    for number, each in enumerate(sent, offset):
        record: Any = ConsumerRecord(each.topic, 0, number, NOW * 1000, 1, each.key, each.value, None, 0, 0, ())
        arrivals.append(READ(record))
    return Chunk(0, 0, arrivals, dict.fromkeys(("clicks", "conversions"), offset + len(sent)))


def in_memory() -> Kept:
    database = MemoryDatabase()
    credited: dict[int, int] = {}
    database.facts.credited_versions = lambda: credited

    async def delete(conv_id: int) -> None:
        del database.facts.journeys[conv_id]

    async def credit(conv_id: int, version: int) -> None:
        credited[conv_id] = version

    async def reset() -> None:
        database.reset_progress()

    return Kept(MemoryStore(database, OWNER), MemoryStore(database, "a replay"), delete, credit, reset)


def in_sql(database: Database) -> Kept:
    async def delete(conv_id: int) -> None:
        await run(database, f"DELETE FROM `202_stream_journeys` WHERE conv_id = {conv_id}")

    async def credit(conv_id: int, version: int) -> None:
        columns = "conv_id, user_id, date_hour, version"
        await run(database, f"INSERT INTO `202_stream_credited` ({columns}) VALUES ({conv_id}, 7, 3600, {version})")

    async def reset() -> None:
        await reset_progress(database, now=NOW)

    def writing(owner: str) -> Writing:
        return Writing(owner=owner, writes_conversion_logs=True, clock=lambda: NOW)

    replays = SqlReplayStore(database, writing("a replay"), run_id=0)
    return Kept(SqlFactStore(database, writing(OWNER)), replays, delete, credit, reset)


@pytest.fixture(params=["memory", "sqlite", "mariadb"])
def address(request: pytest.FixtureRequest) -> str:
    """'' in memory."""
    return "" if request.param == "memory" else str(request.getfixturevalue(f"schema_{request.param}"))


@pytest.fixture
async def kept(address: str) -> AsyncIterator[Kept]:
    if not address:
        yield in_memory()
        return
    database = open_database(address)
    yield in_sql(database)
    await database.close()


async def test_what_is_left_of_a_journey_is_told_of_those_that_have_none(kept: Kept) -> None:
    await kept.work(LOG)
    for conv_id, version in ((2, 5), (7, 6), (8, 4_294_967_295)):
        await kept.credit(conv_id, version)
    needs = Needs(conversions=frozenset({1, 2, 5, 7, 8}), with_credited=True)
    found = await kept.store.read(needs)
    assert (sorted(found.journeys), found.credited) == ([1, 2], {7: 6, 8: 4_294_967_295})
    assert found.journeys == {key: journey for key, journey in (await kept.journeys()).items() if key < 3}
    assert (await kept.store.read(Needs(conversions=needs.conversions))).credited == {}
    assert await kept.store.read(Needs(with_credited=True)) == Facts()


async def test_a_worker_that_hears_of_it_again_begins_behind_what_its_hour_holds(kept: Kept) -> None:
    await kept.work(LOG)
    await kept.credit(2, 1)
    for conv_id in (2, 3):
        await kept.delete(conv_id)
    news = [conversion(conv_id, 1, AT + 9, click_payout=11, revised_at=AT + 30) for conv_id in (2, 3, 4)]
    await kept.work(news, offset=len(LOG))
    assert await kept.versions() == {1: 2, 2: 2, 3: 1, 4: 1}


async def test_the_hour_follows_a_journey_that_came_back_with_other_money(
    database: Database, hour_store: SqlHourStore
) -> None:
    await empty(database)
    kept, marks = in_sql(database), [(USER, 2)]
    await kept.work(LOG)
    for sent, payout in ((LOG[:1], 10), ([conversion(2, 1, AT + 10, click_payout=11, revised_at=AT + 30)], 11)):
        await kept.work(sent, offset=len(LOG))
        async with hour_store.transaction() as transaction:
            await fire(transaction, HoursAtWork(0), Order(marks=marks), with_extra_scopes=True)
        assert await fetch(database, "SELECT payout FROM `202_stream_credited` WHERE conv_id = 2") == [(payout,)]
        await kept.delete(2)


async def test_a_replay_begins_behind_every_version_of_the_partition(kept: Kept) -> None:
    """Of the second conversion nothing was ever credited, or no more is: readers of the topic know its versions."""
    await kept.work(LOG)
    for wanted in ({1: 2, 2: 3, 3: 1}, {1: 2, 2: 4, 3: 1}):
        await kept.delete(2)
        await kept.replay([*LOG, conversion(4, 1, AT + 12)])
        found = await kept.versions()
        assert found.pop(4) == 1, "the owner has not come to it: it is new"
        assert found == wanted
    assert await kept.greatest() == [4]
    await kept.replay(LOG)
    assert await kept.versions() == {1: 2, 2: 4, 3: 1, 4: 1}


async def test_the_greatest_version_outlives_its_journey_its_owner_and_the_offsets(kept: Kept) -> None:
    await kept.work([*LOG, conversion(1, 1, AT + 9, deleted=0, revised_at=AT + 40)])
    assert await kept.greatest() == [3]
    await kept.delete(1)
    await kept.work([click(2, AT)], offset=9)
    assert await kept.greatest() == [3]
    await kept.take(1)
    assert await kept.greatest() == [3, 3], "keys of a partition that is new may come from any other"
    await kept.reset()
    assert await kept.greatest() == [3, 3]


async def test_what_is_rolled_back_raises_nothing(kept: Kept) -> None:
    epoch = await kept.take()
    seen = []
    for is_left, version in ((True, 5), (False, 4), (True, 9), (False, 6)):
        try:
            async with kept.store.transaction() as transaction:
                await transaction.pass_fence(Advance(0, epoch, {}, 0, 0), after_failure=False)
                await transaction.write_journeys([rows.journey(version=version)], displaced=())
                leave(is_left=is_left)
        except Left:
            pass
        seen += await kept.greatest()
    assert seen == [1, 4, 4, 6]


async def test_a_purge_raises_it_where_its_journeys_lie(database: Database) -> None:
    count = 4
    store = SqlFactStore(database, Writing(owner=OWNER, writes_conversion_logs=True, clock=lambda: NOW))
    here, there = (next(n for n in range(1, 99) if partition_of(7, n, count) == number) for number in (0, 1))
    for number, campaign in enumerate((here, there)):
        epoch = (await store.take_over(number, owner=OWNER, topic_ids={}, partition_count=count, history_from=0)).epoch
        made = rows.journey(rows.conversion(number + 1, campaign_id=campaign), version=4 + number)
        async with store.transaction() as transaction:
            await transaction.pass_fence(Advance(number, epoch, {}, 0, 0), after_failure=False)
            await transaction.write_journeys([made])
    async with database.reading() as connection:
        meant = await meant_by_ids(connection, [1, 2])
    await purge_batch(database, meant, look_to_purge(), partitions=count, now=NOW)
    assert [row.greatest_version for row in await store.progress()][:2] == [5, 6]


class Left(StreamError):
    """The transaction is given up."""


def leave(*, is_left: bool) -> None:
    if is_left:
        raise Left("on purpose")
