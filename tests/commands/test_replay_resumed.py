"""A replay that goes on with one that was broken off: from where, and what does it send again?"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from stream.agents.outputs import TopicNames
from stream.agents.reading import EventReader
from stream.commands import replay_refused, replay_work
from stream.commands.replay_plan import Plan, Wish
from stream.commands.replay_refused import Failure, Teller
from stream.commands.replay_work import Job, work_on
from stream.core.errors import StreamError, Unavailable
from stream.engine.alignment import PartitionIntake
from stream.engine.chunk import Chunk
from stream.replay.computing import BatchReport, compute_batch
from stream.replay.log_range import LogRange
from stream.replay.storing import Scope
from tables.cache import JourneyCache
from tables.sql.database import Database, open_database
from tables.sql.facts import Writing
from tables.sql.purge_ranges import Meant
from tables.sql.purges import look_to_purge, purge_batch
from tables.sql.replays import SqlReplayStore, SqlReplayTransaction
from tables.sql.upgrade import upgrade_schema
from tests.faults.events import CAMPAIGN, USER, click, conversion
from tests.replay.test_storing import AT, NOW_MS
from tests.support.traffic import Sent

NAMES = TopicNames("clicks", "conversions", "journeys", 1, 1)
TOPICS = (NAMES.clicks, NAMES.conversions)
RUN = 1


def test_a_run_that_an_older_release_broke_off_is_known_by_its_arguments() -> None:
    wish = Wish(users=(7,), start=5, end=9)
    of_older: dict[str, object] = {
        "partitions": 0,
        "topic_ids": {},
        "users": [7],
        "start": 5,
        "end": 9,
        "allow_incomplete": False,
    }
    assert wish.arguments(Plan([], {}, {})) == of_older
    assert Wish(users=(), start=0, end=0).of(of_older) == wish


class Broken(Exception):
    """The process was killed here."""


class Log:
    """Of one partition, read in chunks of a size of the test's own; the starts that were asked for are kept."""

    def __init__(self) -> None:
        self.records: dict[str, list[Any]] = {topic: [] for topic in TOPICS}
        self.starts: list[dict[str, int]] = []
        self.size = 100

    def append(self, *sent: Sent) -> None:
        for each in sent:
            log = self.records[each.topic]
            log.append(replay_record(each, len(log)))

    @property
    def ends(self) -> dict[str, int]:
        return {topic: len(log) for topic, log in self.records.items()}

    async def chunks(self, part: LogRange, offsets: Mapping[str, int]) -> AsyncIterator[Chunk]:
        starts = dict(offsets)
        self.starts.append(starts)
        read = EventReader(clicks=NAMES.clicks, conversions=NAMES.conversions, partitions=1)
        intake = PartitionIntake(0, 0, starts, is_aligned=True)
        for topic, end in part.ends.items():
            intake.add(topic, map(read, self.records[topic][starts[topic] : end]), max(end, starts[topic]))
        intake.mark_ends(dict.fromkeys(TOPICS, True))
        while (chunk := intake.next_chunk(self.size, 0.0)) is not None:
            yield chunk


class Sender:
    """What was sent, as conversion ids; breaks off before it sends where it is told to."""

    def __init__(self) -> None:
        self.sent: set[int] = set()
        self.breaks_off_at = 0  # so many calls from now on; 0: never

    async def send(self, records: Sequence[Any]) -> None:
        if self.breaks_off_at:
            self.breaks_off_at -= 1
            if not self.breaks_off_at:
                raise Broken
        self.sent |= {json.loads(record.value)["conv_id"] for record in records}


class Cache(JourneyCache):
    """Keeps what was deleted. `is_broken`: the process is killed before it deletes."""

    def __init__(self) -> None:
        super().__init__("", 0)
        self.deleted: set[int] = set()
        self.is_broken = False

    async def delete(self, conv_ids: Sequence[int]) -> int:
        if self.is_broken:
            raise Broken
        self.deleted |= {*conv_ids}
        return 0


