"""Facts of the log stored beside the owner of a partition: what is it told, and what leaves again?"""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from stream.agents.outputs import TopicNames
from stream.agents.reading import EventReader
from stream.core.errors import StreamError
from stream.core.keys import partition_of
from stream.core.progress import PartitionProgress
from stream.engine.chunk import Chunk
from stream.replay import storing
from stream.replay.storing import ChunkReport, Scope, store_chunk
from tests.faults.events import CAMPAIGN, OTHER_CAMPAIGN, USER, click, conversion
from tests.support.memory_store import MemoryDatabase, MemoryStore
from tests.support.traffic import Sent

PARTITIONS = 3
AT = 1_700_000_000
NOW_MS = (AT + 86_400) * 1000
HERE = partition_of(USER, CAMPAIGN, PARTITIONS)
KEY_OF_ANN = f"key {USER}:{CAMPAIGN}:Ann"


def chunk(sent: Sequence[Sent], partition: int = HERE) -> Chunk:
    read = EventReader(clicks="clicks", conversions="conversions", partitions=PARTITIONS)
    arrivals = []
    for offset, each in enumerate(sent):
        record: Any = ConsumerRecord(each.topic, partition, offset, NOW_MS, 1, each.key, each.value, None, 0, 0, ())
        arrivals.append(read(record))
    return Chunk(partition, 0, arrivals, dict.fromkeys(("clicks", "conversions"), len(sent)))


class Desk:
    """A database whose partition somebody owns, who has read the log up to `passed`."""

    def __init__(self, *, epoch: int = 1, passed: int = 0, users: frozenset[int] = frozenset()) -> None:
        self.database = MemoryDatabase()
        offsets = {"clicks": passed, "conversions": passed}
        for number in range(PARTITIONS):
            self.database.progress[number] = PartitionProgress(number, epoch, "w", offsets, 3, {}, 0, 0, 0, ())
        self.scope = Scope(TopicNames("clicks", "conversions", "journeys", PARTITIONS, 1), 30 * 86_400, users)

    async def store(self, *sent: Sent, partition: int = HERE, is_repeated: bool = False) -> ChunkReport:
        store = MemoryStore(self.database, "a replay")
        return await store_chunk(store, self.scope, chunk(sent, partition), is_repeated=is_repeated, place={})

    @property
    def row(self) -> PartitionProgress:
        return self.database.progress[HERE]


def revised(**fields: object) -> Sent:
    return click(1, AT, visitor_id="bob", revised_at=AT + 5, **fields)


async def test_the_owner_is_told_of_keys_whose_clicks_were_revised() -> None:
    desk = Desk()
    await desk.store(click(1, AT, visitor_id="Ann"))
    assert desk.row.outside_changes == 0, "a new click that the owner will come to is no news for it"
    await desk.store(revised())
    assert desk.row.outside_changes == 1
    assert KEY_OF_ANN in desk.row.unsettled_keys


async def test_a_key_that_is_unsettled_already_is_told_again() -> None:
    desk = Desk()
    await desk.store(click(1, AT, visitor_id="Ann"))
    await desk.store(revised())
    texts = desk.row.unsettled_keys
    await desk.store(click(1, AT, visitor_id="Ann", revised_at=AT + 6))
    await desk.store(click(1, AT, visitor_id="bob", revised_at=AT + 7))
    assert set(texts) <= set(desk.row.unsettled_keys)
    assert desk.row.outside_changes == 3


async def test_of_a_partition_that_nobody_had_no_key_is_noted() -> None:
    desk = Desk(epoch=0)
    await desk.store(click(1, AT, visitor_id="Ann"))
    await desk.store(revised(), conversion(1, 1, AT + 9))
    assert desk.row.unsettled_keys == ()
    assert desk.row.newest_conversion == AT + 9


async def test_the_owner_forgets_keys_of_clicks_that_it_has_passed_and_that_sql_had_lost() -> None:
    desk = Desk(passed=5)
    await desk.store(click(1, AT, visitor_id="Ann"))
    assert desk.row.unsettled_keys == (KEY_OF_ANN,)
    desk = Desk(passed=0)
    await desk.store(click(1, AT, visitor_id="Ann"))
    assert desk.row.unsettled_keys == ()


async def test_a_journey_that_is_gone_begins_behind_every_version_of_its_partition() -> None:
    desk = Desk(passed=2)
    sent = [click(1, AT), conversion(1, 1, AT + 9), conversion(2, 1, AT + 10)]
    desk.database.progress[HERE] = replace(desk.row, greatest_version=4)
    await desk.store(*sent)
    assert {key: each.version for key, each in desk.database.facts.journeys.items()} == {1: 5, 2: 1}
    assert desk.row.greatest_version == 5


async def test_of_two_replays_that_bring_one_id_back_for_two_campaigns_the_second_gives_way() -> None:
    """Both look before either writes, and neither begins with version 1."""
    desk = Desk(passed=9)
    elsewhere = partition_of(USER, OTHER_CAMPAIGN, PARTITIONS)
    both = asyncio.Barrier(2)

    async def together(step: str) -> None:
        if step == "write_journeys":
            await both.wait()

    desk.database.before_step = together
    outcomes = await asyncio.gather(
        desk.store(conversion(5, 1, AT)),
        desk.store(conversion(5, 2, AT, campaign_id=OTHER_CAMPAIGN), partition=elsewhere),
        return_exceptions=True,
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["ChunkReport", "Unavailable"]
    assert desk.database.facts.journeys[5].version == 2


async def test_an_owner_that_would_have_to_forget_too_much_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storing, "_MOST_UNSETTLED", 3 * len(KEY_OF_ANN))
    desk = Desk(passed=9)
    await desk.store(*(click(number, AT, visitor_id=f"an{number}") for number in range(1, 4)))
    with pytest.raises(StreamError, match="more keys to forget"):
        await desk.store(click(4, AT, visitor_id="an4"))
    assert 4 not in desk.database.facts.clicks


async def test_what_stands_in_sql_is_left_alone_and_a_repetition_is_sent_again() -> None:
    desk = Desk()
    sent = [click(1, AT, visitor_id="Ann"), conversion(1, 1, AT + 9)]
    first = await desk.store(*sent)
    again = await desk.store(*sent)
    repeated = await desk.store(*sent, is_repeated=True)
    assert (first.counts["new_clicks"], first.counts["new_conversions"]) == (1, 1)
    assert again.records == ()
    assert repeated.records == first.records
    assert len(first.records) == 1
    assert [journey.version for journey in desk.database.facts.journeys.values()] == [1]


async def test_conversions_of_other_partitions_are_sent_on_when_their_click_comes() -> None:
    elsewhere = partition_of(USER, OTHER_CAMPAIGN, PARTITIONS)
    assert elsewhere != HERE
    desk = Desk()
    await desk.store(conversion(1, 1, AT + 9, campaign_id=OTHER_CAMPAIGN), partition=elsewhere)
    assert desk.database.facts.journeys[1].click_unknown
    report = await desk.store(click(1, AT))
    assert [(record.topic, record.partition) for record in report.records] == [("conversions", elsewhere)]


async def test_other_users_and_broken_records_are_left_out_and_counted() -> None:
    desk = Desk(users=frozenset({USER + 1}))
    report = await desk.store(click(1, AT), Sent("clicks", b"{", b"1:1", "broken"))
    assert desk.database.facts.clicks == {}
    assert report.counts["unreadable"] == 1
