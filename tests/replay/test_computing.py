"""Stored conversions computed once more: alike for every size of batch, and written only where they differ."""

import json
import random
from collections.abc import Sequence

import pytest

from stream.agents.outputs import TopicNames
from stream.core.facts import Journey, Outcome
from stream.core.keys import JourneyKey, partition_of
from stream.replay.computing import BatchReport, Named, compute_batch
from stream.replay.storing import ChunkReport, Scope
from tests.faults.events import CAMPAIGN, OTHER_CAMPAIGN, USER, click, conversion
from tests.replay.test_storing import AT, HERE, PARTITIONS, Desk
from tests.support.memory_store import MemoryStore
from tests.support.traffic import Sent

HOUR = 3600


class Computing(Desk):
    """With one partition, so that all is computed here."""

    def __init__(self) -> None:
        super().__init__()
        self.scope = Scope(TopicNames("clicks", "conversions", "journeys", 1, 1), 30 * 86_400)
        self.database.progress = {0: self.database.progress[0]}

    @property
    def journeys(self) -> dict[int, Journey]:
        return self.database.facts.journeys

    async def compute(self, *conv_ids: int) -> BatchReport:
        batch = [Named(number, self.journeys[number].conversion.click_id) for number in conv_ids]
        return await compute_batch(
            MemoryStore(self.database, "a replay"), self.scope, 0, batch, is_repeated=False, place={}
        )


def events(seed: int) -> Sequence[Sent]:
    """A busy key, two visitors, some transactions twice."""
    chance = random.Random(seed)
    clicks = [
        click(number, AT + chance.randrange(60 * 86_400), visitor_id=chance.choice(["", "ann", "bob"]))
        for number in range(1, 150)
    ]
    conversions = [
        conversion(
            number,
            chance.randrange(1, 155),
            AT + chance.randrange(61 * 86_400),
            transaction_id=chance.choice(["", "t1", "t2"]),
        )
        for number in range(1, 60)
    ]
    return [*clicks, *conversions]


async def stored(seed: int = 0) -> Computing:
    made = Computing()
    await made.store(*events(seed), partition=0)
    return made


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_what_is_right_is_not_written_and_what_is_wrong_becomes_right(size: int) -> None:
    made = await stored(size)
    wanted = dict(made.journeys)
    ids = sorted(wanted, key=lambda number: (wanted[number].key, wanted[number].conversion.conv_time))
    batches = [ids[start : start + size] for start in range(0, len(ids), size)]
    for batch in batches:
        report = await made.compute(*batch)
        assert report.written == []
        assert {*batch} <= {json.loads(record.value or b"")["conv_id"] for record in report.records}
    assert made.journeys == wanted
    for number in ids[::2]:
        made.journeys[number] = wanted[number]._replace(touches=(), purged=True)
    written = [number for batch in batches for number in (await made.compute(*batch)).written]
    assert sorted(written) == sorted(ids[::2])
    assert {number: each._replace(version=1) for number, each in made.journeys.items()} == wanted


async def test_a_conversion_that_was_stored_under_another_key_takes_the_clicks_of_its_own() -> None:
    """Its click was stored elsewhere meanwhile; another conversion of the true key comes long before it."""
    made = Computing()
    clicks = [click(number, AT + number * HOUR, visitor_id="ann") for number in range(1, 41)]
    await made.store(*clicks, conversion(1, 3, AT + 3 * HOUR + 1), conversion(2, 40, AT + 41 * HOUR), partition=0)
    right = made.journeys[2]
    assert right.key == JourneyKey(USER, CAMPAIGN, "ann")
    made.journeys[2] = right._replace(visitor_id="", click_unknown=True, touches=right.touches[-1:])
    report = await made.compute(1, 2)
    assert report.written == [2]
    assert made.journeys[2] == right._replace(version=2)


async def test_of_a_busy_key_also_an_old_conversion_gets_its_newest_clicks() -> None:
    """For both of them fifty are read at once, and of these the old one may have ten."""
    made = Computing()
    clicks = [click(number, AT + number) for number in range(1, 101)]
    await made.store(*clicks, conversion(1, 60, AT + 60), conversion(2, 100, AT + 101), partition=0)
    report = await made.compute(1, 2)
    assert report.written == []
    assert [touch.click_id for touch in made.journeys[1].touches] == list(range(36, 61))


async def test_conversions_that_are_gone_are_left_out() -> None:
    made = await stored()
    batch = [Named(1, made.journeys[1].conversion.click_id), Named(999, 999)]
    report = await compute_batch(
        MemoryStore(made.database, "a replay"), made.scope, 0, batch, is_repeated=False, place={}
    )
    assert report.conversions == 1


ELSEWHERE = partition_of(USER, OTHER_CAMPAIGN, PARTITIONS)


async def paid_twice() -> Desk:
    """Two reports of one payment: the first, which counts, lies here, the other one elsewhere."""
    desk = Desk()
    await desk.store(click(1, AT), conversion(1, 1, AT + 5, transaction_id="t"))
    other = conversion(2, 1, AT + 9, transaction_id="t", campaign_id=OTHER_CAMPAIGN)
    await desk.store(other, partition=ELSEWHERE)
    assert desk.database.facts.journeys[2].outcome is Outcome.DUPLICATE
    return desk