class Telling(Teller):
    """What was refused, conversions and clicks, in the order in which it was told."""

    def __init__(self) -> None:
        self.conversions: list[int] = []
        self.clicks: list[tuple[int, str, int]] = []

    def failed(self, failure: Failure) -> None:
        if failure.conv_id:
            self.conversions.append(failure.conv_id)
        else:
            self.clicks.append((failure.click_id, failure.topic, failure.offset))


class Desk:
    """A run of all conversions from AT on, on a database of its own."""

    def __init__(self, database: Database) -> None:
        self.log, self.sender, self.cache, self.telling = Log(), Sender(), Cache(), Telling()
        self._database = database
        writes = Writing(owner="replay", writes_conversion_logs=True, clock=lambda: AT)
        self.store = SqlReplayStore(database, writes, run_id=RUN)

    async def round(self, *, is_facts: bool, starts: Mapping[str, int] | None = None, batch_size: int = 500) -> None:
        starts = starts or dict.fromkeys(TOPICS, 0)
        job = Job(RUN, is_facts, (), AT, AT + 10_000, batch_size, [0], [starts], [self.log.ends])
        settings: Any = None
        await work_on(
            settings,
            job,
            Scope(NAMES, 86_400),
            store=self.store,
            writer=self.sender,
            cache=self.cache,
            teller=self.telling,
        )

    async def both(self) -> None:
        await self.round(is_facts=True)
        await self.round(is_facts=False)

    async def broken_off(self, *, at: int, **options: Any) -> None:  # noqa: ANN401 - those of `round`
        self.sender.breaks_off_at = at
        with pytest.raises(Broken):
            await self.round(**options)

    async def purge(self, *conv_ids: int) -> None:
        meant = [Meant(number, USER, CAMPAIGN) for number in conv_ids]
        await purge_batch(self._database, meant, look_to_purge(), partitions=1, now=AT)

    async def refuse(self, relation: str, column: str, *ids: int) -> None:
        """Rows of these ids, until `take_all`."""
        listed = ", ".join(map(str, ids))
        async with self._database.transaction() as connection:
            await connection.run(
                f"CREATE TRIGGER refused_{column} BEFORE INSERT ON `{relation}` WHEN NEW.{column} IN ({listed})"
                " BEGIN SELECT RAISE(ABORT, 'no such row here'); END"
            )

    async def take_all(self) -> None:
        async with self._database.transaction() as connection:
            for column in ("conv_id", "click_id"):
                await connection.run(f"DROP TRIGGER IF EXISTS refused_{column}")

    async def place(self) -> Mapping[str, object]:
        return await self.store.read_place(0)

    async def touches(self) -> dict[int, int]:
        """How many touchpoint rows each conversion has."""
        async with self._database.reading() as connection:
            rows = await connection.fetch("SELECT conv_id, COUNT(*) FROM `202_conversion_touchpoints` GROUP BY conv_id")
        return dict(rows)


@pytest.fixture
async def desk(fresh_sqlite: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Desk]:
    await upgrade_schema(fresh_sqlite)
    database = open_database(fresh_sqlite)
    made = Desk(database)

    def chunks(_: replay_work._Doing, part: LogRange, offsets: Mapping[str, int]) -> AsyncIterator[Chunk]:
        return made.log.chunks(part, offsets)

    monkeypatch.setattr(replay_work._Doing, "_chunks", chunks)
    yield made
    await database.close()


def events(first: int, count: int) -> list[Sent]:
    """A click and its conversion of each number, each of another visitor."""
    numbers = range(first, first + count)
    return [
        *(click(number, AT + 10 * number, visitor_id=f"visitor {number}") for number in numbers),
        *(conversion(number, number, AT + 10 * number + 5) for number in numbers),
    ]


async def test_a_replay_that_is_killed_twice_still_sends_what_the_first_kill_left(desk: Desk) -> None:
    """The second time its chunks are smaller, and it comes less far."""
    desk.log.append(*events(1, 20))
    await desk.broken_off(at=1, is_facts=True)
    assert len(await desk.touches()) == 20, "stored, and not sent"
    desk.log.size = 10
    await desk.broken_off(at=2, is_facts=True)
    await desk.round(is_facts=True)
    assert desk.sender.sent == {*range(1, 21)}


