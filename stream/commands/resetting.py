"""How does everything begin at the log's start again? Facts and journeys stay: reading them again changes nothing.

The topics' ids and partition count are taken over by the worker that starts next: the reset only forgets the old ones.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.admin import DeleteGroupsRequest
from aiokafka.structs import TopicPartition

from stream.agents.topic_names import planned_counts, planned_topics, topic_names
from stream.clock import unix_now
from stream.commands.log_access import broker_errors, first_left, reading_log, writing
from stream.commands.republishing import publish_results_again
from stream.commands.standing import GONE_STATES, HOURS_SOURCES, SOURCES, read_group
from stream.commands.topics import apply_topics, connected_admin
from stream.config import Settings
from stream.core.errors import StartRefused, StreamError
from stream.core.progress import PartitionProgress
from stream.engine.topic_ids import read_topic_ids
from stream.topics import JOURNEYS_STATE, changelog_name, hours_group_id
from stream.wire.outgoing import OutgoingRecord
from tables.sql.database import Database, open_database
from tables.sql.facts import HOURS_GROUP, JOURNEYS_GROUP, list_progress, reset_progress
from tables.sql.replay_runs import forget_places

TOPIC_GONE_LIMIT_S = 30
LEAVE_LIMIT_S = 13  # sessions end after 10
_PAUSE_S = 0.1
_NO_SUCH_GROUP = 69
_GROUP_HAS_MEMBERS = 68


class WorkersAlive(StreamError):
    """A reset would pull the ground from under them."""


async def check_reset(settings: Settings, say: Callable[[str], None]) -> None:
    """Raises WorkersAlive, or StartRefused if a topic is missing or its partitions are not as they are planned."""
    async with connected_admin(settings) as admin:
        counts = await _partition_counts(admin)
        _check_topics(settings, counts)
        await _wait_for_nobody(settings, admin, say)


async def _wait_for_nobody(settings: Settings, admin: AIOKafkaAdminClient, say: Callable[[str], None]) -> None:
    """Kafka counts a worker that ended without a word, as one that refused to start does, until its session ends."""
    now = asyncio.get_running_loop().time
    deadline = now() + LEAVE_LIMIT_S
    is_waiting = False
    while True:
        alive = {}
        for group_id in _group_ids(settings):
            group = await read_group(admin, group_id)
            if group.members or group.state not in GONE_STATES:
                alive[group_id] = group.members
        if not alive:
            return
        if now() >= deadline:
            raise _workers_alive(*next(iter(alive.items())))
        if not is_waiting:
            say(f"the workers' groups still have members; waiting {LEAVE_LIMIT_S} s at most for them to leave")
            is_waiting = True
        await asyncio.sleep(_PAUSE_S)


def _group_ids(settings: Settings) -> Sequence[str]:
    return settings.app_id, hours_group_id(settings.app_id)


def _check_topics(settings: Settings, counts: Mapping[str, int]) -> None:
    changelog = changelog_name(settings.app_id, JOURNEYS_STATE)
    for topic in planned_topics(settings):
        found = counts.get(topic.name)
        if found is None and topic.name.removeprefix(settings.topic_prefix) in {*SOURCES, *HOURS_SOURCES}:
            raise StartRefused(
                f'topic "{topic.name}" is missing', hint='"python -m stream topics apply" creates what is missing'
            )
        if found not in (None, topic.partitions) and topic.name != changelog:
            raise StartRefused(
                f'topic "{topic.name}" has {found} partitions, expected {topic.partitions}',
                hint=f"set TOUCHSTREAM_PARTITIONS={found} for all commands and workers",
            )


async def reset_to_log_start(settings: Settings) -> None:
    """Call `check_reset` first. Broken off in between it may be repeated, and until then no worker starts.

    Offsets go last: while they are there, a worker refuses to start on a database that knows of none. Hours are all
    published once more: what the topics hold of them may be newer than a database that was restored.
    """
    async with connected_admin(settings) as admin:
        await _make_changelog_anew(settings, admin)
        database = open_database(settings.database_url)
        try:
            lost = await _lost_history(settings, await list_progress(database))
            await reset_progress(database, now=int(unix_now()), topic_group=JOURNEYS_GROUP, history_from=lost)
            await reset_progress(database, now=int(unix_now()), topic_group=HOURS_GROUP)
            async with database.transaction() as connection:
                await forget_places(connection)
            await _begin_epochs(settings, database)
            await publish_results_again(settings, database)
        finally:
            await database.close()
        for group_id in _group_ids(settings):
            await _delete_group(group_id, admin)


async def _lost_history(settings: Settings, rows: Sequence[PartitionProgress]) -> int:
    """From when on the log has what SQL had not read before records were removed; 0: it had read all of those.

    Only here are log and offsets side by side: the reset forgets the offsets, and nobody could tell afterwards.
    """
    names = topic_names(settings)
    topics = (names.clicks, names.conversions)
    async with reading_log(settings) as consumer:
        with broker_errors(settings):
            topic_ids = await read_topic_ids(consumer._client, list(topics))
            read_to = {
                TopicPartition(topic, row.partition): _read_to(row, topic, topic_ids[topic])
                for row in rows
                if row.partition < names.partitions and (row.partition_count or not row.epoch)  # else reset before
                for topic in topics
            }
            begins = await consumer.beginning_offsets(list(read_to)) if read_to else {}
            lost = [place for place, offset in read_to.items() if begins[place] > offset]
            return max((await first_left(consumer, lost)).values(), default=0)


def _read_to(row: PartitionProgress, topic: str, topic_id: str) -> int:
    """0 also for a topic that was made anew: of its records none was read."""
    return row.next_offsets.get(topic, 0) if row.topic_ids.get(topic) in (None, "", topic_id) else 0


async def _make_changelog_anew(settings: Settings, admin: AIOKafkaAdminClient) -> None:
    """The broker deletes no single records of a compacted topic, and after a change of counts it has the old one."""
    changelog = changelog_name(settings.app_id, JOURNEYS_STATE)
    answer = await admin.delete_topics([changelog])
    for name, code in answer.topic_error_codes:
        if code not in {0, UnknownTopicOrPartitionError.errno}:
            raise StreamError(f'topic "{name}" could not be deleted: {for_code(code).__name__}')
    async with asyncio.timeout(TOPIC_GONE_LIMIT_S):
        counts = await _partition_counts(admin)
        while changelog in counts:
            await asyncio.sleep(_PAUSE_S)
            counts = await _partition_counts(admin)
    await apply_topics(settings)


async def _begin_epochs(settings: Settings, database: Database) -> None:
    """A worker that was stopped all this time may still write into the new changelog: recovery must not trust it."""
    counts = planned_counts(settings)
    changelog = changelog_name(settings.app_id, JOURNEYS_STATE)
    rows = [row for row in await list_progress(database) if row.partition < counts[changelog]]
    async with writing(settings, [changelog]) as writer:
        await writer.send(list(_epoch_records(changelog, rows)))


def _epoch_records(changelog: str, rows: list[PartitionProgress]) -> Iterator[OutgoingRecord]:
    for row in rows:
        key, value = epoch_record(row.partition, row.epoch)
        yield OutgoingRecord(changelog, row.partition, key, value, ())


def epoch_record(partition: int, epoch: int) -> tuple[bytes, bytes]:
    """What `stream.engine.changelog` writes when an epoch begins; a test holds the two together.

    Written once more here, because a command that loads Faust takes a second longer.
    """
    return b"\0epoch:%d:%d" % (partition, epoch), epoch.to_bytes(8, "big")


async def _delete_group(group_id: str, admin: AIOKafkaAdminClient) -> None:
    coordinator = await admin.find_coordinator(group_id)
    answer = await admin._client.send(coordinator, DeleteGroupsRequest([group_id]))
    for name, code in answer.results:
        if code == _GROUP_HAS_MEMBERS:
            raise _workers_alive(group_id, 1)
        if code not in {0, _NO_SUCH_GROUP}:
            raise StreamError(f'offsets of group "{name}" could not be deleted: {for_code(code).__name__}')


async def _partition_counts(admin: AIOKafkaAdminClient) -> Mapping[str, int]:
    # Asks for all topics: asking for one by name may create it.
    return {each["topic"]: len(each["partitions"]) for each in await admin.describe_topics()}


def _workers_alive(group_id: str, members: int) -> WorkersAlive:
    return WorkersAlive(
        f'workers of group "{group_id}" are alive: {members}',
        hint="stop all of them, and whatever starts them again, then repeat this",
    )
