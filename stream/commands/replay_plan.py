"""What would a replay read, and may it? From Kafka's offsets and from what SQL says of each partition."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from aiokafka import AIOKafkaConsumer, TopicPartition

from stream.agents.outputs import TopicNames
from stream.agents.topic_names import topic_names
from stream.commands.log_access import broker_errors, check_partitions, first_left, reading_log
from stream.commands.showing import length, utc
from stream.config import Settings
from stream.core.errors import StartRefused
from stream.core.progress import PartitionProgress
from stream.engine.topic_ids import read_topic_ids
from stream.replay.log_range import LogRange
from stream.topics import DAY_MS, EARLY_DAYS

DAY_SECONDS = DAY_MS // 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What was asked for. Both ends of [start, end] are included; unix seconds."""

    users: tuple[int, ...]  # ascending; none: all
    start: int
    end: int
    batch_size: int = 500
    workers: int = 1
    is_incomplete_allowed: bool = False
    is_journeys_only: bool = False  # of the facts that SQL has; nothing of the log is read

    def arguments(self, plan: "Plan") -> dict[str, object]:
        """By which a run that was broken off is known again. Its places are offsets, of no use in another log."""
        arguments: dict[str, object] = {
            "partitions": len(plan.ranges),
            "topic_ids": dict(plan.topic_ids),
            "users": list(self.users),
            "start": self.start,
            "end": self.end,
            "allow_incomplete": self.is_incomplete_allowed,
        }
        return {**arguments, "journeys_only": True} if self.is_journeys_only else arguments

    def of(self, arguments: Mapping[str, object]) -> "Wish":
        """The same, but for what `arguments` of another run say."""
        users, start, end = arguments["users"], arguments["start"], arguments["end"]
        assert isinstance(users, list)
        assert isinstance(start, int)
        assert isinstance(end, int)
        return replace(
            self,
            users=tuple(users),
            start=start,
            end=end,
            is_incomplete_allowed=bool(arguments["allow_incomplete"]),
            is_journeys_only=bool(arguments.get("journeys_only")),
        )


@dataclass(frozen=True, slots=True)
class Plan:
    """Of each partition, what is to be read."""

    ranges: Sequence[LogRange]
    # By partition whose log lacks records that were there:
    begins_at: Mapping[int, int]  # from when on it has them all
    begins: Mapping[int, Mapping[str, int]]  # first offset that is left, by topic
    topic_ids: Mapping[str, str] = field(default_factory=dict)

    @property
    def records(self) -> int:
        return sum(part.records for part in self.ranges)


async def make_plan(settings: Settings, wish: Wish, names: TopicNames) -> Plan:
    """Raises Misconfigured if topics and settings do not fit, Unavailable if there is no broker."""
    await check_partitions(settings, [names.clicks, names.conversions, names.journeys])
    topics = (names.clicks, names.conversions)
    places = [TopicPartition(topic, number) for topic in topics for number in range(names.partitions)]
    async with reading_log(settings) as consumer:
        with broker_errors(settings):
            begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            topic_ids = await read_topic_ids(consumer._client, list(topics))
            starts = await _starts(consumer, settings, wish, places)
            left = await first_left(consumer, [place for place in places if begins[place] > 0])
    ranges = []
    for number in range(names.partitions):
        own = {place.topic: place for place in places if place.partition == number}
        until = {topic: ends[place] for topic, place in own.items()}
        since = {topic: starts.get(place, ends[place]) for topic, place in own.items()}
        if wish.is_journeys_only:
            since = until
        ranges.append(LogRange(number, since, until))
    begins_at: dict[int, int] = {}
    for place, time in left.items():
        begins_at[place.partition] = max(time, begins_at.get(place.partition, 0))
    left_from = {number: {topic: begins[TopicPartition(topic, number)] for topic in topics} for number in begins_at}
    return Plan(ranges, begins_at, left_from, topic_ids)