@pytest.mark.parametrize("is_facts", [True, False])
async def test_after_a_lost_reply_to_a_commit_everything_is_sent(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, *, is_facts: bool
) -> None:
    desk.log.append(*events(1, 20))
    if not is_facts:
        await desk.round(is_facts=True)
        await desk.purge(*range(1, 21))
        desk.sender.sent.clear()
        desk.cache.deleted.clear()
    lost: list[str] = []

    begin = desk.store.transaction

    @contextlib.asynccontextmanager
    async def transaction() -> AsyncIterator[SqlReplayTransaction]:
        async with begin() as given:
            yield given
        if not lost:
            lost.append("reply")
            raise Unavailable("no reply")

    monkeypatch.setattr(desk.store, "transaction", transaction)
    await desk.round(is_facts=is_facts)
    assert lost
    assert desk.sender.sent == {*range(1, 21)}
    assert desk.cache.deleted == {*range(1, 21)}


async def test_cache_entries_of_a_batch_that_was_broken_off_go_although_the_next_try_is_broken_off_as_well(
    desk: Desk,
) -> None:
    desk.log.append(*events(1, 20))
    await desk.round(is_facts=True)
    await desk.purge(*range(1, 21))
    desk.cache.deleted.clear()
    desk.cache.is_broken = True
    with pytest.raises(Broken):
        await desk.round(is_facts=False)
    desk.cache.is_broken = False
    await desk.broken_off(at=2, is_facts=False, batch_size=4)
    await desk.round(is_facts=False, batch_size=4)
    assert desk.cache.deleted == {*range(1, 21)}


