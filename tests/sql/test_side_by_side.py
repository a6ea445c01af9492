"""Partitions at work at once on real connections: clicks and transactions that they share end as those of the set."""

import asyncio
import random
from collections.abc import Sequence

from stream.agents.driving import drive
from stream.core.errors import Unavailable
from stream.core.events import Click, Conversion
from stream.core.fold import fold
from stream.core.folding import Folded, Place
from stream.core.keys import JourneyKey, partition_of
from stream.core.money import Units
from stream.core.progress import Advance
from stream.core.second_look import found_at_second_look, second_look_needs
from stream.core.state import KeyState
from tables.sql.database import Database
from tables.sql.facts import SqlFactStore, SqlFactTransaction, Writing
from tests.sql.conftest import NOW
from tests.support.builders import click, conversion
from tests.support.oracle import LOOKBACK, expected
from tests.support.strategies import BASE, Event, as_record

PARTITIONS = 3
SETS = 150
CAMPAIGNS = tuple(next(each for each in range(1, 99) if partition_of(1, each, PARTITIONS) == n) for n in range(3))


class Partition:
    """What a worker does with one partition, the log reduced to a list."""

    def __init__(self, store: SqlFactStore, number: int) -> None:
        self.store = store
        self.number = number
        self.waiting: list[Event] = []
        self.states: dict[JourneyKey, KeyState] = {}
        self.epoch = self.newest = 0

    async def take(self) -> None:
        taken = await self.store.take_over(
            self.number, owner="worker-1", topic_ids={}, partition_count=PARTITIONS, history_from=0
        )
        self.epoch = taken.epoch

    async def work(self, partitions: Sequence["Partition"], chance: random.Random) -> None:
        while self.waiting:
            count = chance.randrange(1, 4)
            chunk, self.waiting = self.waiting[:count], self.waiting[count:]
            folded = await self._stored(chunk)
            place = self._place()
            self.states.update(folded.states)
            self.newest = max(self.newest, folded.newest_conversion)
            needs = second_look_needs(place, folded)
            for found in found_at_second_look(place, folded, await self.store.read(needs)) if needs else ():
                sent = found.conversion
                partitions[partition_of(sent.user_id, sent.campaign_id, PARTITIONS)].waiting.append(sent)

    def _place(self) -> Place:
        return Place(self.number, PARTITIONS, LOOKBACK, self.newest)

    async def _stored(self, chunk: Sequence[Event]) -> Folded:
        while True:
            try:
                async with self.store.transaction() as transaction:
                    advance = Advance(self.number, self.epoch, {}, 0, self.newest)
                    await transaction.pass_fence(advance, after_failure=False)
                    folded = await self._folded(transaction, chunk)
                    await transaction.write_journeys(folded.journeys, displaced=folded.displaced, new=folded.new)
                    return folded
            except Unavailable:  # another partition was in the way
                await asyncio.sleep(0)

    async def _folded(self, transaction: SqlFactTransaction, chunk: Sequence[Event]) -> Folded:
        clicks = [event for event in chunk if isinstance(event, Click)]
        conversions = [event for event in chunk if isinstance(event, Conversion)]
        return await drive(fold(self._place(), self.states.get, clicks, conversions), transaction)


def events_of(chance: random.Random, number: int) -> list[Event]:
    """Two clicks that get their campaign late, and conversions of both in all campaigns with two transactions."""
    ids = (10 * number + 1, 10 * number + 2)
    campaigns = {click_id: chance.choice(CAMPAIGNS) for click_id in ids}
    found: list[Event] = []
    for revised_at in range(3):
        click_id = chance.choice(ids)
        fields = {"campaign_id": chance.choice((0, campaigns[click_id])), "visitor_id": chance.choice(("", "v", "w"))}
        time, cost = BASE + chance.randrange(9), Units(chance.randrange(9))
        found.append(click(click_id, click_time=time, click_cpc=cost, revised_at=revised_at, **fields))
    for revised_at in range(5):
        place = chance.randrange(4)
        conv_id = 10 * number + place
        said = {"transaction_id": chance.choice(("t", "t", "u")), "deleted": chance.choice((0, 0, 1))}
        named = {"click_id": ids[place // 3], "campaign_id": CAMPAIGNS[place % 3], "click_time": BASE}
        conv_time = BASE + chance.randrange(9)
        found.append(conversion(conv_id, conv_time=conv_time, revised_at=revised_at, **named, **said))
    chance.shuffle(found)
    return found


async def test_partitions_that_work_at_once_leave_the_rows_of_the_set(mariadb: Database) -> None:
    store = SqlFactStore(mariadb, Writing(owner="worker-1", writes_conversion_logs=True, clock=lambda: NOW))
    chance = random.Random(1)
    partitions = [Partition(store, number) for number in range(PARTITIONS)]
    for partition in partitions:
        await partition.take()
    events: list[Event] = []
    for number in range(1, SETS + 1):
        news = events_of(chance, number)
        events += news
        # Few at a time: what comes next would mend what went wrong before.
        for event in news:
            partitions[partition_of(event.user_id, event.campaign_id, PARTITIONS)].waiting.append(event)
        while any(partition.waiting for partition in partitions):
            await asyncio.gather(*(partition.work(partitions, chance) for partition in partitions))
    wanted = expected([as_record(event) for event in events])
    journeys = "SELECT conv_id, outcome, click_unknown FROM `202_stream_journeys` ORDER BY 1"
    touches = "SELECT conv_id, position, click_id, click_time FROM `202_conversion_touchpoints` ORDER BY 1, 2"
    logs = "SELECT conv_id FROM `202_conversion_logs` ORDER BY 1"
    async with mariadb.reading() as connection:
        assert list(await connection.fetch(journeys)) == [tuple(row) for row in wanted.journeys]
        assert list(await connection.fetch(touches)) == [tuple(row) for row in wanted.touchpoints]
        assert [conv_id for (conv_id,) in await connection.fetch(logs)] == [
            row.conv_id for row in wanted.conversion_logs
        ]
