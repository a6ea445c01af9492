"""Checks of the broker and of what its log still holds."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiokafka import TopicPartition
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import for_code

from stream.agents.topic_names import planned_counts, planned_topics
from stream.commands.checkup import Check, Finding, Part, Surroundings, error, ok, warning
from stream.commands.log_access import partition_counts, reading_log
from stream.commands.showing import length, utc
from stream.commands.standing import ANSWER_LIMIT_S, SOURCES
from stream.commands.topics import compare_topics, connected_admin
from stream.config import Settings
from stream.core.keys import partition_of
from stream.core.retention import DAY_SECONDS
from stream.wire.dead_letters import dead_letter_topic
from tables.sql.facts import list_progress
from tables.sql.integrity import campaigns_with_facts

_SPARE_DAYS = 7  # beside the lookback: so far back a replay must be able to read


def needed_days(settings: Settings) -> int:
    return settings.lookback_days + _SPARE_DAYS


async def _places(settings: Settings, topics: Sequence[str]) -> list[TopicPartition]:
    """Those that are there: a consumer waits for one that is not, and by asking for its topic may create it.

    Raises StartRefused for a topic that is missing.
    """
    counts = await partition_counts(settings, topics)
    return [TopicPartition(topic, number) for topic in topics for number in range(counts[topic])]


def _source_topics(settings: Settings) -> list[str]:
    return [settings.topic_prefix + name for name in SOURCES]


async def look_at_broker(around: Surroundings) -> Finding:
    async with connected_admin(around.settings) as admin:
        cluster = await admin.describe_cluster()
    return ok(f"Kafka at {around.settings.kafka} answers, brokers: {len(cluster['brokers'])}")


async def look_at_topics(around: Surroundings) -> Finding:
    differences = await compare_topics(around.settings)
    if not differences:
        return ok(f"all {len(planned_topics(around.settings))} topics are as topics.yaml wants them")
    return error(
        f"{len(differences)} differences to topics.yaml",
        '"python -m stream topics apply" creates what is missing; a changed setting goes back with kafka-configs',
        differences,
    )


async def look_at_retention(around: Surroundings) -> Finding:
    settings = around.settings
    least = needed_days(settings) * DAY_SECONDS * 1000
    too_short, bounded = [], []
    for topic, found in (await _retention(settings)).items():
        kept = int(found["retention.ms"])
        if 0 <= kept < least:
            too_short.append(f'retention.ms of topic "{topic}" is {kept}, {least} are needed')
        if int(found["retention.bytes"]) >= 0:
            bounded.append(f'retention.bytes of topic "{topic}" is {found["retention.bytes"]}')
    if too_short:
        remedy = "raise retention.ms to that of topics.yaml with kafka-configs; what is gone does not come back"
        return error(f"the log is kept for less than {needed_days(settings)} days", remedy, too_short)
    if bounded:
        return warning(
            "the log is bounded by size, which may remove records before their time",
            "set retention.bytes to -1, or be sure that the size is never reached",
            bounded,
        )
    return ok(f"clicks and conversions are kept for {needed_days(settings)} days or more")


async def _retention(settings: Settings) -> Mapping[str, Mapping[str, str]]:
    wanted = dict.fromkeys(("retention.ms", "retention.bytes"))
    resources = [ConfigResource(ConfigResourceType.TOPIC, topic, wanted) for topic in _source_topics(settings)]
    found: dict[str, Mapping[str, str]] = {}
    await partition_counts(settings, _source_topics(settings))
    async with connected_admin(settings) as admin:
        for answer in await admin.describe_configs(resources):
            for code, message, _, name, entries in answer.resources:
                if code:
                    raise for_code(code)(message)
                found[name] = {entry[0]: entry[1] for entry in entries}
    return found


@dataclass(frozen=True, slots=True)
class _Beginning:
    """A partition of a topic whose first records were removed, and what is left of it."""

    place: TopicPartition
    offset: int
    since: int  # append time of the oldest record that is left, unix seconds; now where none is


async def look_at_log_beginning(around: Surroundings) -> Finding:
    settings, now = around.settings, around.now
    needed = now - needed_days(settings) * DAY_SECONDS
    late = [each for each in await _beginnings(settings, now) if each.since > needed]
    missing = await _missing(around, late, needed) if late else []
    if not missing:
        return ok(f"the log holds what came since {utc(needed)}")
    return error(
        f"{len(missing)} partitions begin later than {needed_days(settings)} days ago, and records were removed",
        "SQL still has what workers had read: see docs/operations.md; else bring it back with import, or go on with"
        ' "replay --allow-incomplete"',
        [
            f'topic "{each.place.topic}", partition {each.place.partition}: begins at {utc(each.since)}'
            f" (offset {each.offset:,}), {length(each.since - needed)} are missing"
            for each in missing
        ],
    )


async def _beginnings(settings: Settings, now: int) -> list[_Beginning]:
    """Of the partitions that have lost records."""
    places = await _places(settings, _source_topics(settings))
    async with reading_log(settings) as consumer, asyncio.timeout(ANSWER_LIMIT_S):
        begins = await consumer.beginning_offsets(places)
        lost = [place for place in places if begins[place] > 0]
        times = await consumer.offsets_for_times(dict.fromkeys(lost, 0)) if lost else {}
    return [
        _Beginning(place, begins[place], found.timestamp // 1000 if (found := times.get(place)) else now)
        for place in lost
    ]


async def _missing(around: Surroundings, late: Sequence[_Beginning], needed: int) -> Sequence[_Beginning]:
    """Without those that only had no traffic: all was read that was removed, and SQL knows nothing of that time."""
    partitions = planned_counts(around.settings)[late[0].place.topic]
    try:
        rows = {row.partition: row for row in await list_progress(around.database)}
        async with around.database.reading() as connection:
            campaigns = await campaigns_with_facts(connection, needed, max(each.since for each in late))
    except Exception:  # noqa: BLE001 -- without the database, which has its own check, the log alone is looked at
        return late
    busy = {partition_of(user_id, campaign_id, partitions) for user_id, campaign_id in campaigns}

    def was_read(each: _Beginning) -> bool:
        row = rows.get(each.place.partition)
        return row is not None and row.next_offsets.get(each.place.topic, 0) >= each.offset

    return [each for each in late if each.place.partition in busy or not was_read(each)]


async def look_at_dead_letters(around: Surroundings) -> Finding:
    settings, since = around.settings, around.now - DAY_SECONDS
    places = await _places(settings, [dead_letter_topic(topic) for topic in _source_topics(settings)])
    async with reading_log(settings) as consumer, asyncio.timeout(ANSWER_LIMIT_S):
        ends = await consumer.end_offsets(places)
        firsts = await consumer.offsets_for_times(dict.fromkeys(places, since * 1000))
    count = sum(ends[place] - found.offset for place in places if (found := firsts.get(place)))
    if not count:
        return ok("none in the last day")
    return warning(
        f"{count:,} in the last day",
        '"python -m stream dead-letters list" says why; mend the sender, then "dead-letters redrive"',
    )


LOG_CHECKS = (
    Check("broker", "Kafka can be reached", look_at_broker),
    Check("topics", "the topics are those of topics.yaml", look_at_topics, frozenset({Part.BROKER})),
    Check("retention", "Kafka keeps records for a replay", look_at_retention, frozenset({Part.BROKER})),
    Check("log", "the log reaches back far enough for a replay", look_at_log_beginning, frozenset({Part.BROKER})),
    Check("dead letters", "records can be read", look_at_dead_letters, frozenset({Part.BROKER})),
)