async def sent_on_by_computing_the_first(desk: Desk) -> Sequence[int | None]:
    """The partitions."""
    report = await compute_batch(
        MemoryStore(desk.database, "a replay"), desk.scope, HERE, [Named(1, 1)], is_repeated=False, place={}
    )
    return [record.partition for record in report.records if record.topic == "conversions"]


async def test_a_report_of_the_same_payment_in_another_partition_is_sent_on_where_both_count() -> None:
    """As after two workers that did not see each other's, and died before their second looks."""
    desk = await paid_twice()
    journeys = desk.database.facts.journeys
    journeys[2] = journeys[2]._replace(outcome=Outcome.COUNTED)
    assert await sent_on_by_computing_the_first(desk) == [ELSEWHERE]


async def test_a_report_that_counts_since_another_one_lost_its_transaction_is_sent_on() -> None:
    """As after a replay that stored the revision and died before its second look."""
    desk = await paid_twice()
    await desk.store(conversion(1, 1, AT + 5, revised_at=AT + 20))
    assert await sent_on_by_computing_the_first(desk) == [ELSEWHERE]


async def test_who_repeats_a_batch_has_counted_reports_of_its_payments_computed_once_more() -> None:
    """A log row that the try before it took away, and told nobody of, comes back so."""
    desk = await paid_twice()
    await desk.store(
        conversion(2, 1, AT + 3, transaction_id="t", campaign_id=OTHER_CAMPAIGN, revised_at=AT + 20),
        partition=ELSEWHERE,
    )
    await desk.store(conversion(1, 1, AT + 5, transaction_id="t"), is_repeated=True)
    assert desk.database.facts.journeys[1].outcome is Outcome.DUPLICATE
    assert await sent_on_by_computing_the_first(desk) == []
    store = MemoryStore(desk.database, "a replay")
    report = await compute_batch(store, desk.scope, HERE, [Named(1, 1)], is_repeated=True, place={})
    assert [record.partition for record in report.records if record.topic == "conversions"] == [ELSEWHERE]
    told = await desk.store(conversion(1, 1, AT + 5, transaction_id="t"), is_repeated=True)
    assert [record.partition for record in told.records if record.topic == "conversions"] == [ELSEWHERE]


async def sent_on_where_another_came_before_we_wrote(desk: Desk, other: Sent) -> Sequence[tuple[int | None, int]]:
    """Partitions and conversions, of the other one's chunk and of ours."""
    sent_on: list[tuple[int | None, int]] = []

    def take(report: BatchReport | ChunkReport) -> None:
        of_conversions = [record for record in report.records if record.topic == "conversions"]
        sent_on.extend((record.partition, json.loads(record.value or b"")["conv_id"]) for record in of_conversions)

    async def before_step(step: str) -> None:
        if step in {"write_journeys", "commit"}:  # once we write it would wait for us
            desk.database.before_step = nothing
            take(await desk.store(other, partition=ELSEWHERE))

    async def nothing(_: str) -> None: ...

    desk.database.before_step = before_step
    take(
        await compute_batch(
            MemoryStore(desk.database, "a replay"), desk.scope, HERE, [Named(1, 1)], is_repeated=False, place={}
        )
    )
    return sent_on


async def test_a_report_stored_elsewhere_while_ours_is_computed_is_sent_on_by_whoever_stores_it() -> None:
    desk = Desk()
    await desk.store(click(1, AT), conversion(1, 1, AT + 5, transaction_id="t"))
    earlier = conversion(2, 1, AT + 3, transaction_id="t", campaign_id=OTHER_CAMPAIGN)
    assert await sent_on_where_another_came_before_we_wrote(desk, earlier) == [(HERE, 1)]


async def test_a_report_that_was_deleted_while_ours_came_to_be_its_duplicate_is_seen_by_us() -> None:
    """Its partition found that ours counts, as it should."""
    desk = Desk()
    earlier = {"transaction_id": "t", "campaign_id": OTHER_CAMPAIGN}
    await desk.store(conversion(2, 1, AT + 3, **earlier), partition=ELSEWHERE)
    await desk.store(click(1, AT), conversion(1, 1, AT + 5, transaction_id="t"))
    journeys = desk.database.facts.journeys
    assert journeys[1].outcome is Outcome.DUPLICATE
    journeys[1] = journeys[1]._replace(outcome=Outcome.COUNTED)
    deleted = conversion(2, 1, AT + 3, deleted=1, revised_at=AT + 20, **earlier)
    assert await sent_on_where_another_came_before_we_wrote(desk, deleted) == [(HERE, 1)]


async def test_a_report_that_came_to_count_while_we_took_its_log_row_away_is_sent_on() -> None:
    desk = await paid_twice()
    revised = conversion(2, 1, AT + 3, transaction_id="t", campaign_id=OTHER_CAMPAIGN, revised_at=AT + 20)
    assert sorted(await sent_on_where_another_came_before_we_wrote(desk, revised)) == [
        (HERE, 1),
        (HERE, 1),
        (ELSEWHERE, 2),
    ]
