"""A run of a replay on a database and a log of its own, which breaks off where a test wants it to."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import pytest
from aiokafka.structs import ConsumerRecord

from stream.agents.outputs import TopicNames
from stream.agents.reading import EventReader
from stream.commands import replay_work
from stream.commands.replay_refused import Failure, Teller
from stream.commands.replay_work import Job, work_on
from stream.engine.alignment import PartitionIntake
from stream.engine.chunk import Chunk
from stream.replay.log_range import LogRange
from stream.replay.storing import Scope
from tables.cache import JourneyCache
from tables.sql.database import Database, open_database
from tables.sql.facts import Writing
from tables.sql.purge_ranges import Meant
from tables.sql.purges import look_to_purge, purge_batch
from tables.sql.replays import SqlReplayStore
from tables.sql.upgrade import upgrade_schema
from tests.faults.events import CAMPAIGN, USER, click, conversion
from tests.replay.test_storing import AT, NOW_MS
from tests.support.traffic import Sent

NAMES = TopicNames("clicks", "conversions", "journeys", 1, 1)
TOPICS = (NAMES.clicks, NAMES.conversions)
RUN = 1


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


def replay_record(sent: Sent, offset: int) -> Any:  # noqa: ANN401 - aiokafka has no types
    return ConsumerRecord(sent.topic, 0, offset, NOW_MS, 1, sent.key, sent.value, None, 0, 0, ())