async def older_ranges(settings: Settings, wish: Wish, plan: Plan, *, since: int) -> Sequence[LogRange]:
    """What may hold an event of `since` or later, unix seconds, and was not read by the plan.

    That is what lies before it; where it was read for some accounts alone, all of it is read again.
    """
    start = min(wish.start, since + settings.lookback_days * DAY_SECONDS)
    earlier = await make_plan(settings, replace(wish, start=start), topic_names(settings))
    starts = {part.partition: part.starts for part in earlier.ranges}
    return [
        LogRange(part.partition, starts[part.partition], part.ends if wish.users else part.starts)
        for part in plan.ranges
    ]


async def _starts(
    consumer: AIOKafkaConsumer, settings: Settings, wish: Wish, places: Sequence[TopicPartition]
) -> Mapping[TopicPartition, int]:
    """First offsets that may hold an event of the lookback: one may be stored 31 days before its time."""
    early = max(0, wish.start - (settings.lookback_days + EARLY_DAYS) * DAY_SECONDS)
    found = await consumer.offsets_for_times(dict.fromkeys(places, early * 1000))
    return {place: found[place].offset for place in places if found.get(place)}


def gaps(plan: Plan, rows: Mapping[int, PartitionProgress]) -> dict[int, int]:
    """By partition with records that were removed before anybody stored them: from when on the log has them all."""
    return {
        partition: begins_at
        for partition, begins_at in sorted(plan.begins_at.items())
        if not _has_stored(rows.get(partition), plan.begins[partition])
    }


def _has_stored(row: PartitionProgress | None, begins: Mapping[str, int]) -> bool:
    """All that the log lacks, from `history_from` on. The reset of a partition raises that where something was lost."""
    if row is None or not row.epoch:
        return False
    if not row.partition_count:
        return True
    return all(row.next_offsets.get(topic, 0) >= offset for topic, offset in begins.items())


def check_reach(settings: Settings, wish: Wish, plan: Plan, rows: Mapping[int, PartitionProgress]) -> None:
    """Raises StartRefused, naming the gap, where what is read does not reach back to the lookback of the range."""
    if wish.is_incomplete_allowed:
        return
    needed = max(0, wish.start - settings.lookback_days * DAY_SECONDS)
    source = "the clicks in SQL begin" if wish.is_journeys_only else "the log begins"
    instead = "without --journeys-only the log is read too; " if wish.is_journeys_only else ""
    for partition, whole_from in sorted(_whole_from(wish, plan, rows).items()):
        if whole_from > needed:
            raise StartRefused(
                f"partition {partition}: {source} at {utc(whole_from)}, but journeys of this range may need"
                f" clicks from {utc(needed)} on: {length(whole_from - needed)} are missing",
                hint=f"{instead}--allow-incomplete computes what is left and flags the journeys;"
                " --start later needs less",
            )


def _whole_from(wish: Wish, plan: Plan, rows: Mapping[int, PartitionProgress]) -> Mapping[int, int]:
    """By partition that may lack events: from when on it has them all, in SQL or in log and SQL together."""
    never_stored = gaps(plan, rows)
    if wish.is_journeys_only:
        stored_from = {partition: row.history_from for partition, row in rows.items()}
        return {
            partition: max(stored_from.get(partition, 0), never_stored.get(partition, 0))
            for partition in stored_from.keys() | never_stored
        }
    return {
        partition: begins_at if partition in never_stored else min(begins_at, rows[partition].history_from)
        for partition, begins_at in plan.begins_at.items()
    }


def plan_lines(wish: Wish, plan: Plan, conversions: int) -> Sequence[str]:
    """What --dry-run shows."""
    whose = f"users {', '.join(map(str, wish.users))}" if wish.users else "all users"
    parts = [part for part in plan.ranges if part.records]
    return [
        f"conversions from {utc(wish.start)} to {utc(wish.end)}, both included, of {whose}",
        *(
            f"partition {part.partition}: "
            + ", ".join(f"{topic} {start:,} to {part.ends[topic]:,}" for topic, start in part.starts.items())
            for part in parts
        ),
        f"{plan.records:,} records to read from {len(parts)} partitions, {conversions:,} stored conversions to compute"
        " and those that the records add",
    ]
