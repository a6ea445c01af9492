"""What do Kafka and the database say of each partition, read in an order from which "all is done" can be told?"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.coordinator.protocol import ConsumerProtocol
from aiokafka.errors import (
    GroupCoordinatorNotAvailableError,
    GroupLoadInProgressError,
    NotCoordinatorForGroupError,
    for_code,
)

from stream.commands.log_access import partition_counts, reading_log
from stream.commands.topics import connected_admin
from stream.config import Settings
from stream.core.progress import PartitionProgress
from stream.engine.topic_ids import read_topic_ids
from stream.topics import CLICKS, CONVERSIONS, JOURNEYS, hours_group_id
from stream.wire.dead_letters import dead_letter_topic
from tables.sql.database import Database, open_database
from tables.sql.facts import HOURS_GROUP, JOURNEYS_GROUP, list_progress

SOURCES = (CLICKS, CONVERSIONS)  # without prefix
HOURS_SOURCES = (JOURNEYS,)
STABLE = "Stable"
GONE_STATES = frozenset({"", "Dead", "Empty"})
ANSWER_LIMIT_S = 10
_COORDINATOR_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Reading:
    """Who reads what: one engine of the workers."""

    group_id: str
    sources: tuple[str, ...]  # without prefix
    topic_group: str  # of its rows in SQL
    with_dead_letters: bool


def journeys_reading(settings: Settings) -> Reading:
    return Reading(settings.app_id, SOURCES, JOURNEYS_GROUP, with_dead_letters=True)


def hours_reading(settings: Settings) -> Reading:
    return Reading(hours_group_id(settings.app_id), HOURS_SOURCES, HOURS_GROUP, with_dead_letters=False)


@dataclass(frozen=True, slots=True)
class Group:
    """The workers, as Kafka knows them."""

    state: str  # Kafka's own word
    members: int
    owners: Mapping[TopicPartition, str]  # member ids


@dataclass(frozen=True, slots=True)
class Place:
    """Offsets of one source topic in one partition; None: there is none."""

    begin: int
    end: int  # of what is committed: the last stable offset
    committed: int | None  # in Kafka, by the group
    stored: int | None  # in SQL

    @property
    def uncommitted(self) -> int:
        """Offsets between what the group has committed and the end."""
        return max(0, self.end - max(self.begin, self.committed or 0))

    @property
    def unstored(self) -> int:
        """Offsets between what SQL holds and the end."""
        return max(0, self.end - max(self.begin, self.stored or 0))

    @property
    def lag(self) -> int:
        return max(self.uncommitted, self.unstored)


@dataclass(frozen=True, slots=True)
class PartitionStanding:
    """One partition of the source topics."""

    partition: int
    places: Mapping[str, Place]  # by topic without prefix; empty: only the database knows this partition
    member: str  # of the group; '': none has it
    row: PartitionProgress | None

    @property
    def lag(self) -> int:
        return sum(place.lag for place in self.places.values())

    @property
    def has_records(self) -> bool:
        return any(place.end > place.begin for place in self.places.values())

    @property
    def owner(self) -> str:
        """Of the moment: a worker that left still stands in the row. '': none."""
        return (self.row.owner if self.row and self.row.owner else self.member) if self.member else ""

    @property
    def watermark(self) -> int | None:
        return self.row.watermark or None if self.row else None


@dataclass(frozen=True, slots=True)
class Standing:
    """All that was read at one time, the log's ends last."""

    group: Group
    partitions: Sequence[PartitionStanding]
    topic_ids: Mapping[str, str]  # by topic without prefix
    dead_letters: Mapping[str, int]  # by source topic without prefix
    sources: tuple[str, ...] = SOURCES  # without prefix

    @property
    def lag(self) -> int:
        return sum(each.lag for each in self.partitions)

    @property
    def watermark(self) -> int | None:
        """The least of the partitions that have one."""
        return min((each.watermark for each in self.partitions if each.watermark), default=None)


async def read_group(admin: AIOKafkaAdminClient, app_id: str) -> Group:
    """Waits a while for a coordinator: a new broker has none before it is first asked. Raises KafkaError."""
    async with asyncio.timeout(ANSWER_LIMIT_S):
        while True:
            try:
                (answer,) = await admin.describe_consumer_groups([app_id])
                error_code, _, state, _, _, members, *_ = answer.groups[0]
                if error_code:
                    raise for_code(error_code)(f'group "{app_id}"')
                return Group(state, len(members), _owners(members))
            except (GroupCoordinatorNotAvailableError, GroupLoadInProgressError, NotCoordinatorForGroupError):
                await asyncio.sleep(_COORDINATOR_PAUSE_S)