async def test_no_batch_is_computed_while_cache_entries_of_another_go(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """memcached has a fifth of a second to answer: a fold beside it would take that for a failure."""
    desk.log.append(*events(1, 20))
    await desk.round(is_facts=True)
    await desk.purge(*range(1, 21))
    delete = desk.cache.delete
    under_way: set[int] = set()
    batches = []

    async def computed(*given: Any, **named: Any) -> BatchReport:  # noqa: ANN401 - what the product gives
        batches.append(set(under_way))
        return await compute_batch(*given, **named)

    async def deleted(conv_ids: Sequence[int]) -> int:
        under_way.update(conv_ids)
        await asyncio.sleep(0.01)
        under_way.clear()
        return await delete(conv_ids)

    monkeypatch.setattr(replay_work, "compute_batch", computed)
    monkeypatch.setattr(desk.cache, "delete", deleted)
    await desk.round(is_facts=False, batch_size=4)
    assert batches == [set()] * 5


async def test_what_is_purged_after_a_replay_was_broken_off_comes_back(desk: Desk) -> None:
    desk.log.append(*events(1, 20))
    await desk.round(is_facts=True)
    wanted = await desk.touches()
    await desk.broken_off(at=3, is_facts=False, batch_size=4)
    await desk.purge(*range(1, 21))
    await desk.round(is_facts=False, batch_size=4)
    assert await desk.touches() == wanted


async def test_what_is_purged_after_a_partition_was_done_comes_back(desk: Desk) -> None:
    """Another partition was not done: the run goes on."""
    desk.log.append(*events(1, 3))
    await desk.both()
    wanted = await desk.touches()
    await desk.purge(1, 2, 3)
    await desk.both()
    assert await desk.touches() == wanted


async def test_records_that_came_after_a_replay_was_broken_off_are_read(desk: Desk) -> None:
    desk.log.append(*events(1, 3))
    await desk.both()
    desk.log.append(*events(4, 3))
    await desk.both()
    assert len(await desk.touches()) == 6
    assert desk.log.starts == [{"clicks": 0, "conversions": 0}, {"clicks": 3, "conversions": 3}]
    await desk.both()
    assert len(desk.log.starts) == 2, "nothing is read twice"


async def test_records_that_tell_of_nothing_new_do_not_begin_the_journeys_anew(desk: Desk) -> None:
    """Such as a replay's own: what the facts of one partition send on to another."""
    desk.log.append(*events(1, 20))
    await desk.round(is_facts=True)
    await desk.broken_off(at=4, is_facts=False, batch_size=4)
    for computed, repeated in ((8, 3), (0, 5)):
        desk.sender.sent.clear()
        desk.log.append(*events(repeated, 2))
        await desk.both()
        assert len(desk.sender.sent) == computed
    await desk.purge(1)
    desk.log.append(*events(7, 1))
    await desk.both()
    assert len(desk.sender.sent) == 20, "what was purged comes back"
    desk.log.append(*events(21, 1))
    await desk.both()
    assert len(desk.sender.sent) == 21


async def test_a_log_that_was_cut_behind_the_noted_place_is_read_from_where_it_begins(desk: Desk) -> None:
    desk.log.append(*events(1, 20))
    desk.log.size = 10
    await desk.broken_off(at=1, is_facts=True)
    await desk.round(is_facts=True, starts={"clicks": 15, "conversions": 12})
    assert desk.log.starts[-1] == {"clicks": 15, "conversions": 12}


async def test_a_refused_conversion_is_named_by_each_run_and_tried_again_alone(desk: Desk) -> None:
    """Also by one that goes on behind it; in the end it is written, and the others are not written once more."""
    desk.log.append(*events(1, 20))
    await desk.round(is_facts=True)
    wanted = await desk.touches()
    await desk.purge(*range(1, 21))
    await desk.refuse("202_conversion_touchpoints", "conv_id", 5, 13)
    await desk.broken_off(at=6, is_facts=False, batch_size=2)
    assert desk.telling.conversions == [13], "in the order of visitors, as texts"
    await desk.round(is_facts=False, batch_size=2)
    assert desk.telling.conversions == [13, 13, 5]
    assert sorted(wanted.keys() - (await desk.touches()).keys()) == [5, 13]
    await desk.take_all()
    desk.sender.sent.clear()
    await desk.both()
    assert desk.sender.sent == {5, 13}
    assert await desk.touches() == wanted
    assert not {"refused_conversions", "refused_records"} & (await desk.place()).keys()


async def test_a_refused_record_is_named_by_each_run_and_read_again_alone(desk: Desk) -> None:
    desk.log.append(*events(1, 20))
    await desk.refuse("202_stream_clicks", "click_id", 7)
    await desk.refuse("202_stream_journeys", "conv_id", 12)
    for runs in (1, 2):
        await desk.both()
        assert (desk.telling.clicks, desk.telling.conversions) == ([(7, "clicks", 6)] * runs, [12] * runs)
    assert len(await desk.touches()) == 19
    await desk.take_all()
    desk.log.starts.clear()
    desk.sender.sent.clear()
    await desk.both()
    assert desk.log.starts == [{"clicks": 6}, {"conversions": 11}]
    assert desk.sender.sent == {7, 12}
    assert await desk.touches() == dict.fromkeys(range(1, 21), 1)
    await desk.both()
    assert len(desk.log.starts) == 2, "nothing is left to try"


async def test_a_database_that_refuses_all_ends_the_run_and_nothing_is_passed_over(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_refused, "MOST_REFUSED", 5)
    desk.log.append(*events(1, 20))
    for is_facts, relation in ((True, "202_stream_journeys"), (False, "202_conversion_touchpoints")):
        await desk.purge(*range(1, 21))
        await desk.refuse(relation, "conv_id", *range(1, 21))
        desk.telling.conversions.clear()
        with pytest.raises(StreamError, match="refuses more than 5 of its records"):
            await desk.round(is_facts=is_facts, batch_size=4)
        assert len(desk.telling.conversions) == 6
        await desk.take_all()
        await desk.round(is_facts=is_facts, batch_size=4)
    assert len(await desk.touches()) == 20


def replay_record(sent: Sent, offset: int) -> Any:  # noqa: ANN401 - aiokafka has no types
    return ConsumerRecord(sent.topic, 0, offset, NOW_MS, 1, sent.key, sent.value, None, 0, 0, ())