def _owners(members: Sequence[Any]) -> dict[TopicPartition, str]:
    owners: dict[TopicPartition, str] = {}
    for member_id, _, _, _, assignment, *_ in members:
        if assignment:  # none yet while the group rebalances
            owners |= dict.fromkeys(ConsumerProtocol.ASSIGNMENT.decode(assignment).partitions(), member_id)
    return owners


class StandingReader:
    """Connected to everything; reads as often as it is asked to."""

    def __init__(
        self,
        settings: Settings,
        counts: Mapping[str, int],
        *,
        reading: Reading,
        admin: AIOKafkaAdminClient,
        consumer: AIOKafkaConsumer,
        database: Database,
    ) -> None:
        self._reading = reading
        self._admin = admin
        self._consumer = consumer
        self._database = database
        self._topics = {name: settings.topic_prefix + name for name in reading.sources}
        self._sources = {
            name: [TopicPartition(topic, number) for number in range(counts[topic])]
            for name, topic in self._topics.items()
        }
        self._letters = {
            name: [TopicPartition(letters, number) for number in range(counts[letters])]
            for name, letters in ((name, dead_letter_topic(topic)) for name, topic in self._topics.items())
            if reading.with_dead_letters
        }

    async def read(self) -> Standing:
        """Raises KafkaError, or Unavailable for the database."""
        group = await read_group(self._admin, self._reading.group_id)
        sources = [tp for tps in self._sources.values() for tp in tps]
        found = await self._admin.list_consumer_group_offsets(self._reading.group_id, partitions=sources)
        committed = {tp: place.offset for tp, place in found.items() if place.offset >= 0}
        stored = await list_progress(self._database, topic_group=self._reading.topic_group)
        rows = {row.partition: row for row in stored}
        # The ends come last. Whatever a chunk sends on to another partition is in the log before its offsets are
        # committed: if all offsets read above reach all ends read here, nothing is under way any more.
        everything = sources + [tp for tps in self._letters.values() for tp in tps]
        begins = await self._consumer.beginning_offsets(everything)
        ends = await self._consumer.end_offsets(everything)
        topic_ids = await read_topic_ids(self._consumer._client, list(self._topics.values()))

        def place(tp: TopicPartition) -> Place:
            row = rows.get(tp.partition)
            next_offset = row.next_offsets.get(tp.topic) if row else None
            return Place(begins[tp], ends[tp], committed.get(tp), next_offset)

        def partition(number: int) -> PartitionStanding:
            tps = {name: tps[number] for name, tps in self._sources.items() if number < len(tps)}
            members = [group.owners.get(tp, "") for tp in tps.values()]
            member = members[0] if members and all(members) else ""
            return PartitionStanding(number, {name: place(tp) for name, tp in tps.items()}, member, rows.get(number))

        left_over = {number for number, row in rows.items() if row.partition_count}
        numbers = left_over.union(*(range(len(tps)) for tps in self._sources.values()))
        return Standing(
            group=group,
            partitions=[partition(number) for number in sorted(numbers)],
            topic_ids={name: topic_ids.get(topic, "") for name, topic in self._topics.items()},
            dead_letters={name: sum(ends[tp] - begins[tp] for tp in tps) for name, tps in self._letters.items()},
            sources=self._reading.sources,
        )


@contextlib.asynccontextmanager
async def reading_standing(settings: Settings, reading: Reading | None = None) -> AsyncIterator[StandingReader]:
    """Of the journeys, unless told otherwise.

    Raises Unavailable if broker or database do not answer, at once or later; StartRefused if a topic is missing.
    """
    reading = reading or journeys_reading(settings)
    topics = [settings.topic_prefix + name for name in reading.sources]
    letters = map(dead_letter_topic, topics) if reading.with_dead_letters else ()
    counts = await partition_counts(settings, [*topics, *letters])
    async with contextlib.AsyncExitStack() as stack:
        database = open_database(settings.database_url)
        stack.push_async_callback(database.close)
        admin = await stack.enter_async_context(connected_admin(settings))
        consumer = await stack.enter_async_context(reading_log(settings))
        yield StandingReader(settings, counts, reading=reading, admin=admin, consumer=consumer, database=database)


async def read_standing(settings: Settings, reading: Reading | None = None) -> Standing:
    """Once. Raises what `reading_standing` raises."""
    async with reading_standing(settings, reading) as reader:
        return await reader.read()
